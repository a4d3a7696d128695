"""Retryable units of work for Prefect: paths in, paths out."""
