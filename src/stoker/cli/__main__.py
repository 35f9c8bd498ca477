"""`python -m stoker.cli` is `stoker`."""

from stoker.cli.main import main

main()
