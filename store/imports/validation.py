"""Type and check the rows of an import: an SQL condition for each reason, the first to hold counts."""

from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from store.attributes import MAX_CHARS, usable_attributes
from store.database import quoted
from store.imports.masked_texts import masked
from store.imports.readers import Source
from store.imports.time_columns import TimeReading
from store.masking import UNMASKED, Masking
from store.tables import (
    MAX_ID_BYTES,
    MAX_TEXT_CHARS,
    MAX_VECTOR_LENGTH,
    MAX_WEIGHT,
    MAX_WHOLE,
    SQL_TYPES,
    VIEWS,
    Column,
    Kind,
)

DUPLICATE = "duplicate"
VECTOR_DIMENSION = "vector_dimension"
ITEM_VECTOR_LENGTH = "bad_vector_length"
BAD_ATTRIBUTES = "bad_attributes"
UNKNOWN_ITEM = "unknown_item"
UNKNOWN_VIEW = "unknown_view"
NO_MOMENT = "no_ts_or_query_id"
FAULT = "_fault"  # the reason is in this column of the row
_BATCH = 65_536
# Attributes that DuckDB alone can accept: short, flat, without escapes, huge numbers or other words for NaN.
PLAIN_CHECKS = (
    "strlen({0}) <= 900 AND len(json_keys({0})) = len(list_distinct(json_keys({0}))) AND NOT "
    r"regexp_matches({0}, '[\\]|.[{{]|[\[,]\[|[0-9]{{250}}|[eE][+-]?[0-9]{{3}}|[:,\[]-?([nN][aA]|[iI])')"
)

_YEARS = (
    "CASE WHEN {0} BETWEEN TIMESTAMP '0001-01-01' AND TIMESTAMP '9999-12-31 23:59:59.999999' THEN {0} END"
)
_WHOLE = (
    f"CASE WHEN {{0}} BETWEEN 0 AND {MAX_WHOLE} AND {{0}} = trunc({{0}}) THEN TRY_CAST({{0}} AS INTEGER) END"
)
_TRUE = ("true", "t", "yes", "y", "1", "1.0", "on")
_FALSE = ("false", "f", "no", "n", "0", "0.0", "off")
# DuckDB reads most of ISO 8601; the second try is for a blank before the offset, a comma, and no separators.
_TIDY_ISO = (
    "regexp_replace(regexp_replace(replace(upper(trim({0})), ',', '.'), "
    "'\\s+(Z|[+-]\\d\\d(:?\\d\\d)?)$', '\\1'), "
    "'^(\\d{{4}})(\\d\\d)(\\d\\d)T(\\d\\d)(\\d\\d)(\\d\\d)', '\\1-\\2-\\3T\\4:\\5:\\6')"
)
_ISO = (  # DuckDB would read words such as "epoch" as times
    "CASE WHEN regexp_matches({0}, '^\\s*\\d') THEN "
    f"coalesce(TRY_CAST({{0}} AS TIMESTAMPTZ), TRY_CAST({_TIDY_ISO} AS TIMESTAMPTZ)) AT TIME ZONE 'UTC' END"
)


@dataclass(frozen=True)
class RowCheck:
    """A reason to refuse a row, the column that it looks at, and the SQL condition.

    In the SQL, `raw_<column>` is the raw value, `<column>` the typed one, and `{0}` the name of the column.
    The check applies to one `table` and one `kind` of columns where they are given.
    """

    reason: str
    column: str
    sql: str
    table: str | None = None
    kind: Kind | None = None


