"""Items of an export to vectors, to FAISS, to a published index."""
