"""The index: from the items and users of an export to vectors, to FAISS, to searches.

`reindex` tells the flow: `building` encodes an export and writes an immutable directory, whose `files` are
memory-mapped by an `index.Index`. `delta` holds the changes put on top of it since; `search` finds rows in
both, `filters` says which rows a filter allows. `users` searches the user index inside the directory;
`publish` makes an index the one that serves; `without_erased` is a reindex that leaves nobody behind who was
erased. Imports point one way: files, filters, delta, search, index, users and publish, building, reindex,
without_erased.
"""
