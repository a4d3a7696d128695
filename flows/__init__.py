"""What runs and in which order: Prefect flows, and the command `r2`."""

import flows.support.environment
import flows.support.own_packages  # noqa: F401  and `tasks`, `storage` and `r2` are ours
