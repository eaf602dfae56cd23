"""The derived state: what a query needs of each user, packed in LMDB beside the DuckDB store.

`state` reads the records of users and writes rows in transactions; `packing` defines the bytes of a row, and
`vocabulary` the codes that stand for item ids, actions and relations in them. `environment` opens the LMDB
files and discards those that cannot be trusted. `rebuild` derives rows from the store again: of all users
after an import, of the touched ones after a crash, of one where a record is damaged. The state names the
commit of the store that it reflects. `log` tells readers what each transaction changed.
"""

from store.state.environment import stored_commit_id
from store.state.log import Committed, IndexPart, LogEntry, LogFollower, LogHead
from store.state.packing import (
    EVENT,
    NO_ITEM,
    NO_TIME,
    TEXT,
    Consents,
    DamagedRecordError,
    EventRows,
    Friendships,
    find_row,
    pack_event_identity,
    pack_text_identity,
    with_checksum,
    without_checksum,
)
from store.state.reader import StateContents, StateReader
from store.state.rebuild import bring_up_to_date
from store.state.records import EMPTY_RECORD, StoredVectors, UserRecord, UserRecords, visible_digests
from store.state.state import (
    TABLES,
    DamagedStateError,
    StateDraft,
    StateReading,
    StateReplacedError,
    UserState,
)
from store.state.vocabulary import Vocabulary

__all__ = [
    "EMPTY_RECORD",
    "EVENT",
    "NO_ITEM",
    "NO_TIME",
    "TABLES",
    "TEXT",
    "Committed",
    "Consents",
    "DamagedRecordError",
    "DamagedStateError",
    "EventRows",
    "Friendships",
    "IndexPart",
    "LogEntry",
    "LogFollower",
    "LogHead",
    "StateContents",
    "StateDraft",
    "StateReader",
    "StateReading",
    "StateReplacedError",
    "StoredVectors",
    "UserRecord",
    "UserRecords",
    "UserState",
    "Vocabulary",
    "bring_up_to_date",
    "find_row",
    "pack_event_identity",
    "pack_text_identity",
    "stored_commit_id",
    "visible_digests",
    "with_checksum",
    "without_checksum",
]
