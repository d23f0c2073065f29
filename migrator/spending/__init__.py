"""Floor 1, its top: what every paid step needs: a worker process, leave and money for its requests, a lease kept."""
