"""What several machines agree on through one PostgreSQL: its address, the connection, the schema."""
