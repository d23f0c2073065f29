"""`python -m migrator` is the same as `migrator`. Floor 4."""

from migrator.cli.app import main

main()
