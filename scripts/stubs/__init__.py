"""Python's stubs of the API: python -m scripts.stubs writes them, as `make proto` does.

`descriptors.py` has protoc describe proto/ and leaves out what only a gateway reads; `__main__.py` writes
the stubs.
"""
