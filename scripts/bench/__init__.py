"""triptych bench: ours beside bare libraries in the same run, and what kill -9 leaves.

`command` holds the subcommands. `serve/` measures queries beside an empty gRPC method, `ingest` writes (by
the calls of `load`), `text` the text encoder, `user_state` the derived state beside other stores, `index/`
the search beside FAISS and others, `engines/` the engines past one machine beside what is embedded,
`ratings` the rating head beside surprise, `imports` a large import, `jobs` work in parts (with a
`ray_cluster`); `output` prints and draws, `ending` ends all processes together. `faults/` kills and swaps,
and looks at what is left. `small_home` and `large_home` make the homes that they work on.
"""

from scripts.bench.command import app

__all__ = [
    "app",
]
