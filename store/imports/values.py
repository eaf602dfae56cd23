"""SQL that reads one value of a file by the kind of its column, by the same rules for every format.

A value becomes text, or stays a number, time or list of Parquet; one that cannot be read is a fault of its
row.
"""

from dataclasses import dataclass

import duckdb

from store.tables import Kind

NOT_WHOLE = "_not_whole"
_NUMBERS = (
    *("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL"),
    *("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT"),
)
_NATIVE: dict[Kind, tuple[str, ...]] = {
    "number": _NUMBERS,
    "whole": _NUMBERS,
    "time": (*_NUMBERS, "TIMESTAMP", "DATE"),
}
_OBJECTS = ("STRUCT", "MAP", "UNION", "VARIANT")
_WHOLE_UP_TO = {"FLOAT": 2**24, "DOUBLE": 2**53}  # larger whole numbers share a float
_FLOAT_TEXT = r"-?\d+(\.\d*)?([eE]\+?\d+)?"
_FIRST_ROWS = 1_000
_NO_DIGITS_ALONE = "NOT regexp_full_match({0}, '-?\\d+')"


@dataclass(frozen=True)
class Value:
    """SQL of a value, its SQL type, and WHEN ... THEN of the reasons to refuse it."""

    sql: str
    held: str = "VARCHAR"
    faults: tuple[str, ...] = ()


def from_parquet(name: str, kind: Kind, held: str) -> Value:
    """Read a Parquet column of SQL type `held`."""
    is_list, is_object = held.endswith("]"), held.startswith(_OBJECTS)
    if (is_list and kind == "vector") or (not is_list and held.startswith(_NATIVE.get(kind, ()))):
        return Value(f"CASE WHEN NOT {_is_nan(name)} THEN {name} END" if held in _WHOLE_UP_TO else name, held)
    if kind == "json":
        return Value(f"{name}::VARCHAR" if held in ("VARCHAR", "JSON") else f"to_json({name})::VARCHAR")
    if kind == "text" and held in ("VARCHAR[]", '"NULL"[]'):  # the second where all lists are empty
        return Value(_joined(f"{name}::VARCHAR[]"))
    if (is_list or is_object) and kind != "vector":
        what = "a_list" if is_list else "an_object"
        return Value(f"{name}::VARCHAR", faults=_nested(name, f"{name} IS NOT NULL", what))
    if held in _WHOLE_UP_TO or held.startswith("DECIMAL"):
        return _number(name, kind, name, _WHOLE_UP_TO.get(held))
    return Value(_text(f"{name}::VARCHAR", kind))


def from_text(name: str, kind: Kind, *, as_float: bool) -> Value:
    """Read a CSV column; `as_float` where all values are numbers, and some have a point."""
    if as_float:
        return _float_text(name, kind, _NO_DIGITS_ALONE.format(name))
    return Value(_without_nan(name))


def from_json(name: str, kind: Kind) -> Value:
    """Read a JSON value, of its text and `<name>_type`, for a list of texts `<name>_types`, too."""
    is_double, is_list = f"{name}_type = 'DOUBLE'", f"{name}_type = 'ARRAY'"
    is_object = _nested(name, f"{name}_type = 'OBJECT'", "an_object")
    if kind not in ("id", "word", "text"):
        not_a_number = f"{is_double} AND isnan(TRY_CAST({name} AS DOUBLE))"
        sql = f"CASE WHEN {not_a_number} THEN NULL ELSE {_text(name, kind)} END"
        nested = (*_nested(name, is_list, "a_list"), *is_object)
        return Value(sql, faults=() if kind in ("json", "vector") else nested)
    # DuckDB calls a whole number beyond 64 bits a double, but all its digits are kept.
    value = _float_text(name, kind, f"{is_double} AND {_NO_DIGITS_ALONE.format(name)}")
    if kind != "text":
        return Value(value.sql, faults=(*_nested(name, is_list, "a_list"), *is_object, *value.faults))
    texts = f"list_filter(TRY_CAST(TRY_CAST({name} AS JSON) AS VARCHAR[]), lambda x: x IS NOT NULL)"
    others = f"len(list_filter({name}_types, lambda x: x NOT IN ('VARCHAR', 'NULL'))) > 0"
    faults = (*_nested(name, f"{is_list} AND {others}", "a_list"), *is_object)
    return Value(f"CASE WHEN {is_list} THEN {_joined(texts)} ELSE {value.sql} END", faults=faults)


def is_float_text(cursor: duckdb.DuckDBPyConnection, relation: str, name: str) -> bool:
    """Return whether all values of a text column are numbers, and at least one has a point or e+."""
    number = f"regexp_full_match({name}, '{_FLOAT_TEXT}') OR {name} IN ('', 'NaN', 'nan')"
    pointed = f"contains({name}, '.') OR contains({name}, 'e+') OR contains({name}, 'E+')"
    for condition, rows in (
        (f"bool_and({number})", f"{relation} LIMIT {_FIRST_ROWS}"),  # settles most columns of ids
        (f"bool_or({pointed})", relation),
        (f"bool_and({number})", relation),
    ):
        if not cursor.execute(f"SELECT {condition} FROM (SELECT {name} FROM {rows})").fetchall()[0][0]:
            return False
    return True


def _number(name: str, kind: Kind, number: str, limit: int | None) -> Value:
    """Read a number as text: a whole one without a point; an id must be whole and exact."""
    if limit is None:  # a decimal, exact at any size
        whole, missing, inexact = f"{number} = trunc({number})", "false", f"{number} <> trunc({number})"
        text = f"TRY_CAST({number} AS HUGEINT)::VARCHAR"
    else:
        whole = f"{number} = trunc({number}) AND abs({number}) <= {limit}"
        missing = _is_nan(number)
        inexact = f"NOT {missing} AND NOT ({whole})"
        text = f"TRY_CAST({number} AS BIGINT)::VARCHAR"
    sql = f"CASE WHEN {missing} THEN NULL WHEN {whole} THEN {text} ELSE {number}::VARCHAR END"
    faults = (f"WHEN {inexact} THEN '{name}{NOT_WHOLE}'",) if kind == "id" else ()
    return Value(sql, faults=faults)


def _float_text(name: str, kind: Kind, is_float: str) -> Value:
    """Read text that is a float where `is_float` holds."""
    value = _number(
        name, kind, f"CASE WHEN {is_float} THEN TRY_CAST({name} AS DOUBLE) END", _WHOLE_UP_TO["DOUBLE"]
    )
    return Value(f"CASE WHEN {is_float} THEN {value.sql} ELSE {name} END", faults=value.faults)


def _is_nan(number: str) -> str:
    """Return SQL that is true for NaN.

    Statistics in Parquet leave NaN out, and by them DuckDB 2.0 answers isnan(x) with false without a look at
    the rows; of an element of a list it has no statistics.
    """
    return f"isnan(list_value({number})[1])"


def _text(sql: str, kind: Kind) -> str:
    """Return SQL of text; "nan" is a missing value in columns of numbers, not in columns of words."""
    return _without_nan(sql) if kind in ("number", "whole", "time", "flag", "vector") else sql


def _without_nan(sql: str) -> str:
    return f"nullif(nullif({sql}, 'NaN'), 'nan')"


def _joined(texts: str) -> str:
    return f"nullif(array_to_string({texts}, chr(10)), '')"


def _nested(name: str, condition: str, what: str) -> tuple[str, ...]:
    return (f"WHEN {condition} THEN '{name}_is_{what}'",)
