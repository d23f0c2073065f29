"""`python -m migrator` is the same as `migrator`."""

from migrator.cli.app import main

main()
