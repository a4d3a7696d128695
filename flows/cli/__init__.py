"""The command `r2`, one module per command."""
