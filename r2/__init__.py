"""The method: records, prompts, parsing, allocation, the model pool. Imports nothing of storage, tasks or flows."""