CHECKS: tuple[RowCheck, ...] = (
    RowCheck("malformed_row", "_line", "_line IS NOT NULL AND _fault IS NULL"),
    RowCheck(FAULT, "_fault", "_fault IS NOT NULL"),
    RowCheck("empty_user_id", "user_id", "user_id IS NULL"),
    *(
        RowCheck("empty_item_id", "item_id", "item_id IS NULL", table=table)
        for table in ("items", "behaviors", "impressions")
    ),
    RowCheck("empty_friend_id", "friend_id", "friend_id IS NULL"),
    RowCheck("id_too_long", "", f"strlen({{0}}) > {MAX_ID_BYTES}", kind="id"),
    RowCheck("empty_text", "text", "text IS NULL OR trim(text, E' \\t\\r\\n') = ''", table="texts"),
    RowCheck("text_too_long", "", f"length({{0}}) > {MAX_TEXT_CHARS}", kind="text"),
    RowCheck(BAD_ATTRIBUTES, "attributes", "raw_attributes IS NOT NULL AND attributes IS NULL"),
    RowCheck(BAD_ATTRIBUTES, "attributes", f"length(attributes::VARCHAR) > {MAX_CHARS}"),
    RowCheck("bad_available", "available", "raw_available IS NOT NULL AND available IS NULL"),
    RowCheck("bad_use", "use", "raw_use IS NOT NULL AND use IS NULL"),
    RowCheck("bad_share", "share", "raw_share IS NOT NULL AND share IS NULL"),
    RowCheck(UNKNOWN_VIEW, "view", f"view IS NULL OR view NOT IN {VIEWS}"),
    RowCheck("bad_clicked", "clicked", "raw_clicked IS NOT NULL AND clicked IS NULL"),
    RowCheck("bad_position", "position", "raw_position IS NOT NULL AND position IS NULL"),
    RowCheck(
        "weight_not_a_number", "weight", "raw_weight IS NOT NULL AND NOT coalesce(isfinite(weight), false)"
    ),
    RowCheck("negative_weight", "weight", "weight < 0"),
    RowCheck("weight_too_large", "weight", f"weight > {MAX_WEIGHT!r}"),
    RowCheck("unparsable_time", "", "raw_{0} IS NOT NULL AND {0} IS NULL", kind="time"),
    RowCheck(NO_MOMENT, "user_id", "ts IS NULL AND query_id IS NULL", table="impressions"),
    RowCheck("unknown_split", "split", "split NOT IN ('train', 'valid', 'test')"),
    RowCheck(
        "vector_not_readable",
        "vector",
        "raw_vector IS NOT NULL AND NOT coalesce(len(vector) > 0 AND NOT list_contains(list_transform("
        "TRY_CAST(raw_vector AS DOUBLE[]), lambda x: x IS NULL), true), false)",
    ),
    RowCheck(
        "vector_not_finite",
        "vector",
        "NOT list_bool_and(list_transform(vector, lambda x: coalesce(isfinite(x), false)))",
    ),
    RowCheck("vector_too_long", "vector", f"len(vector) > {MAX_VECTOR_LENGTH}", table="items"),
    RowCheck("vector_all_zero", "vector", "list_min(vector) = 0 AND list_max(vector) = 0", table="items"),
    RowCheck("self_friend", "friend_id", "friend_id = user_id"),
    *(
        RowCheck(
            UNKNOWN_ITEM,
            "item_id",
            "item_id IS NOT NULL AND NOT EXISTS (FROM data.items WHERE items.item_id = typed.item_id)",
            table=table,
        )
        for table in ("behaviors", "texts", "impressions")
    ),
)


def check(
    cursor: duckdb.DuckDBPyConnection,
    source: Source,
    *,
    dims: Mapping[str, int] | None = None,
    any_item: bool = False,
    masking: Masking = UNMASKED,
) -> None:
    """Create the temporary table `checked_<table>`: `_row`, `_reason` (NULL where accepted) and typed values.

    Of the columns that the file lacks, it has those of the identity, with their default.

    Args:
        cursor: of the transaction of the import.
        source: the staged files.
        dims: length of vectors, by text model; for others, the first vector decides.
        any_item: behaviors, texts and impressions may name items that the store lacks.
        masking: of texts of people; where it has kinds, within `masking_function`.
    """
    table, name = source.table, f"checked_{source.table.name}"
    inner, outer = ["_row", "_line", "_fault"], []
    for column in table.columns:
        if column in source.columns:
            raw = f"nullif({column.name}, '')" if source.types[column.name] == "VARCHAR" else column.name
            typed = masked(table, column.name, _typed(column, raw, source), masking)
            inner += [f"{raw} AS raw_{column.name}", f"{typed} AS {column.name}"]
        elif column.name in table.identity:
            inner.append(f"NULL::{SQL_TYPES[column.kind]} AS {column.name}")
        else:
            continue
        outer.append(f"coalesce({column.name}, {column.default}) AS {column.name}")
    conditions = " ".join(
        f"WHEN {sql} THEN {reason if reason == FAULT else repr(reason)}"
        for reason, _, sql in checks_of(source)
        if not (any_item and reason == UNKNOWN_ITEM)
    )
    cursor.execute(f"""
        CREATE TEMP TABLE {name} AS
        SELECT _row, CASE {conditions} END AS _reason, {", ".join(outer)}
        FROM (SELECT {", ".join(inner)} FROM raw_{table.name}) AS typed""")
    if "attributes" in source.types:
        _refuse_attributes(cursor, name)
    if not table.numbered and not table.merged:
        _refuse_duplicates(cursor, source)
    if {"vector", "text_model_id"} <= source.types.keys():
        _refuse_other_dimensions(cursor, name, dims or {})
    if table.name == "items" and "vector" in source.types:
        _refuse_other_lengths(cursor, name)


