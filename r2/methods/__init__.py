"""One module per way to answer a problem; all share the signature in `r2/solve.py`."""
