"""The gRPC API: servicers translate, the retriever answers, status.py maps errors."""
