"""Prefect tasks that evaluate: plan, run a method, fit a router, finish."""
