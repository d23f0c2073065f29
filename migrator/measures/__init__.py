"""Floor 0: sums over vectors and rankings."""