def item_vector_length(cursor: duckdb.DuckDBPyConnection) -> int:
    """Return the length that vectors of `checked_items` must have: of accepted ones, else of stored ones."""
    accepted = _one_length(cursor, "checked_items", "_reason IS NULL")
    stored = _one_length(cursor, "data.items", "true") if accepted is None else None
    return accepted or stored or 0


def checks_of(source: Source) -> list[tuple[str, str, str]]:
    """Return (reason, column, SQL) of the checks that apply to the columns of a source, in order."""
    applied = []
    for item in CHECKS:
        if item.table not in (None, source.table.name):
            continue
        if item.kind is None:
            names = [item.column] if item.column in ("_line", "_fault", *source.types) else []
        else:
            names = [column.name for column in source.columns if column.kind == item.kind]
        applied += [(item.reason, name, item.sql.format(name)) for name in names]
    return applied


def _typed(column: Column, raw: str, source: Source) -> str:
    """Return SQL that casts a raw value to the type of its column, to NULL where that fails."""
    match column.kind:
        case "number" | "whole":
            number = f"TRY_CAST({raw} AS DOUBLE)"
            return _WHOLE.format(number) if column.kind == "whole" else number
        case "time":
            return _YEARS.format(_time(raw, source.types[column.name], source.times.get(column.name)))
        case "flag":
            word = f"lower(trim({raw}))"
            return f"CASE WHEN {word} IN {_TRUE} THEN true WHEN {word} IN {_FALSE} THEN false END"
        case "json":
            text = _without_not_a_number(raw)
            return f"CASE WHEN json_valid({raw}) AND json_type({raw}) = 'OBJECT' THEN json({text}) END"
        case "vector":
            return f"TRY_CAST({raw} AS FLOAT[])"
        case _:
            return raw


def _without_not_a_number(raw: str) -> str:
    """Return SQL of JSON text in which NaN, which is no JSON, is replaced by null."""
    # JSON has no bare control character, so chr(1) marks the end of each string and the place of each NaN.
    marked = f"""regexp_replace({raw}, '("(?:[^"\\\\]|\\\\.)*")|-?NaN', '\\1' || chr(1), 'g')"""
    nulls = f"""replace(replace({marked}, '"' || chr(1), '"'), chr(1), 'null')"""
    return f"CASE WHEN contains({raw}, 'NaN') THEN {nulls} ELSE {raw} END"


def _time(raw: str, held: str, reading: TimeReading | None) -> str:
    """Return SQL of a time: of a number as was decided for the column, of text as such a number or ISO 8601.

    A time without a zone is UTC.
    """
    if held.startswith(("TIMESTAMP WITH", "TIMESTAMPTZ")):
        return f"(TRY_CAST({raw} AS TIMESTAMPTZ) AT TIME ZONE 'UTC')"
    if held.startswith(("TIMESTAMP", "DATE")):
        return f"TRY_CAST({raw} AS TIMESTAMP)"
    number = f"TRY_CAST({raw} AS DOUBLE)"
    of_number = reading.sql.format(x=number, raw=raw) if reading and reading.sql else "NULL::TIMESTAMP"
    if held != "VARCHAR":
        return f"({of_number})"
    return f"(CASE WHEN {number} IS NULL THEN {_ISO.format(raw)} ELSE {of_number} END)"


