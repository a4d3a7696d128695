"""Supervised fine-tuning: its rows, its trainer, and what held-out rows say."""
