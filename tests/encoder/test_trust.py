"""How far the views are trusted: in the reference, in the graph, in torch, and as it is chosen."""

from dataclasses import replace

import numpy as np
import onnxruntime as ort
import pyarrow as pa
import pytest
import torch
from scipy import sparse

from encoder.arrays import NO_TIME, Actions, Events, TextColumns
from encoder.config import TowerConfig
from encoder.content import RawContent
from encoder.dataset import Dataset
from encoder.tower import Block, ChosenTrust, Fusion, Tower, Trust, fit_closed_form
from encoder.tower.gates import TrustedGates
from encoder.tower.onnx import user_graph
from encoder.tower.select import HeldOutScorer
from encoder.tower.trust import LEAST_USERS, USUAL, Draws, choose_trust
from encoder.views import ViewBatch, unit_rows

DIM = 8
SOME = Trust((7.0, 0.5, 2.0), (9.0, 4.0, 6.0), (0.5, 0.2, -0.1))


def fusion(trust: Trust, *, unit: bool = True) -> Fusion:
    rng = np.random.default_rng(0)
    matrices = tuple(rng.standard_normal((DIM, DIM)).astype(np.float32) for _ in range(3))
    offsets = 0.1 * rng.standard_normal((3, DIM)).astype(np.float32)
    slopes = 0.1 * rng.standard_normal((3, 3)).astype(np.float32)
    return Fusion(matrices, (1.0, 0.4, 0.2), offsets, slopes, unit, constant=unit, trust=trust)  # type: ignore[arg-type]


def batch(users: int = 60) -> ViewBatch:
    """Random views; a third of them absent, and one user without any."""
    rng = np.random.default_rng(1)
    amounts = np.log1p(rng.integers(1, 40, (users, 3))) * (rng.random((users, 3)) < 2 / 3)
    amounts[0] = 0.0
    history, text, social = (unit_rows(rng.standard_normal((users, DIM))) for _ in range(3))
    return ViewBatch(history, text, social, amounts.astype(np.float32))


def plain(views: np.ndarray, trust: Trust, counts: tuple[float, float, float]) -> np.ndarray:
    """Return the gates of one user with the views (3, D), equal before trust."""
    eye = np.eye(DIM, dtype=np.float32)
    zero = np.zeros((3, DIM), np.float32)
    equal = Fusion(
        (eye, eye, eye), (1.0, 1.0, 1.0), zero, np.zeros((3, 3), np.float32), unit=True, trust=trust
    )
    amounts = np.log1p(np.array([counts], dtype=np.float32))
    aligned = equal.aligned(*(view[None].astype(np.float32) for view in views))
    return equal.weights(amounts, aligned)[0]


def test_a_view_of_n_elements_counts_n_over_n_plus_c() -> None:
    trust = Trust(pseudo_counts=(10.0, 0.0, 0.0))
    views = np.ones((3, DIM))
    for n in (1, 10, 1_000):
        history, text, social = plain(views, trust, (n, 3, 3))
        assert history / text == pytest.approx(n / (n + 10), rel=1e-5)
        assert text == pytest.approx(social)


def test_a_view_that_contradicts_the_others_loses_weight_and_others_keep_theirs() -> None:
    taste, other = np.eye(DIM)[0], np.eye(DIM)[1]
    trust = Trust(sharpness=(20.0, 0.0, 0.0), expected=(0.5, 0.0, 0.0))
    agreeing = plain(np.stack([taste, taste, taste]), trust, (30, 3, 3))
    foreign = plain(np.stack([other, taste, taste]), trust, (30, 3, 3))
    assert agreeing == pytest.approx(np.full(3, 1 / 3), abs=1e-3)
    assert foreign[0] < 1e-3
    assert foreign[1] == pytest.approx(0.5, abs=1e-3)


def test_who_has_one_view_alone_is_that_view_whatever_the_trust() -> None:
    amounts = np.log1p(np.diag([1.0, 5.0, 100.0])).astype(np.float32)
    made = fusion(SOME)
    aligned = made.aligned(*(unit_rows(np.ones((3, DIM))) for _ in range(3)))
    np.testing.assert_allclose(made.weights(amounts, aligned), np.eye(3), atol=1e-12)


