"""triptych bench index: our search beside bare FAISS, hnswlib and usearch."""
