"""Floor 2: where the old vectors come from: they are made again and compared, and what fits is said with its share."""
