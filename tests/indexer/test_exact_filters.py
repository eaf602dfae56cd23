"""What filters mean: integers to the last digit, dates and times, exclusions, terms that nothing else has."""

import json
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from encoder.runtime import Model
from encoder.text.cache import TextCache
from encoder.text.encoder import TextEncoder
from indexer.files import FACTS_FILE, ItemChange
from indexer.filters.attribute_index import (
    AttributeIndex,
    AttributeIndexBuilder,
    Moment,
    MutableAttributeIndex,
    ReindexNeededError,
    moment_of,
    term,
    terms_of,
)
from indexer.filters.filter import Filter, _union, _without, above, allowed_rows, below
from indexer.index import Index
from indexer.publish import current_index
from indexer.reindex import reindex
from scripts.bench.index.synthetic import write_index
from store.artifact import MANIFEST
from store.export import Export
from store.home import Home
from tests.live_server import copy_home, server
from triptych_client import Client, Item
from triptych_client.pb.v1 import triptych_pb2 as pb

DAY = 86_400_000_000

NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.sampled_from([n + d for n in (2**53, -(2**53), 2**63, 2**64, 10**17) for d in (-2, -1, 0, 1, 2)]),
    st.sampled_from([10**50, 10**50 + 1, -(10**300)]),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-3, 3).map(lambda n: n / 2),
)
ASKED = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from([n + d for n in (2**53, -(2**53), 2**62, 10**17) for d in (-1, 0, 1)]),
    st.floats(allow_nan=False),
    st.integers(-3, 3).map(lambda n: n / 2),
)


def both_kinds(path: Path, items: list[dict[str, object]]) -> tuple[AttributeIndex, MutableAttributeIndex]:
    """The facts of items on disk, and those of rows that are added one by one."""
    builder, growing = AttributeIndexBuilder(), MutableAttributeIndex()
    for row, attributes in enumerate(items):
        builder.add(row, terms_of(None, attributes))
        growing.add(row, terms_of(None, attributes))
    builder.write(path)
    return AttributeIndex(path), growing


def found(wanted: Filter, facts: AttributeIndex | MutableAttributeIndex, total: int) -> list[int]:
    rows = allowed_rows(wanted, facts, lambda ids: np.full(len(ids), -1), total)
    return rows.tolist()  # type: ignore[no-any-return]


@given(held=st.lists(NUMBERS, min_size=1, max_size=8), ends=st.tuples(ASKED, ASKED), data=st.data())
def test_numbers_are_compared_as_the_numbers_that_they_are(
    tmp_path_factory: pytest.TempPathFactory,
    held: list[int | float],
    ends: tuple[int | float, int | float],
    data: st.DataObject,
) -> None:
    kinds = both_kinds(tmp_path_factory.mktemp("facts") / "facts", [{"n": one} for one in held])
    least, greatest = sorted(ends)
    one = data.draw(st.sampled_from([*ends, *(n for n in held if -(2**63) <= n < 2**64)]))
    total = len(held)
    for facts in kinds:
        inside = [row for row, n in enumerate(held) if least <= n <= greatest]
        assert found(Filter(ranges=(("n", least, greatest),)), facts, total) == inside
        equal = [row for row, n in enumerate(held) if n == one]
        assert found(Filter(equals=(("n", (one,)),)), facts, total) == equal
        others = sorted({*range(total)} - {*equal})
        assert found(Filter(unequal=(("n", (one,)),)), facts, total) == others
        greater = [row for row, n in enumerate(held) if n > one]
        assert found(Filter(ranges=(("n", above(one), np.inf),)), facts, total) == (
            greater if one < np.inf else []
        )
        smaller = [row for row, n in enumerate(held) if n < one]
        assert found(Filter(ranges=(("n", -np.inf, below(one)),)), facts, total) == (
            smaller if one > -np.inf else []
        )


