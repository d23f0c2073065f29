"""Floor 2: what a migration will meet and cost, before anything is touched."""
