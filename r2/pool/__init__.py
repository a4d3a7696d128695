"""The model pool: its file, its prices and limits, and everything that talks to an endpoint. Knows nothing of Prefect
or tables."""
