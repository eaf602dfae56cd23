"""Data so small or so plain that little can be learned: models that are numbers, and say what they can."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file, save_file
from scipy import sparse

from encoder import train as training
from encoder.arrays import Actions, Events, TextColumns
from encoder.config import TowerConfig
from encoder.content import RawContent
from encoder.dataset import Dataset, hold_out
from encoder.fit import LEAST_JUDGES, TrainOptions, fit
from encoder.learned import LearnConfig
from encoder.model_files import METRICS_FILE
from encoder.runtime import TABLES_FILE, Model, NotFiniteModelError
from encoder.tower.closed_form import fit_closed_form
from encoder.tower.collapse import Collapse, measure_collapse
from encoder.tower.spectral import spectrum
from encoder.train import check_finite
from encoder.views import ViewBatch
from store.artifact import artifacts, read_pointer
from store.home import Home
from tests.command_line import Run
from tests.live_server import Client, server
from triptych_client.pb.v1 import triptych_pb2 as pb

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")


# Ten people who all did one of two things: two connected parts, each of rank 1.
TWINS = [
    (f"u{u}", item, 1000 + 10 * u) for u in range(10) for item in (("i1", "i4") if u % 2 else ("i2", "i3"))
]
# Five people with i1 and i2, five with i5 and i6; `one` has i1 alone and `six` i6 alone.
PAIRS = [
    *((f"a{n}", item, n) for n in range(5) for item in ("i1", "i2")),
    *((f"b{n}", item, n) for n in range(5) for item in ("i5", "i6")),
    ("one", "i1", 900),
    ("six", "i6", 901),
]
# Of each of sixty people, which eight of the ten items of the topic, in the order of time: rank 39 of 40.
EIGHT_OF_TEN = """
69024351 75341280 94270561 81532497 79408652 60792153 13896470 15702483 18564927 16549270 20438517 01675423
39642875 51940327 30485126 56071982 81075964 15904678 17350682 14970286 20784635 45769180 29548037 20753496
56417032 15042963 54987612 46875092 35216947 96035482 02798135 78093241 06345918 69501842 81304925 21763048
71485920 24076193 59068432 76584193 94016285 51964078 29483715 17302964 65430891 59130648 45218937 19875604
01647238 93602158 26390548 73186294 03291845 82143759 68752349 38902546 82471396 71840596 04963217 75649082"""


@pytest.fixture
def home_of(tmp_path: Path, text_models_dir: Path, run: Run) -> Callable[..., Home]:
    """Return a home from rows, trained with some options and indexed, by the commands."""

    def make(
        events: list[tuple[object, ...]], items: int, *options: object, tables: dict[str, str] | None = None
    ) -> Home:
        data, home = tmp_path / "data", Home(tmp_path / "home")
        data.mkdir()
        lines = [",".join(map(str, row)) for row in events]
        (data / "behaviors.csv").write_text("\n".join(["user_id,item_id,ts", *lines]) + "\n")
        (data / "items.csv").write_text(
            "\n".join(["item_id", *(f"i{n}" for n in range(1, items + 1))]) + "\n"
        )
        for name, text in (tables or {}).items():
            (data / name).write_text(text)
        assert run("import", data, "--home", home.path)[0] == 0
        shutil.copytree(text_models_dir, home.text_models)
        for words in (("train", *options), ("reindex",)):
            code, _, err = run(*words, "--home", home.path)
            assert code == 0, err
        return home

    return make


def numbers(home: Home) -> None:
    for name, values in load_file(read_pointer(home.latest_model, home.models) / TABLES_FILE).items():
        assert np.isfinite(values).all(), name


def ranked(client: Client, user: str, **fields: object) -> list[tuple[str, float]]:
    reply = client.query(user_id=user, k=10, **fields)
    assert (list(reply.views_used), reply.fallback) == ([pb.VIEW_HISTORY], pb.FALLBACK_NONE)
    return list(zip(reply.item_ids, reply.scores, strict=True))


def test_a_matrix_of_low_rank_gives_numbers_and_a_history(home_of: Callable[..., Home], run: Run) -> None:
    home = home_of(TWINS, 4)
    numbers(home)
    with server(home) as client:
        assert {item for item, score in ranked(client, "u0", exclude_seen=False) if score > 0.1} == {
            "i2",
            "i3",
        }
    code, out, _ = run("doctor", "--home", home.path)
    assert (code, "tells nothing apart for 10 of 10 people" in out) == (0, True)  # i1 and i4 alike for u0


def test_where_nothing_can_be_held_out_unseen_items_are_told_apart(home_of: Callable[..., Home]) -> None:
    home = home_of(PAIRS, 6)
    metrics = json.loads((read_pointer(home.latest_model, home.models) / METRICS_FILE).read_text())
    assert (metrics["chosen_on"], metrics["people"]) == (None, {"checked": 12, "alike": 10})
    with server(home) as client:
        for user, wanted in (("one", "i2"), ("six", "i5")):
            (best, score), *others = ranked(client, user)
            assert best == wanted
            assert score > 0.1
            assert all(abs(other) < 1e-5 for _, other in others)


@pytest.mark.parametrize("options", [("--fusion", "ridge"), ("--epochs", 8)])
def test_sixty_people_with_all_views_get_their_topic(
    home_of: Callable[..., Home], options: tuple[object, ...]
) -> None:
    events = [
        (f"u{u}", f"i{4 * int(digit) + u % 4}", 1_600_000_000 + 1000 * u + n)
        for u, digits in enumerate(EIGHT_OF_TEN.split())
        for n, digit in enumerate(digits)
    ]
    items = "\n".join(f"i{n},Title about topic {n % 4} number {n},k{n % 2}" for n in range(40))
    tables = {
        "items.csv": f"item_id,title,kind\n{items}\n",
        "texts.csv": "user_id,text\n" + "".join(f"u{u},I like topic {u % 4} a lot\n" for u in range(60)),
        "social.csv": "user_id,friend_id\n" + "".join(f"u{u},u{(u + 4) % 60}\n" for u in range(60)),
    }
    home = home_of(events, 40, *options, tables=tables)
    numbers(home)
    with server(home) as client:
        reply = client.query(user_id="u0", k=10, exclude_seen=False)
    assert list(reply.views_used) == [pb.VIEW_HISTORY, pb.VIEW_TEXT, pb.VIEW_SOCIAL]
    assert all(int(item[1:]) % 4 == 0 for item in reply.item_ids)


@pytest.mark.parametrize("kinds", [1, 3])
def test_many_equal_histories_have_the_rank_of_the_different_ones(kinds: int) -> None:
    generator = np.random.default_rng(0)
    users, items = (generator.integers(kinds, size=600) for _ in range(2))
    found = spectrum(sparse.csr_array((users[:, None] == items).astype(np.float32)), 64, 0.5)
    assert (found.rank, len(found.singular)) == (kinds, kinds)
    np.testing.assert_allclose(found.singular, 1.0, rtol=1e-5)
    assert np.isfinite(found.table(64, 0.0)).all()


def test_a_table_of_all_directions_undamped_says_nothing_of_the_unseen() -> None:
    events = sparse.csr_array(np.triu(np.ones((6, 6), np.float32)))
    whole, cut = spectrum(events, 100, 0.5), spectrum(events, 5, 0.5)
    assert (whole.rank, len(whole.singular), cut.rank, len(cut.singular)) == (6, 6, 6, 5)
    assert not whole.ranks_unseen(6, 0.0)
    assert whole.ranks_unseen(6, 0.1)
    assert whole.ranks_unseen(5, 0.0)
    assert cut.ranks_unseen(5, 0.0)
    scores = events.toarray() @ whole.table(6, 0.0) @ whole.items(6).T
    np.testing.assert_allclose(scores[events.toarray() == 0], 0.0, atol=1e-4)


def dataset(pairs: list[tuple[int, int]], items: int = 6) -> Dataset:
    users, named = np.array(pairs, dtype=np.int64).T
    count, none, actions = int(users.max()) + 1, np.zeros(0, np.int64), Actions.of(["view"] * len(users))
    return Dataset(
        users=pa.array([f"u{u}" for u in range(count)]),
        items=pa.array([f"i{i}" for i in range(items)]),
        history=Events(users, named, actions, np.ones(len(users)), np.arange(len(users))),
        held_out={},
        ties=sparse.csr_array((count, count)),
        texts=TextColumns(none, none, none, np.zeros((0, 4), np.float32)),
        item_content=RawContent.of_texts([""] * items, np.zeros((items, 4), np.float32)),
    )  # fmt: skip


def test_who_gets_the_same_score_for_all_is_counted(caplog: pytest.LogCaptureFixture) -> None:
    data = dataset([(0, 0), (0, 1), (1, 1), (1, 2), (2, 5), (3, 3), (3, 4)])
    damped = fit_closed_form(data, TowerConfig(damping=0.3))
    # u2 alone did i5: its history says nothing about another item; so with u3, who alone did i3 and i4.
    assert measure_collapse(damped, data) == Collapse(checked=4, alike=2)
    assert "2 of 4 people" in caplog.text
    assert measure_collapse(fit_closed_form(data, TowerConfig(damping=0.0)), data) == Collapse(
        checked=4, alike=4
    )


def test_the_dim_that_is_asked_for_counts_where_nothing_can_be_chosen(tmp_path: Path) -> None:
    data = dataset([(0, 0), (0, 1), (1, 1), (1, 2), (2, 2), (2, 3)])
    fitted = fit(data, TrainOptions(dims=(2,)), tmp_path)
    assert (fitted.tower.config.dim, fitted.tower.id_vectors.shape) == (2, (6, 2))
    assert fitted.tower.config.damping > 0
    assert fit(data, TrainOptions(), tmp_path).tower.config.dim == TowerConfig().dim


def with_valid(people: int, judges: int) -> Dataset:
    """Return people with eight of forty items each, of whom some have one row held out as valid."""
    generator = np.random.default_rng(0)
    pairs = [(u, int(i)) for u in range(people) for i in generator.choice(40, 8, replace=False)]
    data = dataset(pairs, 40)
    rows = np.arange(len(pairs)) // 8 < judges
    return hold_out(data, rows & (np.arange(len(pairs)) % 8 == 0), "valid")


@pytest.mark.parametrize("judges", [3, LEAST_JUDGES - 1])
def test_a_few_held_out_rows_choose_nothing(
    judges: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("WARNING")
    fitted = fit(with_valid(49, judges), TrainOptions(learn=LearnConfig()), tmp_path)
    config = fitted.tower.config
    assert (config.damping, config.dim, fitted.kept.settings.closed.dim) == (0.3, 128, 128)
    facts = fitted.facts
    assert (facts["trials"], facts["chosen_on"], facts["learned"]) == ([], None, None)
    assert re.fullmatch(r"held-out rows of \d+ users can be had, and a choice needs 50", facts["unchosen"])
    assert f"valid has rows of {judges} users, and a choice needs 50: it is left aside" in caplog.text
    assert "nothing is chosen on the data, no block is learned" in caplog.text


def test_a_tenth_of_train_chooses_where_valid_is_too_small(tmp_path: Path) -> None:
    few = fit(with_valid(120, 3), TrainOptions(dims=(4, 8)), tmp_path).facts
    assert (few["chosen_on"], few["unchosen"]) == ("a tenth of train", None)
    enough = fit(with_valid(120, LEAST_JUDGES), TrainOptions(dims=(4, 8)), tmp_path).facts
    assert (enough["chosen_on"], enough["unchosen"]) == ("valid", None)


def test_a_model_with_a_number_that_is_not_finite_is_not_published(
    home_of: Callable[..., Home], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = home_of(PAIRS, 6)
    before = artifacts(home.models)
    fitted = training.fit

    def broken(*words: object) -> object:
        found = fitted(*words)  # type: ignore[arg-type]
        found.tower.blocks[0].fusion.matrices[2][0, 0] = np.inf
        return found

    monkeypatch.setattr(training, "fit", broken)
    code, _, err = run("train", "--home", home.path)
    assert (code, "alignment_social0 holds a number that is not finite" in err) == (1, True)
    assert artifacts(home.models) == before
    assert read_pointer(home.latest_model, home.models).name == before[-1]


@pytest.fixture
def broken(home_of: Callable[..., Home]) -> Home:
    """A home whose model has NaN in a row of its table, as an earlier version could publish it."""
    home = home_of(PAIRS, 6)
    path = read_pointer(home.latest_model, home.models) / TABLES_FILE
    tables = {name: values.copy() for name, values in load_file(path).items()}
    tables["table"][0] = np.nan
    save_file(tables, path)
    return home


def test_a_broken_model_is_named(broken: Home, run: Run) -> None:
    directory = read_pointer(broken.latest_model, broken.models)
    said = f"model {directory.name} is of no use: {TABLES_FILE}: table holds a number that is not finite"
    with pytest.raises(NotFiniteModelError, match=said):
        Model.load(directory, check=False).check_finite()
    with pytest.raises(NotFiniteModelError, match=said):
        check_finite(directory)
    code, out, _ = run("doctor", "--home", broken.path)
    assert (code, said in out) == (1, True)


def test_a_vector_that_is_not_finite_counts_as_no_view(
    broken: Home, caplog: pytest.LogCaptureFixture
) -> None:
    model = Model.load(read_pointer(broken.latest_model, broken.models), check=False)
    history = model.table[[0, 1]]
    text, absent = np.zeros((2, model.text_dim), np.float32), np.zeros_like(history)
    amounts = np.array([[1, 0, 0], [1, 0, 0]], np.float32)
    encoded = model.encode_users(ViewBatch(history, text, absent, amounts))
    assert not encoded.vectors[0].any()
    assert not encoded.parts[0].any()
    assert encoded.vectors[1].any()
    assert "not finite, of 1 of 2 people at first" in caplog.text
    content = model.content_encoder.encode(RawContent.of_texts([""], text[:1]))
    vectors = model.encode_items(np.full((1, model.dim), np.inf, np.float32), content)
    assert not vectors.any()
