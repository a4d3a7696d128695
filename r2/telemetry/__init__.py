"""Spans of runs, shards, problems and calls for a collector that the user names; nothing of it runs without one."""
