"""Controls change lines of conditions, which the command line reads as the filter that the control shows."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from console.conditions import (
    end_of,
    has_kind,
    has_value,
    may_be_asked,
    may_be_named,
    with_end,
    with_kind,
    with_value,
)
from scripts.filter_options import filter_message
from triptych_client.pb.v1 import triptych_pb2 as pb

words = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)
odd = st.sampled_from(
    ["true", "12", "-3", '"x"', "a=b", "a b", "=", "a\u2028b", "1999-05-01", "~", "x:", "<"]
)


def read(where: str) -> list[pb.AttributeCondition]:
    found = filter_message([], [line for line in where.splitlines() if line.strip()], [], [])
    return [] if found is None else list(found.attributes)


@given(words | odd, words | odd)
def test_a_chosen_value_is_what_the_line_asks_for(name: str, value: str) -> None:
    assume(may_be_named(name) and may_be_asked(value))
    assume(name == name.strip())
    where = with_value("other>=1", name, value, chosen=True)
    assert has_value(where, name, value)
    (one,) = [one for one in read(where) if one.name == name]
    assert [said.text for said in one.any_of] == [value]
    assert not has_value(with_value(where, name, value, chosen=False), name, value)
    assert with_value(where, name, value, chosen=False) == "other>=1"
    assert with_value(where, name, value, chosen=True) == where  # once


def test_values_of_an_attribute_are_alternatives_and_truth_values_are_no_texts() -> None:
    where = with_value(with_value("", "genre", "jazz", chosen=True), "genre", "12", chosen=True)
    where = with_value(where, "new", "true", chosen=True, truth=True)
    assert where == 'genre=jazz\ngenre="12"\nnew=true'
    genre, new = read(where)
    assert [one.text for one in genre.any_of] == ["jazz", "12"]
    assert [one.truth for one in new.any_of] == [True]


@pytest.mark.parametrize("line", ["genre=jazz", '"genre"=jazz', 'genre="jazz"', '  "genre"="jazz"  '])
def test_lines_written_by_hand_are_seen(line: str) -> None:
    assert has_value(line, "genre", "jazz")
    assert with_value(line, "genre", "jazz", chosen=False) == ""


def test_an_end_replaces_the_one_before() -> None:
    where = with_end(with_end("genre=jazz", "year", ">=", "1999"), "year", "<=", "2010")
    assert where == "genre=jazz\nyear>=1999\nyear<=2010"
    assert (end_of(where, "year", ">="), end_of(where, "year", "<=")) == ("1999", "2010")
    where = with_end(where, "year", ">=", "2001-05-01")
    assert end_of(where, "year", ">=") == "2001-05-01"
    assert with_end(with_end(where, "year", ">=", ""), "year", "<=", "") == "genre=jazz"
    assert end_of(with_end("", "a=b", ">=", "1"), "a=b", ">=") == "1"
    assert read(with_end("", "a=b", ">=", "1"))[0].name == "a=b"


def test_kinds_have_commas_between() -> None:
    assert with_kind("film,book", "track", chosen=True) == "film, book, track"
    assert with_kind("film, book", "film", chosen=False) == "book"
    assert has_kind("film ,book", "film")
    assert not has_kind("films", "film")
