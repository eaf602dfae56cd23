"""Nearest-neighbour search: exact scores, FAISS, rows to leave out, graphics cards."""
