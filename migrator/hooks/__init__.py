"""Floor 2: telling hooks, by HTTP or by a command; each way in a file of its own."""
