"""Floor 2: the gates before cutover."""
