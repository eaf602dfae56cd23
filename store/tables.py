"""The six tables: columns that imports read and exports write, identities of rows, bounds of values."""

from dataclasses import dataclass
from typing import Literal

MAX_ID_BYTES = 256
MAX_TEXT_CHARS = 100_000
MAX_WEIGHT = 1e12  # of one row: larger than any count, price or seconds, and sums stay far below infinity
MAX_WHOLE = 2**31 - 1
MAX_VECTOR_LENGTH = 8_192  # of an item
VIEWS = ("H", "T", "S")  # of a person: behaviours, texts, friends

Kind = Literal["id", "text", "word", "number", "whole", "time", "flag", "json", "vector"]

SQL_TYPES: dict[Kind, str] = {
    "id": "VARCHAR",
    "text": "VARCHAR",
    "word": "VARCHAR",
    "number": "DOUBLE",
    "whole": "INTEGER",
    "time": "TIMESTAMP",
    "flag": "BOOLEAN",
    "json": "JSON",
    "vector": "FLOAT[]",
}


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        default: the SQL literal that replaces a missing value.
        since: the schema version that brought it; older exports lack it.
    """

    name: str
    kind: Kind
    required: bool = False
    default: str = "NULL"
    since: int = 1


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        identity: the columns that identify a row; NULL equals NULL.
        order: ORDER BY of rows that are stored and exported.
        numbered: equal rows are allowed and get an occurrence number; it is not exported, because the order
            of the rows implies it.
        merged: rows of one identity are merged (store/imports/impressions.py); of other tables that are not
            numbered, the second one is refused.
        since: the schema version that brought it; older exports lack it.
    """

    name: str
    columns: tuple[Column, ...]
    identity: tuple[str, ...]
    order: str
    numbered: bool = False
    merged: bool = False
    since: int = 1

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns."""
        return tuple(column.name for column in self.columns)

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that are unique in the table: the identity, with the occurrence number."""
        return (*self.identity, "occurrence") if self.numbered else self.identity


_USER = Column("user_id", "id", required=True)
_ITEM = Column("item_id", "id", required=True)
_WEIGHT = Column("weight", "number", default="1")
_TIME = Column("ts", "time")

# Items first: behaviors, texts and impressions are checked against them.
TABLES: tuple[Table, ...] = (
    Table(
        "items",
        (
            _ITEM,
            Column("title", "text"),
            Column("text", "text"),
            Column("kind", "word"),
            Column("attributes", "json", default="'{}'"),
            Column("available", "flag", default="true"),
            Column("updated_at", "time"),
            Column("vector", "vector", since=3),
        ),
        identity=("item_id",),
        order="item_id",
    ),
    Table(
        "behaviors",
        (
            _USER,
            _ITEM,
            Column("action", "word", default="'interact'"),
            _WEIGHT,
            _TIME,
            Column("split", "word"),
        ),
        identity=("user_id", "item_id", "action", "ts"),
        order="user_id, ts NULLS FIRST, item_id, action",
    ),
    Table(
        "texts",
        (
            _USER,
            Column("item_id", "id"),
            Column("text", "text", required=True),
            _TIME,
            Column("vector", "vector"),
            Column("text_model_id", "word"),
        ),
        identity=("user_id", "item_id", "text", "ts"),
        order="user_id, ts NULLS FIRST, item_id NULLS FIRST, text, occurrence",
        numbered=True,
    ),
    Table(
        "social",
        (
            _USER,
            Column("friend_id", "id", required=True),
            Column("relation", "word", default="'friend'"),
            _WEIGHT,
            _TIME,
        ),
        identity=("user_id", "friend_id", "relation"),
        order="user_id, friend_id, relation",
    ),
    Table(
        "impressions",
        (
            _USER,
            _ITEM,
            _TIME,
            Column("position", "whole"),
            Column("query_id", "id"),
            Column("clicked", "flag", default="false"),
        ),
        identity=("user_id", "item_id", "query_id", "ts"),  # ts only where query_id is NULL
        order="user_id, ts NULLS FIRST, item_id, query_id NULLS FIRST",
        merged=True,
        since=3,
    ),
    Table(
        "consents",
        (
            _USER,
            Column("view", "word", required=True),
            Column("use", "flag", default="true"),
            Column("share", "flag", default="true"),
        ),
        identity=("user_id", "view"),
        order="user_id, view",
        since=4,
    ),
)
