"""A training that starts from the last model: what is kept, what is mapped by id, and what is refused."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from encoder import retrain as retraining
from encoder.arrays import Actions
from encoder.config import TowerConfig
from encoder.dataset import Dataset, load_dataset
from encoder.fit import TrainOptions
from encoder.learned import BlockStart, LearnConfig, StartMismatchError
from encoder.learned.model import LearnedBlock
from encoder.learned.trainer import train_block
from encoder.left_out import LeftOutIds
from encoder.model_files import METRICS_FILE
from encoder.preflight import known_actions
from encoder.retrain import retrain
from encoder.runtime import Model
from encoder.text import TextCache, TextEncoder
from encoder.tower.select import HeldOutScorer
from encoder.train import train
from encoder.warm_start import (
    WARM_START_FILE,
    NoWarmStartError,
    Origin,
    OtherTextModelError,
    UnknownItemsError,
    WarmStart,
)
from scripts.training import warm_start
from store.artifact import artifacts, build, read_manifest, read_pointer, verify
from store.export import Export
from store.home import Home
from store.ledger import Erasure, write_ledger
from store.privacy import trained_on
from tests.command_line import Run

SMALL = LearnConfig(dim=16, epochs=24, batch=64)


@pytest.fixture(scope="module")
def home(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home whose model has a learned block in it: its weights are kept."""
    copy = Home(tmp_path_factory.mktemp("warm") / "home")
    shutil.copytree(small_home.path, copy.path)
    options = TrainOptions(base=TowerConfig(dim=16, damping=0.1), search=False, learn=SMALL, max_dim=24)
    with opened(copy) as (export, encoder, cache):
        train(copy, export, encoder, cache, options)
    return copy


class opened:  # noqa: N801  a context manager
    """The export, text model and text cache of a home."""

    def __init__(self, home: Home) -> None:
        self._home = home

    def __enter__(self) -> tuple[Export, TextEncoder, TextCache]:
        (name,) = [p.name for p in self._home.text_models.iterdir() if p != self._home.text_cache]
        self._parts = (
            Export.latest(self._home.exports),
            TextEncoder.load(self._home.text_models / name),
            TextCache.open(self._home.text_cache),
        )
        return self._parts

    def __exit__(self, *_: object) -> None:
        self._parts[0].__exit__(None, None, None)
        self._parts[2].close()


@pytest.fixture
def parts(home: Home) -> Iterator[tuple[Export, TextEncoder, TextCache]]:
    with opened(home) as found:
        yield found


@pytest.fixture(scope="module")
def start(home: Home) -> WarmStart:
    return WarmStart.load(read_pointer(home.latest_model, home.models))


@pytest.fixture(scope="module")
def data(home: Home) -> Dataset:
    with opened(home) as (export, encoder, cache):
        return load_dataset(export, encoder, cache)


def test_a_model_keeps_settings_and_items_for_the_next_training_and_nothing_of_users(
    home: Home, start: WarmStart, data: Dataset
) -> None:
    kept = start.kept.settings
    assert (kept.closed.dim, kept.learn, kept.max_dim) == (16, SMALL, 24)
    assert kept.weight > 0
    assert len(kept.best_epochs) == len(start.kept.members) == 1
    directory = home.models / start.model_id
    for name, array in load_file(directory / WARM_START_FILE).items():
        assert len(data.users) not in array.shape, name
    raw = (directory / WARM_START_FILE).read_bytes()
    assert not any(user.encode() in raw for user in data.users.to_pylist())
    assert verify(directory)["files"][WARM_START_FILE]
    assert {name: array.shape for name, array in start.kept.members[0].items()} == {
        name: tuple(parameter.shape)
        for name, parameter in LearnedBlock(len(data.items), data.item_text_vectors, SMALL).named_parameters()
    }


def test_a_retrained_model_has_the_settings_of_the_last_and_loses_nothing(
    home: Home, start: WarmStart, parts: tuple[Export, TextEncoder, TextCache], data: Dataset
) -> None:
    directory = train(home, *parts, TrainOptions(start=start))
    again, metrics = WarmStart.load(directory), json.loads((directory / METRICS_FILE).read_text())
    before = json.loads((home.models / start.model_id / METRICS_FILE).read_text())
    assert again.kept.settings == start.kept.settings
    assert (metrics["trials"], metrics["started_from"]) == ([], start.model_id)
    assert metrics["learned"]["checks"][0][0][0] == 0  # the last weights were judged before any epoch
    most = max(
        retraining.LEAST_EPOCHS, round(retraining.SHARE_OF_EPOCHS * start.kept.settings.best_epochs[0])
    )
    assert metrics["learned"]["best_epochs"][0] <= most
    assert metrics["ndcg@20"] > 0.95 * before["ndcg@20"]
    assert metrics.keys() >= before.keys()
    assert again.chain == (*start.chain, Origin(directory.name, start.chain[-1].export_id))
    assert Model.load(directory).dim == 24
    third = train(home, *parts, TrainOptions(start=again))  # and on from there
    assert WarmStart.load(third).chain[:-1] == again.chain


