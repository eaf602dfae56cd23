"""An index without erased people: which directories hold their vectors, and the index that takes their place.

    python -m indexer.without_erased HOME EXPORT_ID   # prints the id of the new index; CURRENT stays as it is

The server runs this in a process of its own, so that queries do not share Python's lock with it.
"""

import logging
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from encoder.runtime import Model
from encoder.text import TextCache, TextEncoder
from indexer.building import stored_users
from indexer.reindex import IndexSpec, reindex
from store.artifact import artifacts, made_at, read_manifest, read_pointer
from store.export import Export
from store.home import Home
from store.ledger import Erasure, erasures_missing_from, erasures_of, erasures_since


def erased_in(home: Home, index_id: str, ledger: Sequence[Erasure]) -> list[Erasure]:
    """Return the erasures of users whose vectors lie in an index directory.

    Only those that the export of the index did not know are looked for: who came back afterwards is there
    by right.

    Raises:
        DamagedArtifactError, OSError, ValueError: a file is missing or damaged.
    """
    export_id = read_manifest(home.indexes / index_id)["export_id"]
    if export_id in artifacts(home.exports):
        manifest = read_manifest(home.exports / export_id)
        unknown = erasures_missing_from(home.exports / export_id, manifest, ledger)
    else:
        unknown = erasures_since(made_at(export_id), ledger)
    return erasures_of(stored_users(home.indexes / index_id), unknown) if unknown else []


def reindex_without_erased(home: Home, export: Export) -> Path:
    """Build an index of an export like the one that serves, its user index anew; return its directory.

    Raises:
        as `reindex`.
    """
    serving = read_manifest(read_pointer(home.current_index, home.indexes))
    model = Model.load(home.models / serving["model_id"])
    encoder = TextEncoder.load(home.text_models / model.text_model_id)
    spec = IndexSpec(**serving["asked"], card_float16=serving.get("card_float16", False), fresh_users=True)
    with closing(TextCache.open(home.text_cache)) as cache:
        return reindex(home, export, model, encoder, cache, spec)


def main() -> None:
    """Build the index, and print its id."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s reindex: %(message)s", stream=sys.stderr)
    home = Home(Path(sys.argv[1]))
    with Export.open(home.exports / sys.argv[2], verify=False) as export:
        print(reindex_without_erased(home, export).name)


if __name__ == "__main__":
    main()
