"""Answering one problem: the protocol of waves that every method speaks, and the parts of the r2 method."""
