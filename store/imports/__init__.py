"""Imports: files of a folder read as relations, validated row by row, upserted in one transaction."""
