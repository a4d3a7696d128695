"""Parquet files, their schema, the call journal and the DuckDB views over them."""
