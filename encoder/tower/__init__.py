"""The user and item towers in closed form: spectral table, alignment, fusion, selection, ONNX graphs."""
