"""Building an index from an export.

`items` writes the main part by the item tower and `users` the user index by the user tower, whose vectors
`sample` encodes. `shards` writes the FAISS files of a `factory`; `autotune` builds kinds until one reaches
the ANN recall against the `ground_truth`, and measures its search parameters and filter policy. `assemble`
checks and publishes the directory. Every stage goes through a `build_checkpoint`, so that a killed build goes
on. With workers, `parts` has items and users encoded by them, whose texts they find by `text_vectors`.
`incremental` compares an export with an index, for the cheap reindex and for the server.
`milvus` moves a built index into Milvus, tuned anew.
"""

from indexer.building.assemble import assemble_index, copy_changed, lay_out, unchanged_files
from indexer.building.autotune import fit
from indexer.building.build_checkpoint import open_checkpoint
from indexer.building.factory import AUTO, Choice, choose, empty_faiss, lists_for
from indexer.building.incremental import (
    DELTA_SHARE,
    changes_of,
    difference,
    hashes_array,
    too_many,
    without_bad,
)
from indexer.building.items import ItemTower, build_main, write_rows
from indexer.building.milvus import (
    MilvusRecallError,
    move_to_milvus,
    recall_asked_of,
    users_to_tune_with,
)
from indexer.building.parts import items_in_parts, remove_parts
from indexer.building.sample import QUERIES, sample_users, tuning_queries
from indexer.building.shards import build_shard
from indexer.building.users import (
    ExportedUsers,
    build_users,
    indexes_with,
    put_users,
    row_hashes,
    stored_users,
)

__all__ = [
    "AUTO",
    "DELTA_SHARE",
    "QUERIES",
    "Choice",
    "ExportedUsers",
    "ItemTower",
    "MilvusRecallError",
    "assemble_index",
    "build_main",
    "build_shard",
    "build_users",
    "changes_of",
    "choose",
    "copy_changed",
    "difference",
    "empty_faiss",
    "fit",
    "hashes_array",
    "indexes_with",
    "items_in_parts",
    "lay_out",
    "lists_for",
    "move_to_milvus",
    "open_checkpoint",
    "put_users",
    "recall_asked_of",
    "remove_parts",
    "row_hashes",
    "sample_users",
    "stored_users",
    "too_many",
    "tuning_queries",
    "unchanged_files",
    "users_to_tune_with",
    "without_bad",
    "write_rows",
]
