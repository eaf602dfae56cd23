"""Building an index from an export.

`items` writes the main part by the item tower and `users` the user index by the user tower, whose vectors
`sample` encodes. `shards` writes the FAISS files of a `factory`; `autotune` builds kinds until one reaches
the ANN recall against the `ground_truth`, and measures its search parameters and filter policy. `assemble`
checks and publishes the directory. Every stage goes through a `build_checkpoint`, so that a killed build goes
on. `incremental` compares an export with an index, for the cheap reindex and for the server.
"""
