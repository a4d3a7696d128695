"""One call to one model: request, attempts, settlement, and what the client shows of itself."""
