"""One server of several processes: `triptych serve --processes N`.

`parent.py` starts the others, and replaces those that die; it does nothing else. The owner (`child.py`,
`server.app`) has the store and the writer, and is reached by a unix socket alone. Query processes
(`query_process.py`) listen on the server's port, one gRPC server each, and read what the owner writes: model
and index files and two LMDB files. `replica.py` keeps their snapshots in step with the change log,
`owner_link.py` is their connection to the owner, and `forwarding.py` passes writes and admin calls on to it.

A read replica (`serve --read-only`, `read_replica.py`) is query processes alone, whose owner runs on another
machine: they take index and models from the home (`artifacts.py`), the state of users from a cluster
(`store.valkey`), and rows of the store from the owner where that is known (`remote_owner.py`).
`remote_snapshots.py` follows what the owner publishes.
"""

from server.processes.parent import serve_with_processes

__all__ = ["serve_with_processes"]
