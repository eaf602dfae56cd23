"""`triptych bench engines`: engines past one machine, beside what is embedded, in the same run.

`setups` starts the servers, `valkey_cluster` and `milvus_server` the engines where none is named, by
`program`. `measure` has callers ask all of them by turns (scripts/bench/serve/callers.py), and `command` is
the command line.
"""
