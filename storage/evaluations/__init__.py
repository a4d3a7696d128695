"""Evaluations in the lake: outcomes, summaries, sweeps, and scoring again."""
