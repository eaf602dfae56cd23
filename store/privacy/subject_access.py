"""Subject access: the rows that the store holds about a user, and the models that were trained on them."""

from collections.abc import Iterator

from store.artifact import DamagedArtifactError, artifacts, read_manifest
from store.export import Export
from store.home import Home
from store.store import Store

_ROWS = {
    "behaviors": "SELECT to_json(t) FROM data.behaviors AS t WHERE user_id = $1 ORDER BY ts, item_id, action",
    "texts": "SELECT to_json(t) FROM data.texts AS t WHERE user_id = $1 ORDER BY ts, text, occurrence",
    "social": "SELECT to_json(t) FROM data.social AS t WHERE user_id = $1 ORDER BY friend_id, relation",
    "named_by": "SELECT to_json(t) FROM data.social AS t WHERE friend_id = $1 ORDER BY user_id, relation",
}
_BATCH = 1_000


def rows_about(store: Store, user_id: str) -> Iterator[tuple[str, list[str]]]:
    """Yield (table, rows as JSON objects) of all that the store holds about a user, from one snapshot."""
    with store.snapshot() as cursor:
        for table, sql in _ROWS.items():
            cursor.execute(sql, [user_id])
            while rows := cursor.fetchmany(_BATCH):
                yield table, [str(row[0]) for row in rows]


def trained_on(home: Home, user_id: str) -> tuple[list[str], list[str]]:
    """Return the models whose export holds rows of a user, and those whose export is missing or damaged."""
    trained, unknown = [], []
    for model_id in artifacts(home.models):
        try:
            manifest = read_manifest(home.models / model_id)
            with Export.open(home.exports / manifest["export_id"], verify=False) as export:
                if export.mentions(user_id):
                    trained.append(model_id)
        except DamagedArtifactError:
            unknown.append(model_id)
    return trained, unknown