def test_little_agreement_is_expected_of_few_elements() -> None:
    """The same cosine counts against a long history, not against a short one."""
    taste = np.eye(DIM)[0]
    apart = unit_rows(np.array([[0.3, 1.0, *[0.0] * (DIM - 2)]]))[0]
    trust = Trust((10.0, 0.0, 0.0), (20.0, 0.0, 0.0), (0.6, 0.0, 0.0))
    shares = []
    for n in (1, 500):
        history, text, _ = plain(np.stack([apart, taste, taste]), trust, (n, 3, 3))
        shares.append(history / text / (n / (n + 10)))
    assert shares[0] > 5 * shares[1]


@pytest.mark.parametrize(
    "trust", [SOME, Trust(), Trust((5.0, 0.0, 0.0)), replace(SOME, sharpness=(9.0, 0.0, 0.0))]
)
@pytest.mark.parametrize("unit", [True, False])
@pytest.mark.parametrize("kept", ["HTS", "HT", "S", ""])
def test_the_graph_computes_what_the_reference_does(trust: Trust, unit: bool, kept: str) -> None:
    made = fusion(trust, unit=unit)
    width = made.dim
    table, ids = np.zeros((4, DIM), np.float32), np.ones((4, width), np.float32)
    block = Block(table, made, ids)
    tower = Tower(TowerConfig(dim=DIM), (block,))
    views = batch().only(tuple(kept))
    session = ort.InferenceSession(user_graph(tower).SerializeToString())
    feeds = {name: getattr(views, name) for name in ("history", "text", "social", "amounts")}
    vectors, parts = session.run(["vectors", "parts"], feeds)
    np.testing.assert_allclose(parts, tower.parts(views), atol=1e-5)
    np.testing.assert_allclose(parts.sum(axis=1), vectors, atol=1e-5)


def test_torch_computes_what_the_reference_does() -> None:
    made, views = fusion(SOME), batch()
    aligned = made.aligned(views.history, views.text, views.social)
    moved = np.exp(views.amounts @ made.slopes.T) * np.array(made.gates) * views.present
    gates = TrustedGates(SOME)(
        *(torch.from_numpy(a.astype(np.float32)) for a in (moved, views.amounts, aligned))
    )
    np.testing.assert_allclose(gates.detach().numpy(), made.weights(views.amounts, aligned), atol=1e-5)


def test_chosen_trust_comes_back_from_json() -> None:
    chosen = ChosenTrust(SOME, 1.5, 700)
    assert ChosenTrust.from_json(chosen.as_json()) == chosen


USERS, ITEMS, TASTES = 400, 120, 6


@pytest.fixture(scope="module")
def people() -> Dataset:
    """Six tastes; each of 400 people has 12 items of one, a text and five friends who tell the same taste."""
    rng = np.random.default_rng(2)
    taste = np.arange(USERS) % TASTES
    chances = np.where(np.arange(ITEMS)[None] % TASTES == taste[:, None], 12.0, 1.0)
    chances /= chances.sum(axis=1, keepdims=True)
    items = np.stack([rng.choice(ITEMS, 16, replace=False, p=each) for each in chances])  # (U, 16)
    users = np.repeat(np.arange(USERS), 16)
    held = np.tile(np.arange(16) >= 12, USERS)

    def rows(some: np.ndarray) -> Events:
        n = int(some.sum())
        return Events(
            users[some], items.ravel()[some], Actions.of(["see"] * n), np.ones(n), np.full(n, NO_TIME)
        )

    texts = unit_rows(np.eye(TASTES)[taste] + 0.2 * rng.standard_normal((USERS, TASTES)))
    ties = np.zeros((USERS, USERS))
    for user in range(USERS):
        ties[user, rng.choice(np.flatnonzero(taste == taste[user]), 5, replace=False)] = 1.0
    np.fill_diagonal(ties, 0.0)
    everybody = np.arange(USERS)
    none = np.full(USERS, -1)
    return Dataset(
        users=pa.array([f"u{i:03}" for i in range(USERS)]),
        items=pa.array([f"i{i:03}" for i in range(ITEMS)]),
        history=rows(~held),
        held_out={"valid": rows(held)},
        ties=sparse.csr_array(ties),
        texts=TextColumns(everybody, none, np.full(USERS, NO_TIME), texts),
        item_content=RawContent.of_texts([""] * ITEMS, np.zeros((ITEMS, TASTES), np.float32)),
    )


