"""Subject access: the rows that the store holds about a user, and the models that were trained on them."""

from collections.abc import Iterator
from dataclasses import dataclass

from store.artifact import DamagedArtifactError, artifacts, read_manifest
from store.export import Export
from store.home import Home
from store.store import Store

_ROWS = {
    "behaviors": "SELECT to_json(t) FROM data.behaviors AS t WHERE user_id = $1 ORDER BY ts, item_id, action",
    "texts": "SELECT to_json(t) FROM data.texts AS t WHERE user_id = $1 ORDER BY ts, text, occurrence",
    "social": "SELECT to_json(t) FROM data.social AS t WHERE user_id = $1 ORDER BY friend_id, relation",
    "impressions": """
        SELECT to_json(t) FROM data.impressions AS t WHERE user_id = $1 ORDER BY ts, item_id, query_id""",
    "consents": "SELECT to_json(t) FROM data.consents AS t WHERE user_id = $1 ORDER BY view",
    "named_by": "SELECT to_json(t) FROM data.social AS t WHERE friend_id = $1 ORDER BY user_id, relation",
}
USER_TABLES = (*_ROWS, "rejects", "models", "indexes")  # the last three are kept outside the store
_BATCH = 1_000


@dataclass(frozen=True)
class RowPart:
    """A part of the rows about a user, for people to look at.

    Attributes:
        limit: rows of each table, at most; None for all.
        table: the only one, one of USER_TABLES; "" for all of them.
        offset: rows of it that are left out first.
    """

    limit: int | None = None
    table: str = ""
    offset: int = 0


def rows_about(
    store: Store, user_id: str, part: RowPart | None = None
) -> Iterator[tuple[str, list[str], int | None]]:
    """Yield (table, rows as JSON objects, None) of all that the store holds about a user, from one snapshot.

    With a part, each table that has rows comes once, with the number of all of them in the place of None.
    """
    with store.snapshot() as cursor:
        for table, sql in _ROWS.items():
            if part is None:
                cursor.execute(sql, [user_id])
                while rows := cursor.fetchmany(_BATCH):
                    yield table, [str(row[0]) for row in rows], None
            elif part.table in ("", table):
                ((total,),) = cursor.execute(f"SELECT count(*) FROM ({sql})", [user_id]).fetchall()
                if total:
                    cursor.execute(f"{sql} LIMIT $2 OFFSET $3", [user_id, part.limit or total, part.offset])
                    yield table, [str(row[0]) for row in cursor.fetchall()], int(total)


def trained_on(home: Home, user_id: str) -> tuple[list[str], list[str]]:
    """Return the models that learned from rows of a user, and those of which nobody can know.

    A model learned from its own export and from those of the models that it was started from. Unknown is one
    whose manifest is damaged, or one of whose exports is missing or damaged while no other holds the user.
    """
    trained, unknown = [], []
    held: dict[str, bool | None] = {}  # by export; None where it cannot be read
    for model_id in artifacts(home.models):
        try:
            manifest = read_manifest(home.models / model_id)
        except DamagedArtifactError:
            unknown.append(model_id)
            continue
        earlier = (one["export_id"] for one in manifest.get("started_from", ()))
        exports = [manifest["export_id"], *earlier]
        for export_id in exports:
            if export_id not in held:
                held[export_id] = _holds(home, export_id, user_id)
        if any(held[export_id] for export_id in exports):
            trained.append(model_id)
        elif any(held[export_id] is None for export_id in exports):
            unknown.append(model_id)
    return trained, unknown


def _holds(home: Home, export_id: str, user_id: str) -> bool | None:
    """Return whether an export holds rows of a user; None where it is missing or damaged."""
    try:
        with Export.open(home.exports / export_id, verify=False) as export:
            return export.mentions(user_id)
    except DamagedArtifactError:
        return None