MOMENTS = [
    ("1970-01-01", 0),
    ("1999-05-01", 10_712 * DAY),
    ("1999-05-01T20:15", 10_712 * DAY + 72_900_000_000),
    ("1999-05-01 20:15:30", 10_712 * DAY + 72_930_000_000),
    ("1999-05-01T20:15:30.25Z", 10_712 * DAY + 72_930_250_000),
    ("1999-05-01T22:15:30.1234567+02:00", 10_712 * DAY + 72_930_123_456),
    ("1999-05-01T22:15:30+0200", 10_712 * DAY + 72_930_000_000),
    ("1999-05-01T15:15:30-05", 10_712 * DAY + 72_930_000_000),
    ("0001-01-01", -62_135_596_800_000_000),
    ("9999-12-31T23:59:59.999999", 253_402_300_799_999_999),
]
NO_MOMENTS = [
    "", "1999", "19990501", "1999-05", "1999-13-01", "1999-02-30", "1999-05-01T", "1999-05-01T20",
    "1999-05-01T25:00", "1999-05-01T20:15.5", "1999-05-01Z", "1999-05-01T20:15+24:00",
    "1999-05-01T20:15+02:60", "1999-05-01 ", " 1999-05-01", "1999-05-01T20:15:30 Z", "0000-01-01",
    "１９９９-05-01",
    "1999-05-01x", "1999-5-1",
]  # fmt: skip


@pytest.mark.parametrize(("text", "microseconds"), MOMENTS)
def test_dates_and_times_of_iso_8601_are_moments(text: str, microseconds: int) -> None:
    assert moment_of(text) == microseconds


@pytest.mark.parametrize("text", NO_MOMENTS)
def test_what_is_no_date_or_time_is_no_moment(text: str) -> None:
    assert moment_of(text) is None


@given(
    held=st.lists(st.sampled_from([*MOMENTS, ("later", None)]), min_size=1, max_size=6),
    ends=st.tuples(*[st.sampled_from([one for _, one in MOMENTS])] * 2),
)
def test_moments_are_found_by_range_and_the_texts_by_the_letter(
    tmp_path_factory: pytest.TempPathFactory, held: list[tuple[str, int | None]], ends: tuple[int, int]
) -> None:
    kinds = both_kinds(tmp_path_factory.mktemp("facts") / "facts", [{"t": [text]} for text, _ in held])
    first, last = map(Moment, sorted(ends))
    for facts in kinds:
        inside = [row for row, (_, one) in enumerate(held) if one is not None and first <= one <= last]
        assert found(Filter(times=(("t", first, last),)), facts, len(held)) == inside
        equal = [row for row, (_, one) in enumerate(held) if one == first]
        assert found(Filter(equals=(("t", (first,)),)), facts, len(held)) == equal
        same = [row for row, (text, _) in enumerate(held) if text == held[0][0]]
        assert found(Filter(equals=(("t", (held[0][0],)),)), facts, len(held)) == same
        assert not found(Filter(ranges=(("t", -np.inf, np.inf),)), facts, len(held))


def test_several_conditions_on_one_attribute_all_hold(tmp_path: Path) -> None:
    years = [{"year": 1999}, {"year": 2005}, {"year": 2015}, {"year": [1999, 2015]}, {}]
    for facts in both_kinds(tmp_path / "facts", years):
        for wanted, right in (
            (Filter(ranges=(("year", 2000, np.inf), ("year", -np.inf, 2010))), [1, 3]),
            (Filter(equals=(("year", (1999,)),), ranges=(("year", 2000, np.inf),)), [3]),
            (Filter(equals=(("year", (1999,)),), unequal=(("year", (2015,)),)), [0]),
            (Filter(unequal=(("year", (1999,)), ("year", (2005,)))), [2, 4]),
            (Filter(unequal=(("year", (1999, 2005)),)), [2, 4]),
            (Filter(ranges=(("year", 2010, np.inf), ("year", -np.inf, 2000))), [3]),
        ):
            assert found(wanted, facts, len(years)) == right, wanted


