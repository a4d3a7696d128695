"""Training data from a teacher: candidate plans, their scores, and the search for the cheapest right allocation."""
