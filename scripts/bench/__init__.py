"""triptych bench: ours beside bare gRPC, bare FAISS and bare ONNX Runtime, and what kill -9 leaves."""