TEXTS = st.text(st.sampled_from("\0a1t"), max_size=4)
FIELDS = st.tuples(TEXTS, st.one_of(TEXTS, st.booleans()))


@given(field=FIELDS, other=FIELDS)
def test_no_two_fields_meet_by_nul(field: tuple[str, str | bool], other: tuple[str, str | bool]) -> None:
    (ours,), (theirs,) = (terms_of(None, {name: value})[0] for name, value in (field, other))
    same = field == other and isinstance(field[1], bool) == isinstance(other[1], bool)
    assert (ours == theirs) == same
    assert term("kind", other[0]) != ours


def test_terms_without_nul_are_those_that_files_on_disk_have_hashes_of() -> None:
    assert terms_of("film", {"a": "x", "b": True})[0] == [
        "kind\0film",
        "attributes.a\0x",
        "attributes.b\0\0true",
    ]


def test_facts_of_before_answer_what_they_can_and_name_what_they_cannot(tmp_path: Path) -> None:
    index = write_index(
        tmp_path, np.eye(4, dtype=np.float32), "Flat", np.eye(4, dtype=np.float32),
        attributes=lambda row: {"n": row, "id": 2**53 + row, "day": f"2000-01-0{row + 1}", "t": "x"},
    )  # fmt: skip
    file = tmp_path / index.index_id / FACTS_FILE
    tensors = {
        name: tensor for name, tensor in load_file(file).items() if not name.startswith(("moment", "rests"))
    }
    file.unlink()
    save_file(tensors, file)
    old = Index.load(tmp_path / index.index_id, check=False)

    def rows(wanted: Filter) -> list[int]:
        return sorted(old.search(np.ones((1, 4), np.float32), 4, None, wanted)[0][0].tolist())

    assert rows(Filter(ranges=(("n", 1, 2), ("id", 5, np.inf)))) == [-1, -1, 1, 2]
    assert rows(Filter(equals=(("t", ("x",)),))) == [0, 1, 2, 3]
    for wanted, asked in (
        (Filter(equals=(("id", (2**53 + 1,)),)), "integers beyond"),
        (Filter(ranges=(("id", 0, 2**53),)), "integers beyond"),
        (Filter(times=(("day", Moment(0), Moment(DAY)),)), "dates and times"),
        (Filter(equals=(("t", ("\0x",)),)), "texts with nul"),
    ):
        with pytest.raises(ReindexNeededError, match=f"index {index.index_id} .*{asked}.*triptych reindex"):
            rows(wanted)


def test_an_exclusion_alone_lets_all_else_pass_in_both_parts(tmp_path: Path) -> None:
    index = write_index(
        tmp_path, np.eye(4, dtype=np.float32), "Flat", np.eye(4, dtype=np.float32),
        attributes=lambda row: {"n": row},
    )  # fmt: skip
    for n in range(3):
        index.put(
            [
                ItemChange(
                    f"new{n}", np.ones(4, np.float32), 0.0, bytes(16), bytes(16), None, json.dumps({"n": n})
                )
            ]
        )
    rows = index.search(np.ones((1, 4), np.float32), 9, None, Filter(unequal=(("n", (0, 1)),)))[0][0]
    assert index.item_ids(rows[rows >= 0]) == ["new2", "item-000000002", "item-000000003"]
    few = index.popular(9, np.zeros(0, np.int64), Filter(unequal=(("n", (2,)),)))
    assert index.item_ids(few) == ["item-000000000", "item-000000001", "item-000000003", "new0", "new1"]


