"""Learned blocks: losses by hand, training, checkpoints, the tower that they make with the closed form."""

import json
import logging
import shutil
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from scipy import sparse

from encoder.arrays import Actions
from encoder.config import TowerConfig
from encoder.dataset import Dataset
from encoder.fit import TrainOptions, fit
from encoder.learned import checkpoint, remove_checkpoints
from encoder.learned import losses as losses_module
from encoder.learned.batches import Steps
from encoder.learned.config import CHECKPOINT_FILE, LearnConfig
from encoder.learned.folders import alone_in
from encoder.learned.losses import RankingLoss, step_loss
from encoder.learned.model import Inputs, LearnedBlock
from encoder.learned.trainer import Score, TrainedBlock, train_block
from encoder.tower.closed_form import fit_closed_form
from encoder.tower.mix import choose_mix, compressed, mixed
from encoder.tower.onnx import user_graph
from encoder.tower.select import HeldOutScorer
from encoder.tower.tower import Tower
from encoder.views import unit_rows
from tests.tiny_dataset import CONFIG, dataset

CPU = torch.device("cpu")
SMALL = LearnConfig(dim=16, epochs=24, batch=64, members=1)


@pytest.fixture(scope="module")
def data(small_data: Dataset) -> Dataset:
    return small_data


def scorer(data: Dataset) -> Score:
    chooser = HeldOutScorer(data, "valid")
    return lambda block: chooser.score_tower(Tower(CONFIG, (block,)))


def test_the_full_softmax_is_the_log_likelihood_by_hand() -> None:
    users = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    items, bias = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0.0, 0.5, 0.0])
    targets = sparse.csr_array(np.array([[1, 0, 1], [0, 1, 0]], dtype=np.float32))
    ranking = RankingLoss(torch.ones(3), 0, 0)
    counted = torch.tensor([1.0, 0.0])  # the second user does not count
    found = ranking.ranked(users, (items, bias), ranking.draw()).loss(targets, counted).item()
    scores = np.array([1.0, 0.5, 1.0])
    by_hand = -(scores[0] + scores[2] - 2 * np.log(np.exp(scores).sum())) / 2
    assert found == pytest.approx(by_hand, rel=1e-6)


def test_the_sampled_softmax_with_log_q_comes_near_the_full_one() -> None:
    torch.manual_seed(0)
    users, items = torch.randn(20, 4), torch.randn(500, 4)
    bias, popularity = torch.zeros(500), torch.arange(500.0)
    targets = sparse.random_array((20, 500), density=0.01, rng=1, data_sampler=lambda size: np.ones(size))  # noqa: PLW0108  by name
    targets = sparse.csr_array(targets.astype(np.float32))
    counted = torch.ones(20)
    full = RankingLoss(popularity, 0, 0)
    drawn = RankingLoss(popularity, 20_000, 0)
    exact = float(full.ranked(users, (items, bias), None).loss(targets, counted))
    near = float(drawn.ranked(users, (items, bias), drawn.draw()).loss(targets, counted))
    assert near == pytest.approx(exact, rel=0.02)
    uncorrected = RankingLoss(torch.ones(500), 20_000, 0)
    wrong = float(uncorrected.ranked(users, (items, bias), drawn.draw()).loss(targets, counted))
    assert abs(wrong - exact) > abs(near - exact)


