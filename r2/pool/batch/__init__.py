"""Provider batch endpoints, and the lane that gathers waiting calls into their jobs."""
