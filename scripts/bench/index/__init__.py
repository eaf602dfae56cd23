"""triptych bench index: our search beside bare FAISS, other libraries and engines.

`compare` is the whole run. `synthetic` draws vectors and builds indexes over them, `searches` holds the
searches that are compared, `bare` the other libraries, `engines` Qdrant's engine and LanceDB, `timing`
measures them by turns, `sweeps` varies the search parameters and `filtered` the filters.
"""

from scripts.bench.index.compare import IndexOptions, measure_index
from scripts.bench.index.filtered import SHARES
from scripts.bench.index.sweeps import plot_curves

__all__ = [
    "SHARES",
    "IndexOptions",
    "measure_index",
    "plot_curves",
]
