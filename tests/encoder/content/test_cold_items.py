"""Items that nobody has touched: held out of training, encoded from what is known of them."""

import re
from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest
from scipy import sparse

from encoder.arrays import NO_TIME, Actions, Events, TextColumns
from encoder.config import TowerConfig
from encoder.content import ContentSettings, Described, RawContent
from encoder.dataset import Dataset
from encoder.left_out import LeftOutShareError, LeftOutShares
from encoder.tower import Tower, cold_items
from encoder.tower.closed_form import fit_closed_form
from encoder.tower.cold_items import choose_content, fit_content
from encoder.tower.onnx import item_graph

USERS, ITEMS, TASTES, TEXT_DIM = 300, 120, 6, 8
CONFIG = TowerConfig(dim=16, weighting="binary", damping=0.1)


@pytest.fixture(scope="module")
def data() -> Dataset:
    """People of six tastes; an attribute tells an item's taste, a vector half of it, a text nothing."""
    rng = np.random.default_rng(0)
    of_user, of_item = np.arange(USERS) % TASTES, np.arange(ITEMS) % TASTES
    likes = rng.random((USERS, ITEMS)) < np.where(of_user[:, None] == of_item, 0.5, 0.03)
    users, items = np.nonzero(likes)
    events = Events(
        users, items, Actions.of(["see"] * len(users)), np.ones(len(users)), np.full(len(users), NO_TIME)
    )
    held = rng.random(len(users)) < 0.15
    none = np.zeros(0, dtype=np.int64)
    text = rng.normal(size=(ITEMS, TEXT_DIM)).astype(np.float32)
    vectors = np.eye(3, 5, dtype=np.float32)[of_item // 2] + 0.1 * rng.normal(size=(ITEMS, 5)).astype(
        np.float32
    )
    described = Described([None] * ITEMS, [{"taste": f"t{taste}"} for taste in of_item.tolist()])
    return Dataset(
        users=pa.array([f"u{i:03}" for i in range(USERS)]),
        items=pa.array([f"i{i:03}" for i in range(ITEMS)]),
        history=events.where(~held),
        held_out={"valid": events.where(held)},
        ties=sparse.csr_array((USERS, USERS)),
        texts=TextColumns(none, none, none, np.zeros((0, TEXT_DIM), np.float32)),
        item_content=RawContent([f"thing {n}" for n in range(ITEMS)], text, described, vectors),
    )


@pytest.fixture(scope="module")
def new(data: Dataset) -> np.ndarray:
    return LeftOutShares(items=0.2, seed=3).draw(data).items


@pytest.fixture(scope="module")
def tower(data: Dataset, new: np.ndarray) -> Tower:
    seen = data.without_items(new)
    return fit_content(fit_closed_form(seen, CONFIG), seen, ContentSettings())


def margins(tower: Tower, data: Dataset, new: np.ndarray, *parts: str) -> float:
    """Return how many deviations a new item scores higher for people of its taste, known by some parts."""
    assert tower.content is not None
    content = tower.content.encoder.encode(data.item_content).only(parts)
    items = tower.content.maps.vectors(content)[new]
    scores = tower.vectors(tower.views(data.without_items(new))) @ items.T
    own = np.arange(USERS)[:, None] % TASTES == np.flatnonzero(new) % TASTES
    return float((scores[own].mean() - scores[~own].mean()) / scores.std())


def test_nothing_of_a_new_item_reaches_training(data: Dataset, new: np.ndarray) -> None:
    seen = data.without_items(new)
    assert not seen.seen[:, new].nnz
    assert not seen.relevant("valid")[:, new].nnz
    assert not seen.item_text_vectors[new].any()
    assert not seen.item_content.vectors[new].any()
    hidden = seen.item_content.described.take(np.flatnonzero(new))
    assert set(hidden.attributes) == {None}
    assert seen.seen[:, ~new].nnz == data.seen[:, ~new].nnz


def test_texts_that_name_a_new_item_are_left_out(data: Dataset, new: np.ndarray) -> None:
    named = np.array([int(np.flatnonzero(new)[0]), int(np.flatnonzero(~new)[0]), -1])
    texts = TextColumns(np.arange(3), named, np.zeros(3, np.int64), np.eye(3, TEXT_DIM, dtype=np.float32))
    assert replace(data, texts=texts).without_items(new).texts.users.tolist() == [1, 2]


def test_each_part_that_says_more_finds_new_items_better(
    tower: Tower, data: Dataset, new: np.ndarray
) -> None:
    by_text, by_vector = (margins(tower, data, new, part) for part in ("text", "vector"))
    by_attributes = margins(tower, data, new, "attributes")
    assert abs(by_text) < 0.4
    assert by_vector > by_text + 0.5
    assert by_attributes > by_vector + 0.3
    assert margins(tower, data, new, "attributes", "vector") > by_attributes - 0.1


def test_known_items_keep_their_id_vectors(tower: Tower, data: Dataset, new: np.ndarray) -> None:
    vectors = tower.item_vectors(data)
    np.testing.assert_array_equal(vectors[~new], tower.id_vectors[~new])
    assert vectors[new].any(axis=1).all()


def test_a_choice_costs_no_more_than_its_bound_for_new_items_to_be_found(
    data: Dataset, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    tower = fit_closed_form(data, CONFIG)
    assert choose_content(tower, data, "valid", seed=0) == choose_content(tower, data, "valid", seed=0)
    reached = {}
    for cost in (0.0, cold_items.COST, 1.0):
        monkeypatch.setattr(cold_items, "COST", cost)
        caplog.clear()
        choose_content(tower, data, "valid", seed=0)
        found = re.search(r"NDCG@20 ([\d.]+) of new targets, ([\d.]+) of all", caplog.text)
        assert found is not None
        reached[cost] = tuple(float(number) for number in found.groups())
    (free, best), (chosen, paid), (most, _) = reached.values()
    assert free <= chosen <= most
    assert paid >= 0.98 * best - 1e-4
    assert best == max(whole for _, whole in reached.values())


def test_nothing_is_chosen_where_nothing_can_be_judged(data: Dataset) -> None:
    assert choose_content(fit_closed_form(data, CONFIG), data, None, seed=0) == ContentSettings()


def test_a_share_that_leaves_nothing_to_learn_from_is_refused(data: Dataset) -> None:
    few = replace(data, history=data.history.where(data.history.items == 0))
    shares = LeftOutShares(
        items=0.5, seed=next(s for s in range(99) if LeftOutShares(items=0.5, seed=s).draw(few).items[0])
    )
    with pytest.raises(LeftOutShareError, match=r"0\.5 of the items .*: take another share"):
        shares.check(few, shares.draw(few), CONFIG)
    none = LeftOutShares(items=1e-9)
    with pytest.raises(LeftOutShareError, match="is 0 of 120 here, and none would be new"):
        none.check(data, none.draw(data), CONFIG)


def test_where_no_item_has_content_a_new_one_with_a_text_has_no_vector(data: Dataset) -> None:
    bare = replace(data, item_content=data.item_content.without(np.ones(ITEMS, dtype=bool)))
    tower = fit_content(fit_closed_form(bare, CONFIG), bare, ContentSettings())
    session = ort.InferenceSession(item_graph(tower).SerializeToString())
    feeds = {"text": np.ones((1, TEXT_DIM), np.float32), "pattern": np.array([1])}
    for one in session.get_inputs():
        feeds.setdefault(one.name, np.zeros((1, one.shape[-1]), np.float32))
    assert not session.run(["vectors"], feeds)[0].any()
