"""The user and item towers in closed form.

`spectral` decomposes the histories into an item table, `alignment` maps the views into one space, `tower`
holds the fitted arrays and computes users and items from them in float64, the reference of the graphs that
`onnx` writes. `closed_form` fits one tower, `select` chooses its settings on held-out rows, `mix` joins it
with learned blocks and compresses the sum. `collapse` measures for whom a tower tells no items apart.
"""
