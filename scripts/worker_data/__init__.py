"""A data set as files, which the workers of `triptych tune` and `triptych evaluate` read."""

from scripts.worker_data.files import read_dataset, read_matrix, save_dataset, save_matrix

__all__ = ["read_dataset", "read_matrix", "save_dataset", "save_matrix"]
