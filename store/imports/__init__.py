"""Imports: a folder of files in many formats becomes rows of the four tables, in one transaction.

`files` finds the files of each table. `text_files` makes plain copies of text files where DuckDB needs them,
and `readers` stages the files as relations of raw values, with `values` saying how a value of each kind is
taken and `time_columns` what the numbers of a time column mean. `validation` types and checks every row,
`rejects` writes the refused ones down, and `upsert` merges the accepted ones into the store. `run` tells the
whole and reports.
"""
