"""Set consents: in the derived state, by which queries go, and in the store."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa

from store.state import Consents, StateDraft
from store.tables import VIEWS
from store.writes.request import ConsentRow, Rejected, WriteResult, refusal_of_consent

_UPDATE = """
    UPDATE data.consents AS old SET use = new.use, share = new.share FROM new_rows AS new
    WHERE old.user_id = new.user_id AND old.view = new.view"""
_INSERT = """
    INSERT INTO data.consents BY NAME SELECT * FROM new_rows AS new WHERE NOT EXISTS (
        FROM data.consents AS old WHERE old.user_id = new.user_id AND old.view = new.view)"""


@dataclass
class PendingConsents:
    """The consents that a group of requests changes, as they will be, by user."""

    changed: dict[str, Consents] = field(default_factory=dict)

    def set(self, draft: StateDraft, rows: Iterable[ConsentRow]) -> WriteResult:
        """Set the consents of one request; of several to one view of a user, the last one counts.

        Where all was allowed before, a consent counts as inserted, else as updated or unchanged.
        """
        rejected: list[Rejected] = []
        counts = Counter[str]()
        for position, row in enumerate(rows):
            reason = refusal_of_consent(row)
            if reason is not None:
                rejected.append(Rejected(position, reason))
                continue
            old = Consents.unpack(draft.get("consents", row.user_id))
            new = old.changed(row.view, row.use, row.share)
            known = not _allows_all(old, row.view)
            counts["unchanged" if new == old else "updated" if known else "inserted"] += 1
            if new != old:
                draft.put("consents", row.user_id, new.pack())
                self.changed[row.user_id] = new
        return WriteResult(counts["inserted"], counts["updated"], counts["unchanged"], tuple(rejected))

    def flush(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Write all of them to the store."""
        if not self.changed:
            return
        rows = [
            (user_id, view, view in consents.used, view in consents.shared)
            for user_id, consents in sorted(self.changed.items())
            for view in VIEWS
        ]
        columns = zip(("user_id", "view", "use", "share"), zip(*rows, strict=True), strict=True)
        cursor.register("new_rows", pa.table({name: pa.array(column) for name, column in columns}))
        cursor.execute(_UPDATE)
        cursor.execute(_INSERT)
        cursor.unregister("new_rows")


def _allows_all(consents: Consents, view: str) -> bool:
    """Return whether a view may be used and shared."""
    return view in consents.used and view in consents.shared
