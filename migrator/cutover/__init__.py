"""Floor 2: the attended steps: expand, the swap, the way back, and cleaning up."""
