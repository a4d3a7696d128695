"""Prefect tasks that answer: plan a file, answer a shard, finish a run."""
