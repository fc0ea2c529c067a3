"""``python -m interp``: the command line."""

from interp.cli.main import main

main()
