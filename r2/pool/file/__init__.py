"""The pool file: its TOML form, what is derived from it, and recordings that stand in for it."""