def _refuse_attributes(cursor: duckdb.DuckDBPyConnection, name: str) -> None:
    """Refuse attributes that DuckDB takes for a JSON object, but `store.attributes` does not accept."""
    text = "attributes::VARCHAR"
    batches = cursor.sql(f"""
        SELECT _row, {text} AS attributes FROM {name}
        WHERE _reason IS NULL AND NOT ({PLAIN_CHECKS.format(text)})""").to_arrow_reader(_BATCH)
    refused: list[int] = []
    for batch in batches:
        columns = (batch.column(column).to_pylist() for column in ("_row", "attributes"))
        refused += usable_attributes(zip(*columns, strict=True))[1]
    if refused:
        cursor.register("unusable", pa.table({"_row": pa.array(refused, pa.int64())}))
        cursor.execute(f"""
            UPDATE {name} AS c SET _reason = '{BAD_ATTRIBUTES}' FROM unusable AS u WHERE c._row = u._row""")
        cursor.unregister("unusable")


def _refuse_duplicates(cursor: duckdb.DuckDBPyConnection, source: Source) -> None:
    name, identity = f"checked_{source.table.name}", source.table.identity
    same = " AND ".join(f"later.{column} IS NOT DISTINCT FROM first.{column}" for column in identity)
    cursor.execute(f"""
        UPDATE {name} AS later SET _reason = '{DUPLICATE}' FROM (
            SELECT {", ".join(identity)}, min(_row) AS _row FROM {name} WHERE _reason IS NULL
            GROUP BY {", ".join(identity)} HAVING count(*) > 1
        ) AS first WHERE later._reason IS NULL AND later._row > first._row AND {same}""")


def _refuse_other_dimensions(cursor: duckdb.DuckDBPyConnection, name: str, dims: Mapping[str, int]) -> None:
    """Refuse vectors of another length than their text model, or than its first vector, stored or new."""
    known = "".join(f"SELECT {quoted(model)}, -1, {dim} UNION ALL " for model, dim in dims.items())
    cursor.execute(f"""
        UPDATE {name} AS c SET _reason = '{VECTOR_DIMENSION}' FROM (
            SELECT text_model_id, arg_min(dim, _row) AS dim FROM (
                {known} SELECT text_model_id, 0, len(vector) FROM data.texts WHERE vector IS NOT NULL
                UNION ALL
                SELECT text_model_id, _row, len(vector) FROM {name}
                WHERE vector IS NOT NULL AND _reason IS NULL
            ) AS lengths(text_model_id, _row, dim) GROUP BY text_model_id
        ) AS model
        WHERE c.text_model_id = model.text_model_id AND len(c.vector) <> model.dim AND c._reason IS NULL""")


def _refuse_other_lengths(cursor: duckdb.DuckDBPyConnection, name: str) -> None:
    """Refuse vectors of items of another length than those that stay stored, else than the first new one.

    A write that gives every stored vector anew, all of one length, may so give them another one.
    """
    lengths, length = cursor.execute(f"""
        SELECT count(DISTINCT len(vector)), arg_min(len(vector), _row) FROM {name}
        WHERE vector IS NOT NULL AND _reason IS NULL""").fetchall()[0]
    if not lengths:
        return
    stays = f"NOT EXISTS (FROM {name} AS new WHERE new.item_id = items.item_id AND new._reason IS NULL)"
    stored = _one_length(cursor, "data.items", stays if lengths == 1 else "true")
    cursor.execute(f"""
        UPDATE {name} SET _reason = '{ITEM_VECTOR_LENGTH}'
        WHERE len(vector) <> {stored or length} AND _reason IS NULL""")


def _one_length(cursor: duckdb.DuckDBPyConnection, relation: str, condition: str) -> int | None:
    """Return the length of any vector of a relation, without reading the others; None where it has none."""
    row = cursor.execute(f"""
        SELECT len(vector) FROM {relation} WHERE vector IS NOT NULL AND {condition} LIMIT 1""").fetchone()
    return int(row[0]) if row else None
