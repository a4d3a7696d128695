"""What flows need besides their steps: the embedded API, Prefect's environment, progress, signals."""
