"""The derived state: what a query needs of each user, packed in LMDB beside the DuckDB store.

`state` reads the records of users and writes rows in transactions; `packing` defines the bytes of a row, and
`vocabulary` the codes that stand for item ids, actions and relations in them. `environment` opens the LMDB
files and discards those that cannot be trusted. `rebuild` derives rows from the store again: of all users
after an import, of the touched ones after a crash, of one where a record is damaged. The state names the
commit of the store that it reflects.
"""
