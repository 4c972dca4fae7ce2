"""Rows of text from files: lines, CSV, JSON lines, Parquet, and what the datasets library saved."""
