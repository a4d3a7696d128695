"""One module per benchmark: its generator or loader, its prompt wording, its check."""
