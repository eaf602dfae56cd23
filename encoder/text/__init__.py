"""The language model that turns texts into unit vectors, and the cache of these vectors.

`source` fetches a sentence-transformers model, `export` writes and checks it as ONNX (the torch side of
that is `graph`), `encoder` runs the exported model without torch, and `cache` keeps every vector on disk,
so that no text is encoded twice. `samples` draws texts from an export; `agreement` compares two models.
`tuning` trains a model before its export.
"""
