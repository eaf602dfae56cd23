"""Building an index: item vectors, FAISS shards, tuned search parameters, checkpoints, assembly."""
