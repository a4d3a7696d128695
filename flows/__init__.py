"""What runs and in which order: Prefect flows, and the command `r2`."""

import flows.support.environment  # noqa: F401  whatever is imported from here, Prefect's settings are in place first
