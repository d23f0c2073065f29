"""Floor 1: our tables, and the only code that reads or writes them."""
