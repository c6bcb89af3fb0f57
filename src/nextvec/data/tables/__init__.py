"""Tables of vectors, one row per chunk: import them as stores, and export stores as parquet files or Lance tables."""
