"""Prefect tasks that train, and the processes they start."""
