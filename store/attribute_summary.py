"""What kinds and attributes the available items have, for people who filter by them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import duckdb

from store.store import Store

MOST_ITEMS = 200_000  # that are looked at; of more a sample
MOST_KINDS, MOST_ATTRIBUTES, MOST_VALUES = 100, 100, 20
MAX_VALUE_BYTES = 200  # of a value that is named

AttributeType = Literal["text", "number", "truth", "time"]
ValueCounts = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class AttributeSummary:
    """The values of one type of an attribute.

    Attributes:
        name: as filters name it, members of objects with dots.
        type: of the values; `time` are texts that begin with a date.
        items: that have such a value.
        values: different ones, about.
        frequent: of texts and truth values, the most frequent ones with the number of items, most first.
        least, greatest: of numbers; `whole` where all are integers.
        edges: of numbers, ends of ranges with about an eighth of the items each, in increasing order.
        first, last: of times, the day.
    """

    name: str
    type: AttributeType
    items: int
    values: int
    frequent: ValueCounts = ()
    least: float | None = None
    greatest: float | None = None
    whole: bool = False
    first: datetime | None = None
    last: datetime | None = None
    edges: tuple[float, ...] = ()


@dataclass(frozen=True)
class CatalogSummary:
    """Kinds and attributes of the available items.

    Attributes:
        items: available ones.
        looked_at: those among them that are counted.
        kinds: with the number of items, most first.
        attributes: those that most items have first.
        more_attributes: whether there are others.
    """

    items: int
    looked_at: int
    kinds: ValueCounts
    attributes: tuple[AttributeSummary, ...]
    more_attributes: bool


# The name of a value as filters have it: $.maker."a b" is maker.a b, and [3] is an element of a list.
_NAME = """replace(regexp_replace(fullkey[3:], '("[^"]*")|\\[\\d+\\]', '\\1', 'g'), '"', '')"""
_VALUES = f"""
    CREATE TEMP TABLE found AS
    SELECT item, {_NAME} AS name, value,
        CASE WHEN type = 'BOOLEAN' THEN 'truth' WHEN type <> 'VARCHAR' THEN 'number'
            WHEN regexp_full_match(value, '\\d{{4}}-\\d\\d-\\d\\d([T ].*)?')
                AND try_cast(value[:10] AS DATE) IS NOT NULL
            THEN 'time' ELSE 'text' END AS type,
        type IN ('UBIGINT', 'BIGINT', 'HUGEINT', 'UHUGEINT') AS whole
    FROM (
        SELECT items.rowid AS item, fullkey, type, atom ->> '$' AS value
        FROM picked AS items, json_tree(items.attributes) WHERE atom IS NOT NULL)"""
_PICKED = """
    CREATE TEMP TABLE picked AS
    SELECT kind, CASE WHEN json_valid(attributes) THEN attributes END AS attributes
    FROM data.items WHERE available {sample}"""
_ATTRIBUTES = f"""
    SELECT name, type, count(DISTINCT item) AS items, approx_count_distinct(value),
        min(CASE WHEN type = 'number' THEN try_cast(value AS DOUBLE) END),
        max(CASE WHEN type = 'number' THEN try_cast(value AS DOUBLE) END),
        bool_and(whole),
        min(CASE WHEN type = 'time' THEN try_cast(value[:10] AS DATE) END)::TIMESTAMP,
        max(CASE WHEN type = 'time' THEN try_cast(value[:10] AS DATE) END)::TIMESTAMP,
        quantile_disc(CASE WHEN type = 'number' THEN try_cast(value AS DOUBLE) END,
            [0, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1])
    FROM found GROUP BY name, type ORDER BY items DESC, name, type LIMIT {MOST_ATTRIBUTES + 1}"""
_FREQUENT = f"""
    SELECT name, type, value, items FROM (
        SELECT name, type, value, count(DISTINCT item) AS items FROM found
        WHERE type IN ('text', 'truth') AND strlen(value) <= {MAX_VALUE_BYTES} GROUP BY name, type, value)
    QUALIFY row_number() OVER (PARTITION BY name, type ORDER BY items DESC, value) <= {MOST_VALUES}
    ORDER BY items DESC, value"""
_KINDS = f"""
    SELECT kind, count(*) AS items FROM picked WHERE kind IS NOT NULL AND strlen(kind) <= {MAX_VALUE_BYTES}
    GROUP BY kind ORDER BY items DESC, kind LIMIT {MOST_KINDS}"""


def summarise_attributes(store: Store, most_items: int = MOST_ITEMS) -> CatalogSummary:
    """Count the kinds and attributes of the available items, or of about so many of them."""
    with store.snapshot() as cursor:
        ((items,),) = cursor.execute("SELECT count(*) FROM data.items WHERE available").fetchall()
        sample = ""
        if items > most_items:
            sample = f"USING SAMPLE {100 * most_items / items:.6f} PERCENT (bernoulli, 0)"
        try:
            return _summary(cursor, items, sample)
        finally:
            for table in ("found", "picked"):
                cursor.execute(f"DROP TABLE IF EXISTS {table}")


def _summary(cursor: duckdb.DuckDBPyConnection, items: int, sample: str) -> CatalogSummary:
    cursor.execute(_PICKED.format(sample=sample))
    cursor.execute(_VALUES)
    ((looked_at,),) = cursor.execute("SELECT count(*) FROM picked").fetchall()
    frequent: dict[tuple[str, AttributeType], list[tuple[str, int]]] = {}
    for name, kind, value, count in cursor.execute(_FREQUENT).fetchall():
        frequent.setdefault((name, kind), []).append((value, count))
    rows = cursor.execute(_ATTRIBUTES).fetchall()
    summaries = [_attribute(row, frequent) for row in rows[:MOST_ATTRIBUTES]]
    kinds = tuple(cursor.execute(_KINDS).fetchall())
    return CatalogSummary(items, looked_at, kinds, tuple(summaries), len(rows) > MOST_ATTRIBUTES)


def _attribute(
    row: tuple[Any, ...], frequent: Mapping[tuple[str, AttributeType], Sequence[tuple[str, int]]]
) -> AttributeSummary:
    name, kind, items, values, least, greatest, whole, first, last, edges = row
    return AttributeSummary(
        name,
        kind,
        items,
        values,
        tuple(frequent.get((name, kind), ())),
        least,
        greatest,
        bool(whole),
        first,
        last,
        tuple(edges or ()),
    )