def test_weights_follow_their_items_by_id(start: WarmStart, data: Dataset) -> None:
    order = np.array([2, 0, 5])
    some = replace(
        data,
        items=pa.concat_arrays([data.items.take(pa.array(order)), pa.array(["a new one"])]),
        item_content=data.item_content.take(np.append(order, 0)),
    )
    (block,) = start.blocks(some)
    known = start.known[order]
    assert known.any()
    np.testing.assert_array_equal(block.rows, [*np.where(known, order, -1), -1])
    module = LearnedBlock(4, some.item_text_vectors, SMALL)
    fresh = {name: one.detach().numpy().copy() for name, one in module.named_parameters()}
    module.start_from(block.weights, block.rows)
    for name, one in module.named_parameters():
        found = one.detach().numpy()
        if name in LearnedBlock.PER_ITEM:
            np.testing.assert_array_equal(found[:3][known], start.kept.members[0][name][order[known]])
            np.testing.assert_array_equal(found[3], fresh[name][3])  # new: as it was drawn
        else:
            np.testing.assert_array_equal(found, start.kept.members[0][name])
    right = start.right(some)
    np.testing.assert_array_equal(right[:3][known], start.kept.right[order[known]])
    assert not right[3].any()


def test_what_nobody_had_touched_counts_as_new(start: WarmStart, data: Dataset) -> None:
    untouched = replace(start, known=np.zeros_like(start.known))
    assert (untouched.blocks(data)[0].rows == -1).all()
    assert not untouched.right(data).any()


def test_without_valid_the_blocks_train_once_for_a_share_of_the_best_epochs(
    start: WarmStart, data: Dataset, tmp_path: Path
) -> None:
    settings = replace(start.kept.settings, best_epochs=(40,))
    longer = replace(start, kept=replace(start.kept, settings=settings))
    fitted = retrain(replace(data, held_out={}), longer, tmp_path)
    assert fitted.facts["learned"]["best_epochs"] == [round(40 * retraining.SHARE_OF_EPOCHS)]
    assert fitted.facts["learned"]["checks"] == [[]]
    assert fitted.facts["chosen_on"] is None
    assert len(list(tmp_path.glob("*/checkpoint.safetensors"))) == 1
    assert fitted.kept.settings == settings  # the next one counts from the last search, too


def test_the_last_weights_stay_where_no_epoch_beats_them(
    start: WarmStart, data: Dataset, tmp_path: Path
) -> None:
    scores = iter([0.9, *(0.1 for _ in range(100))])
    (block,) = start.blocks(data)
    config = start.kept.settings.closed
    trained = train_block(data, config, SMALL, lambda _: next(scores), tmp_path, None, block)
    assert (trained.epoch, trained.ndcg, trained.checks[0]) == (0, 0.9, (0, 0.9))
    module = LearnedBlock(len(data.items), data.item_text_vectors, SMALL)
    module.start_from(block.weights, block.rows)
    known = block.rows >= 0
    np.testing.assert_array_equal(trained.weights["ids"][known], module.ids.detach().numpy()[known])


def test_a_training_goes_on_only_from_a_checkpoint_of_the_same_start(
    start: WarmStart, data: Dataset, tmp_path: Path
) -> None:
    (block,) = start.blocks(data)
    few = replace(SMALL, epochs=4)
    config = start.kept.settings.closed
    for one in (None, block, replace(block, source="another"), block):
        train_block(data, config, few, None, tmp_path, None, one)
    assert len(list(tmp_path.iterdir())) == 3


def test_a_started_closed_form_ranks_as_one_from_nothing(start: WarmStart, data: Dataset) -> None:
    some = np.ones(len(data.history.users), dtype=bool)
    some[::10] = False
    scorer = HeldOutScorer(data, "valid")
    config = start.kept.settings.closed
    before = retraining.fit_with_spectrum(replace(data, history=data.history.where(some)), config)[1]
    whole, svd = retraining.fit_with_spectrum(data, config)
    started, near = retraining.fit_with_spectrum(data, config, before.right)
    np.testing.assert_allclose(near.singular, svd.singular, rtol=0.02)
    assert scorer.score_tower(started) == pytest.approx(scorer.score_tower(whole), rel=0.02)


def test_users_and_items_left_out_stay_left_out(
    home: Home, start: WarmStart, parts: tuple[Export, TextEncoder, TextCache], data: Dataset
) -> None:
    ids = LeftOutIds(data.users.take(pa.array([3, 7])), data.items.take(pa.array([5])))
    directory = train(home, *parts, TrainOptions(start=replace(start, left_out=ids)))
    assert LeftOutIds.load(directory) == ids
    popularity = Model.load(directory).popularity
    assert popularity[5] == 0
    assert data.seen[:, [5]].sum() > 0
    assert popularity.sum() < data.seen.sum() - data.seen[:, [5]].sum()