@pytest.mark.parametrize("negatives", [0, 12])
def test_the_loss_of_the_named_rows_is_that_of_all_items(data: Dataset, negatives: int) -> None:
    step = next(iter(Steps(data, CONFIG, SMALL).epoch(0)))
    losses, slopes = [], []
    for rows in (losses_module._named_rows, lambda step, drawn: None):
        torch.manual_seed(0)
        block = LearnedBlock(len(data.items), data.item_text_vectors, SMALL)
        ranking = RankingLoss(torch.ones(len(data.items)), negatives, 0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(losses_module, "_named_rows", rows)
            loss = step_loss(block, ranking, step, Inputs.of(step, CPU), SMALL)
        loss.backward()
        losses.append(loss.item())
        slopes.append({name: one.grad for name, one in block.named_parameters() if one.grad is not None})
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for name, slope in slopes[0].items():
        torch.testing.assert_close(slope, slopes[1][name], rtol=1e-4, atol=1e-5)


def test_an_absent_view_has_no_part_and_gates_sum_to_one(data: Dataset) -> None:
    torch.manual_seed(0)
    block = LearnedBlock(len(data.items), data.item_text_vectors, SMALL).eval()
    step = next(iter(Steps(data, CONFIG, SMALL).epoch(0)))
    step.amounts[:, 1] = 0.0
    _, gates = block.parts(Inputs.of(step, CPU))
    assert not gates[:, 1].any()
    there = step.amounts.any(axis=1)
    np.testing.assert_allclose(gates.sum(dim=1).detach().numpy()[there], 1.0, rtol=1e-5)


def test_each_term_of_the_loss_adds_to_it(data: Dataset) -> None:
    plain = replace(SMALL, history_loss=0.0, view_loss=0.0, view_dropout=0.0, noise=0.0, id_dropout=0.0)
    step = next(iter(Steps(data, CONFIG, SMALL).epoch(0)))

    def loss(options: LearnConfig) -> float:
        torch.manual_seed(0)
        block = LearnedBlock(len(data.items), data.item_text_vectors, options)
        ranking = RankingLoss(torch.ones(len(data.items)), 0, 0)
        return step_loss(block, ranking, step, Inputs.of(step, CPU), options).item()

    for term in ("history_loss", "view_loss", "alignment", "adversarial"):
        assert loss(replace(plain, **{term: 0.5})) > loss(plain)


def test_training_finds_held_out_items_and_the_reference_agrees_with_torch(
    data: Dataset, tmp_path: Path
) -> None:
    heard: list[int] = []
    score = scorer(data)
    learned = train_block(data, CONFIG, SMALL, score, tmp_path, lambda figures, epoch: heard.append(epoch))
    assert heard == list(range(1, 1 + len(heard)))
    assert learned.ndcg == max(ndcg for _, ndcg in learned.checks)
    assert score(learned.block) == pytest.approx(learned.ndcg)
    untrained = LearnedBlock(len(data.items), data.item_text_vectors, SMALL).block(
        np.asarray(data.seen.sum(axis=0))
    )
    assert learned.ndcg > 1.5 * score(untrained)
    assert next(tmp_path.glob("*/events.out.tfevents*"))
    tower = Tower(CONFIG, (learned.block,))
    views = tower.views(data)
    for kept in (("H",), ("T",), ("S",), ("H", "T", "S")):
        batch = views.only(kept)
        session = ort.InferenceSession(user_graph(tower).SerializeToString())
        feeds = {name: getattr(batch, name) for name in ("history", "text", "social", "amounts")}
        vectors, parts = session.run(["vectors", "parts"], feeds)
        np.testing.assert_allclose(parts, tower.parts(batch), atol=1e-5)
        np.testing.assert_allclose(parts.sum(axis=1), vectors, atol=1e-5)


def test_the_reference_is_the_module(data: Dataset) -> None:
    torch.manual_seed(1)
    module = LearnedBlock(len(data.items), data.item_text_vectors, SMALL).eval()
    with torch.no_grad():
        module.offsets.normal_()
        module.slopes.normal_(std=0.3)
        module.bias.normal_()
    popularity = np.asarray(data.seen.sum(axis=0), dtype=np.float32)
    tower = Tower(CONFIG, (module.block(popularity),))
    options = replace(SMALL, hold_out=1e-9, event_dropout=0.0, cut=0.0, foreign=0.0, batch=1_000)
    (step,) = Steps(data, CONFIG, options).epoch(0)
    views, gates = module.parts(Inputs.of(step, CPU))
    fused = (views * gates[:, :, None]).sum(dim=1)
    scores = (module.log_scale.exp() * fused @ module.items().T + module.bias).detach().numpy()
    raw = tower.views(data)
    by_row = {seen.tobytes(): row for row, seen in enumerate(data.seen.toarray())}
    known = popularity > 0
    for place in range(0, len(step.text), 9):
        row = by_row[step.everything[[place]].toarray().astype(np.float32).tobytes()]
        ours = (tower.vectors(raw.rows(np.array([row]))) @ tower.item_vectors(data).T)[0]
        theirs = scores[place]
        np.testing.assert_allclose(  # the bias is free up to a constant
            (ours - ours[known].mean())[known], (theirs - theirs[known].mean())[known], atol=1e-3
        )


def test_a_killed_run_goes_on_and_ends_where_an_unbroken_one_ends(data: Dataset, tmp_path: Path) -> None:
    options = replace(SMALL, epochs=12)
    unbroken = train_block(data, CONFIG, options, scorer(data), tmp_path / "one")

    class KilledError(Exception):
        pass

    def kill(_: dict[str, float], epoch: int) -> None:
        if epoch == 6:  # two epochs after the first check
            raise KilledError

    with pytest.raises(KilledError):
        train_block(data, CONFIG, options, scorer(data), tmp_path / "two", kill)
    epochs: list[int] = []
    resumed = train_block(
        data, CONFIG, options, scorer(data), tmp_path / "two", lambda _, epoch: epochs.append(epoch)
    )
    assert epochs[:2] == [4, 5]  # the check that is in the checkpoint, and the first epoch after it
    assert resumed.checks == unbroken.checks
    np.testing.assert_array_equal(resumed.block.table, unbroken.block.table)


def test_other_held_out_rows_do_not_go_on_from_a_checkpoint(data: Dataset, tmp_path: Path) -> None:
    options = replace(SMALL, epochs=4)
    train_block(data, CONFIG, options, scorer(data), tmp_path)
    valid = data.held_out["valid"]
    fewer = replace(data, held_out=data.held_out | {"valid": valid.where(np.arange(len(valid.users)) > 0)})
    epochs: list[int] = []
    train_block(fewer, CONFIG, options, scorer(fewer), tmp_path, lambda _, epoch: epochs.append(epoch))
    assert epochs == [1, 2, 3, 4]


def test_an_item_that_only_weightless_actions_name_is_found_by_its_text_alone(tmp_path: Path) -> None:
    data = dataset(dated=False)
    item = int(data.history.items[0])
    actions = Actions.of("made" if each == item else "see" for each in data.history.items)
    data = replace(data, history=replace(data.history, actions=actions))
    config = replace(CONFIG, actions={"made": 0.0})
    block = train_block(data, config, replace(SMALL, epochs=1), None, tmp_path).block
    assert not block.table[item].any()
    assert not block.id_vectors[item].any()
    assert block.id_vectors[np.unique(data.history.items[data.history.items != item])].any(axis=1).all()


def test_an_item_that_is_never_a_target_is_found_by_its_text_alone(tmp_path: Path) -> None:
    data = dataset(dated=False)
    item = int(data.history.items[0])
    actions = Actions.of("made" if each == item else "see" for each in data.history.items)
    history = replace(data.history, actions=actions)
    text = unit_rows(np.random.default_rng(0).random(data.item_text_vectors.shape, dtype=np.float32))
    asked = {"valid": history.where(np.arange(len(history.users)) < 9).where(history.items[:9] != item)}
    content = replace(data.item_content, text_vectors=text)
    data = replace(data, history=history, item_content=content, held_out=asked)
    run = train_block(data, CONFIG, replace(SMALL, epochs=2), None, tmp_path)
    block, by_text = run.block, np.exp(run.weights["log_scale"]) * text @ run.weights["of_item_text"]
    by_text = np.append(by_text, np.zeros((len(text), 1)), axis=1)  # no bias
    assert block.table[item].any()  # it is in histories, and says something of those who have it
    np.testing.assert_allclose(block.id_vectors[item], by_text[item], atol=1e-6)
    others = np.setdiff1d(data.history.items, [item])
    apart = np.abs(block.id_vectors[others] - by_text[others]).max(axis=1)
    assert (apart > 1e-2).all()


def test_a_checkpoint_that_cannot_be_read_starts_anew(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None
    (tmp_path / CHECKPOINT_FILE).write_bytes(b"half")
    assert checkpoint.load(tmp_path) is None


def test_who_trains_the_same_waits_for_who_came_first(
    data: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options, waits = replace(SMALL, epochs=8), threading.Event()
    waiting = logging.Handler()
    waiting.emit = lambda record: waits.set() if "waiting" in record.getMessage() else None  # type: ignore[method-assign]
    logger = logging.getLogger("encoder.learned.folders")
    logger.addHandler(waiting)
    caplog.set_level(logging.INFO, logger.name)
    epochs: list[tuple[str, int]] = []

    def other() -> TrainedBlock:
        return train_block(data, CONFIG, options, None, tmp_path, lambda _, at: epochs.append(("other", at)))

    with ThreadPoolExecutor(1) as pool:
        begun: list[Future[TrainedBlock]] = []

        def first_epoch(_: dict[str, float], epoch: int) -> None:
            epochs.append(("first", epoch))
            if not begun:
                begun.append(pool.submit(other))
                assert waits.wait(60)

        first = train_block(data, CONFIG, options, None, tmp_path, first_epoch)
        second = begun[0].result(60)
    logger.removeHandler(waiting)
    assert {who for who, _ in epochs} == {"first"}  # the other found all of it done
    np.testing.assert_array_equal(second.block.table, first.block.table)


def test_checkpoints_of_those_at_work_stay(tmp_path: Path) -> None:
    for name in ("ended", "at-work"):
        (tmp_path / name).mkdir()
        (tmp_path / name / CHECKPOINT_FILE).write_bytes(b"")
    with alone_in(tmp_path / "at-work"):
        remove_checkpoints(tmp_path)
        assert [path.parent.name for path in tmp_path.glob(f"*/{CHECKPOINT_FILE}")] == ["at-work"]
    remove_checkpoints(tmp_path)
    assert not list(tmp_path.glob(f"*/{CHECKPOINT_FILE}"))


def test_mixing_chooses_on_valid_and_compression_keeps_the_ranking(data: Dataset, tmp_path: Path) -> None:
    closed = fit_closed_form(data, TowerConfig(dim=16, weighting="binary", gates=(1.0, 0.3, 0.3)))
    block = train_block(data, closed.config, SMALL, scorer(data), tmp_path).block
    mix = choose_mix(closed, [block], data, "valid")
    chooser = HeldOutScorer(data, "valid")
    tower = mixed(closed, [block], mix.weight, data)
    assert (
        mix.ndcg_by_weight[f"{mix.weight:g}"]
        == max(mix.ndcg_by_weight.values())
        >= chooser.score_tower(closed) - 1e-9
    )
    assert chooser.score_tower(tower) == pytest.approx(mix.ndcg_by_weight[f"{mix.weight:g}"], abs=2e-3)
    whole = mixed(closed, [block], 1.0, data)
    small = compressed(whole, data, 24)
    assert small.id_vectors.shape[1] == small.item_vectors(data).shape[1] == 24
    views = whole.views(data)
    exact = whole.vectors(views) @ whole.item_vectors(data).T
    near = small.vectors(views) @ small.item_vectors(data).T
    assert np.corrcoef(exact.ravel(), near.ravel())[0, 1] > 0.99
    np.testing.assert_allclose(small.parts(views).sum(axis=1), small.vectors(views), atol=1e-9)
    assert np.linalg.norm(small.vectors(views), axis=1).mean() == pytest.approx(1.0, abs=0.05)
    assert compressed(whole, data, 512) is whole


def test_without_learned_weight_the_closed_form_stays() -> None:
    data = dataset(dated=False)
    closed = fit_closed_form(data, TowerConfig(dim=4))
    assert mixed(closed, [], 1.0, data) is closed
    assert mixed(closed, [closed.blocks[0]], 0.0, data) is closed


def test_without_valid_the_blocks_are_trained_again_on_everything(data: Dataset, tmp_path: Path) -> None:
    alone = replace(data, held_out={})
    options = TrainOptions(
        base=TowerConfig(dim=8, gates=(1.0, 0.3, 0.3)), search=False, learn=replace(SMALL, epochs=8)
    )
    fitted = fit(alone, options, tmp_path)
    assert fitted.facts["chosen_on"] == "a tenth of train"
    assert fitted.facts["learned"]["best_epochs"] in ([4], [8])
    json.dumps(fitted.facts)
    runs = list(tmp_path.glob(f"*/{CHECKPOINT_FILE}"))
    assert len(runs) == (2 if fitted.facts["learned"]["weight"] else 1)
    shutil.rmtree(tmp_path)


def test_a_view_that_is_not_the_users_own_ranks_nothing_alone(data: Dataset) -> None:
    """Only the fused vector, which has to learn not to trust it, sees a foreign view."""
    options = replace(SMALL, cut=0.0, foreign=0.0, view_dropout=0.0, noise=0.0, id_dropout=0.0, batch=1_000)
    (step,) = Steps(data, CONFIG, options).epoch(0)
    block = LearnedBlock(len(data.items), data.item_text_vectors, options)
    ranking = RankingLoss(torch.from_numpy(np.asarray(data.seen.sum(axis=0), np.float32)), 0, 0)

    def loss(genuine: float, alone: float) -> float:
        some = replace(step, genuine=np.full_like(step.genuine, genuine))
        weighed = replace(options, history_loss=alone, view_loss=alone)
        return float(step_loss(block, ranking, some, Inputs.of(some, CPU), weighed).detach())

    assert loss(0.0, 1.0) == pytest.approx(loss(1.0, 0.0), rel=1e-5)
    assert loss(1.0, 1.0) > 1.2 * loss(1.0, 0.0)
