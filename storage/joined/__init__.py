"""A run that several machines join: who has which shard, and what its calls have paid for, in one PostgreSQL."""
