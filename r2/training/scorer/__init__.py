"""Training the scorer (r2/answering/scorer.py): trials, fit, group-relative fine-tuning."""
