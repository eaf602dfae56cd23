"""The language model: encoding texts in ONNX Runtime, the cache of text vectors, export from torch."""
