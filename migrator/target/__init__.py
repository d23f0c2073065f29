"""Floor 1: what we know of and do to the operator's table."""
