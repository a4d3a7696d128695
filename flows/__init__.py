"""What runs and in which order: Prefect flows, and the command `r2`."""
