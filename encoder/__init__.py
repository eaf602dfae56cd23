"""From an export to vectors: the raw views of users, the towers that encode them, and their training.

`dataset` reads an export into arrays, `views` makes the raw views H, T and S of users from them. `tower`
fits the user and item towers in closed form and writes them as ONNX graphs, `learned` trains blocks of the
tower with torch, `fit` chooses between and mixes the two, and `train` publishes a model directory.
`runtime` loads such a directory and encodes with ONNX Runtime alone: serving and indexing import it, never
torch. `heads` are small task models on the finished vectors; `text` holds the language model and the cache
of its vectors. What trains with torch uses `training_loop`.
"""
