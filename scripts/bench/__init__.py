"""triptych bench: ours beside bare libraries in the same run, and what kill -9 leaves.

`command` holds the subcommands. `serve` measures queries beside `bare_grpc`, `ingest` writes, `text` the
text encoder, `user_state` the derived state beside other stores, `index/` the search beside FAISS and
others, `ratings` the rating head beside surprise; `load` makes the calls and `output` prints and draws.
`faults` kills commands, `server_kills` a server, `home_checks` looks at what is left. `small_home` makes the
home that they work on.
"""

from scripts.bench.command import app

__all__ = [
    "app",
]
