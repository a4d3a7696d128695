"""`python -m flows.cli` is the command `r2`."""

from flows.cli import main

main()
