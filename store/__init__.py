"""The home directory and the raw view data: DuckDB, exports, checksummed artifacts. The only SQL."""
