"""Simulated models behind a real HTTP server: what they know, how they fail."""