def test_a_start_that_does_not_fit_is_refused(start: WarmStart, data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(OtherTextModelError, match=r"text model \S+, not another: its text paths"):
        start.check(data, "another")
    renamed = replace(data, items=pa.array([f"other {n:03}" for n in range(len(data.items))]))
    with pytest.raises(UnknownItemsError, match="knows none of the items"):
        start.check(renamed, start.text_model_id)
    (block,) = start.blocks(data)
    cut = BlockStart("m", dict(block.weights) | {"of_text": block.weights["of_text"][:-1]}, block.rows)
    with pytest.raises(StartMismatchError, match="of_text of the earlier model has the shape"):
        train_block(data, start.kept.settings.closed, SMALL, None, tmp_path, None, cut)
    lacking = {name: array for name, array in block.weights.items() if name != "slopes"}
    module = LearnedBlock(len(data.items), data.item_text_vectors, SMALL)
    module.start_from(lacking, block.rows)  # of an earlier version: it stays as it is drawn
    assert not module.slopes.detach().numpy().any()


def test_other_actions_are_no_obstacle(
    start: WarmStart, parts: tuple[Export, TextEncoder, TextCache], data: Dataset, tmp_path: Path
) -> None:
    weighted = replace(start.kept.settings.closed, actions={"gone": 2.0})
    assert known_actions(parts[0], weighted).actions == {}
    settings = replace(start.kept.settings, closed=weighted)
    named = data.history.actions
    renamed = Actions.of(["quite new" if n % 2 else "view" for n in range(len(named.codes))])
    changed = replace(data, history=replace(data.history, actions=renamed))
    fitted = retrain(changed, replace(start, kept=replace(start.kept, settings=settings)), tmp_path)
    assert fitted.tower.config.actions == {"gone": 2.0}


def test_who_was_in_an_export_of_an_earlier_start_is_known(home: Home, start: WarmStart) -> None:
    with Export.open(home.exports / start.chain[0].export_id) as export:
        person = str(export.users()[0])
    copy = Home(home.path.parent / "copy")
    shutil.copytree(home.path, copy.path)
    for model_id in artifacts(copy.models):
        shutil.rmtree(copy.models / model_id)

    def model(model_id: str, export_id: str, *earlier: str) -> None:
        with build(copy.models, model_id) as draft:
            chain = [Origin("before", one)._asdict() for one in earlier]
            draft.facts = {"kind": "model", "export_id": export_id, "started_from": chain}

    with build(copy.exports, "empty") as draft:
        draft.facts = read_manifest(home.exports / start.chain[0].export_id) | {"files": {}}
        for path in (home.exports / start.chain[0].export_id).iterdir():
            if path.suffix == ".parquet":
                table = pq.read_table(path)
                kept = [
                    n for n in range(len(table)) if person not in table.slice(n, 1).to_pylist()[0].values()
                ]
                pq.write_table(table.take(pa.array(kept, pa.int64())), draft.path / path.name)
            elif path.name != "manifest.json":
                shutil.copy(path, draft.path)
    model("a", "empty")
    model("b", "empty", start.chain[0].export_id)
    model("c", "empty", "gone")
    model("d", "empty", "gone", start.chain[0].export_id)
    assert trained_on(copy, person) == (["b", "d"], ["c"])


def test_commands_say_what_they_start_from_and_what_they_keep(
    home: Home, tmp_path: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    copy = Home(tmp_path / "home")
    shutil.copytree(home.path, copy.path)
    for words in (("--dim", 16), ("--text-model", "other"), ("--action", "view=2"), ("--seed", 3)):
        code, out, err = run("train", "--home", copy.path, "--from", "LATEST", *words)
        assert (code, "--from keeps the settings" in out + err) == (2, True), words
    code, out, err = run("train", "--home", copy.path, "--from", "nobody")
    assert (code, "has no such model as" in " ".join((out + err).replace("│", " ").split())) == (2, True)
    before = read_pointer(copy.latest_model, copy.models)
    code, out, err = run("train", "--home", copy.path, "--from", "LATEST")
    assert code == 0, err
    after = read_pointer(copy.latest_model, copy.models)
    assert after != before
    assert "erased" not in err
    write_ledger(copy.erasures, [Erasure(datetime(2026, 1, 1), "s", "h", (before.name,))])
    assert warm_start(copy, after.name) is not None
    assert "people were erased (1) whose rows taught the weights to start from" in caplog.text
    assert json.loads((after / METRICS_FILE).read_text())["started_from"] == before.name
    with build(copy.models, "of-before") as draft:
        draft.facts = read_manifest(before) | {"files": {}}
        for path in before.iterdir():
            if path.name not in ("manifest.json", WARM_START_FILE):
                shutil.copy(path, draft.path)
    with pytest.raises(NoWarmStartError):
        WarmStart.load(copy.models / "of-before")
    code, _, err = run("train", "--home", copy.path, "--from", "of-before")
    assert (code, "run `triptych train` once without --from" in err) == (1, True)
    shutil.rmtree(copy.text_models / read_manifest(before)["text_model_id"])
    code, _, err = run("train", "--home", copy.path, "--from", after.name)
    assert (code, "is missing, and model" in err) == (1, True)