def one_random_item(data: Dataset, tower: Tower) -> ViewBatch:
    """Return the views of everybody with one item drawn at random from all in place of the history."""
    rng = np.random.default_rng(3)
    ones = np.ones(USERS)
    strange = Events(
        np.arange(USERS),
        rng.integers(ITEMS, size=USERS),
        Actions.of(["see"] * USERS),
        ones,
        np.full(USERS, NO_TIME),
    )
    changed = replace(data, history=strange)
    return tower.views(data).with_view("H", tower.views(changed))


def test_the_chosen_trust_makes_all_views_better_than_their_parts_for_short_and_strange_histories(
    people: Dataset,
) -> None:
    tower = fit_closed_form(people, TowerConfig(dim=24, damping=0.1, gates=(1.0, 0.2, 0.2)))
    chosen = choose_trust(tower, people, "valid")
    assert chosen.users == USERS
    trusting = tower.trusting(chosen)
    scorer, items = HeldOutScorer(people, "valid"), tower.id_vectors
    strange = one_random_item(people, tower)

    def ndcg(which: Tower, views: ViewBatch) -> float:
        return scorer.score(which.vectors(views), items)

    alone = ndcg(trusting, strange.only(("T", "S")))
    assert ndcg(tower, strange) < 0.8 * alone  # without trust a strange item does harm
    assert ndcg(trusting, strange) > 0.97 * alone
    assert ndcg(trusting, tower.views(people)) > 0.99 * ndcg(tower, tower.views(people))


def test_the_same_seed_chooses_the_same_trust(people: Dataset) -> None:
    tower = fit_closed_form(people, TowerConfig(dim=16, damping=0.1, gates=(1.0, 0.2, 0.2)))
    assert choose_trust(tower, people, "valid") == choose_trust(tower, people, "valid")


def test_the_trust_that_a_tower_has_is_not_looked_at(people: Dataset) -> None:
    tower = fit_closed_form(people, TowerConfig(dim=16, damping=0.1, gates=(1.0, 0.2, 0.2)))
    other = tower.trusting(ChosenTrust(SOME, 1.0, 0))
    assert choose_trust(other, people, "valid") == choose_trust(tower, people, "valid")


def test_few_people_with_two_views_choose_nothing(people: Dataset) -> None:
    few = people.held_out["valid"].where(people.held_out["valid"].users < LEAST_USERS - 1)
    data = replace(people, held_out={"valid": few})
    tower = fit_closed_form(data, TowerConfig(dim=16, damping=0.1))
    assert choose_trust(tower, data, "valid").trust is USUAL
    assert choose_trust(tower, data, None) == ChosenTrust(USUAL, choose_trust(tower, data, None).scale, 0)
    alone = replace(
        people, ties=sparse.csr_array(people.ties.shape), texts=people.texts.where(np.zeros(USERS, bool))
    )
    assert choose_trust(tower, alone, "valid").trust is USUAL  # one view has nothing to agree with


def test_draws_cut_histories_short_and_leave_friends_whole(people: Dataset) -> None:
    tower = fit_closed_form(people, TowerConfig(dim=16, damping=0.1))
    draws = Draws(tower, people, np.arange(USERS), np.random.default_rng(0))
    np.testing.assert_allclose(np.expm1(draws.whole.amounts[:, 0]), 12, rtol=1e-5)
    first, second = draws.next(), draws.next()
    sizes = np.expm1(first.amounts[:, 0]).round()
    assert sizes.min() == 1
    assert 0.1 < np.mean(sizes == 12) < 0.6
    assert (first.amounts != second.amounts).any()  # drawn anew
    untouched = first.amounts[:, 2] == draws.whole.amounts[:, 2]
    same = np.isclose(first.social, draws.whole.social, atol=1e-6).all(axis=1)
    assert np.mean(same[untouched]) > 0.8  # a share of 0.05 has strangers for friends
