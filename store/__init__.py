"""The home directory and all raw data: the live store (DuckDB), its exports, and checksummed artifacts.

`home` names the paths, `artifact` builds and checks immutable directories, and `store` is the live store,
over `database` (the file, its schema and commits). `export` copies one state of it to Parquet and reads that;
`queries` has what both read alike. `state` derives what a query needs of each user; `imports` and `writes`
bring rows in, from files and from requests; `privacy` erases users. This is the only package with SQL.
Modules at this level import no sub-package; `imports` and `state` import this level alone, `writes` and
`privacy` may use `state`, and `writes` also `imports`.
"""
