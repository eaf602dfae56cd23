"""The user and item towers in closed form.

`spectral` decomposes the histories into an item table, `alignment` maps the views into one space, `fusion`
weighs a user's views by how far each is trusted, `tower` holds the fitted arrays and computes users and
items from them in float64, the reference of the graphs that `onnx` writes. `closed_form` fits one tower,
`select` chooses its settings on held-out rows, `mix` joins it with learned blocks and compresses the sum,
`trust` chooses how far the views are trusted in all blocks together. `held_out` measures what was chosen,
`collapse` for whom a tower tells no items apart.
"""

from encoder.tower.closed_form import Decompositions, fit_closed_form
from encoder.tower.collapse import measure_collapse
from encoder.tower.fusion import MAX_GATE_SLOPE, ChosenTrust, Fusion, Trust
from encoder.tower.spectral import Spectrum, spectrum
from encoder.tower.tower import Block, Tower, dataset_views

__all__ = [
    "MAX_GATE_SLOPE",
    "Block",
    "ChosenTrust",
    "Decompositions",
    "Fusion",
    "Spectrum",
    "Tower",
    "Trust",
    "dataset_views",
    "fit_closed_form",
    "measure_collapse",
    "spectrum",
]
