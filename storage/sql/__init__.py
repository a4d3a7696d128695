"""DuckDB over the lake: views, queries, their output and the data dictionary."""
