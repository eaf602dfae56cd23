"""The server: gRPC in front, what serves in memory, background threads that follow the store.

`app.py` starts and ends a server, `__main__.py` is its command line. A call goes through `wire/`, which
translates messages, to `query/`, which answers queries, or to `live/`, which writes and keeps what serves in
step with the store. `status.py` makes a gRPC status of every error, `cancellation.py` knows whether a caller
still waits, and `supervisor.py` keeps background threads going. `client/` is the Python client.
"""
