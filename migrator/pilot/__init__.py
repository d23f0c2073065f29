"""Floor 2: the pilot: a sample embedded by both models before anything begins, what it cost and what it found."""
