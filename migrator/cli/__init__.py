"""Floor 4: one file per verb of `migrator`."""
