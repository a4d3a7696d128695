"""Prefect tasks that label: ask plans, finish label sets."""