def test_a_reindex_after_an_update_makes_facts_anew(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    serves = home.indexes / current_index(home).name
    manifest = json.loads((serves / MANIFEST).read_text())
    model = home.models / manifest["model_id"]
    with closing(TextCache.open(home.text_cache)) as cache, Export.latest(home.exports) as export:
        encoder = TextEncoder.load(home.text_models / manifest["text_model_id"])

        def base_of_next() -> str | None:
            made = reindex(home, export, Model.load(model), encoder, cache)
            return json.loads((made / MANIFEST).read_text()).get("base")  # type: ignore[no-any-return]

        assert base_of_next() == serves.name
        del manifest["facts_layout"]  # as one has it that was made before
        (serves / MANIFEST).unlink()
        (serves / MANIFEST).write_text(json.dumps(manifest))
        assert base_of_next() is None


def test_filters_hold_to_the_letter_from_the_command_line_to_new_items(
    small_home: Home, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    films = {
        "f1999": {"yr": 1999, "id": 123456789012345678, "day": "1999-05-01", "big": 2**64 - 1},
        "f2005": {"yr": 2005, "id": 123456789012345679, "day": "2005-05-01T10:00:00Z", "big": 2**64 - 2},
    }
    with server(home) as live, Client(live.address) as client:
        items = [Item(name, None, "stars", "film", facts, True, None) for name, facts in films.items()]
        client.put_items(items)
        both = pb.Filter(allow=pb.ItemIds(item_ids=list(films)))
        deadline = time.monotonic() + 60
        while len(client.query(text="stars", filter=both).item_ids) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.02)

        def found(*where: str) -> list[str]:
            options = [word for one in where for word in ("--where", one)]
            code, out, err = run(
                "query", "--text", "stars", "--kind", "film", "--address", live.address, *options
            )
            assert code == 0, err
            return [name for name in films if name in out]

        for where, right in (
            (["yr<=2000", "yr<=2010"], ["f1999"]),
            (["yr<=2010", "yr<=2000"], ["f1999"]),
            (["yr!=1999"], ["f2005"]),
            (["yr>1999"], ["f2005"]),
            (["yr >= 1999", "yr < 2005"], ["f1999"]),
            (["yr>=2010", "yr<=2000"], []),
            (["yr=1999", "yr>=2000"], []),
            (["id=123456789012345678"], ["f1999"]),
            (["id>123456789012345678"], ["f2005"]),
            (["big=18446744073709551615"], ["f1999"]),
            (["day>=2000-01-01"], ["f2005"]),
            (["day<=2005-05-01", "day>1999-05-01"], ["f2005"]),
            (["day<2005-05-01T10:00:00Z"], ["f1999"]),
        ):
            assert found(*where) == right, where
        for bad, spelled in (("yr==1999", "write ="), ("yr=>2000", "write >="), ("yr<>2000", "write !=")):
            code, _, err = run("query", "--text", "stars", "--where", bad, "--address", live.address)
            assert code == 2
            assert spelled in " ".join(err.replace("│", " ").split())

        exact = pb.AttributeCondition(name="id", any_of=[pb.AttributeValue(integer=123456789012345679)])
        assert client.query(text="stars", filter=pb.Filter(attributes=[exact])).item_ids == ["f2005"]


@given(
    total=st.integers(1, 3_000),
    seed=st.integers(0, 2**31),
    shares=st.lists(st.sampled_from([0.0, 0.001, 0.02, 0.6]), min_size=1, max_size=3),
)
def test_sets_of_rows_are_sets_large_or_small(total: int, seed: int, shares: list[float]) -> None:
    rng = np.random.default_rng(seed)
    parts = [np.flatnonzero(rng.random(total) < share) for share in shares]
    united = set(np.concatenate(parts).tolist())
    assert _union(parts, total).tolist() == sorted(united)
    rows = np.flatnonzero(rng.random(total + 5) < rng.choice([0.001, 0.5]))  # some were added after `total`
    denied = [*parts, np.array([-1, total, total + 2])]
    left = sorted(row for row in set(rows.tolist()) - united if row < total)
    assert _without(rows, denied, total).tolist() == left
