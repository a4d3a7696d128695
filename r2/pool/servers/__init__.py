"""Model servers that this project starts itself, and the weights they load."""
