"""The options of a query, against arithmetic on the parts and brute force."""

import math
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encoder.text.cache import TextCache
from indexer.filters.filter import Filter
from indexer.index import VectorDimError
from indexer.publish import current_index, load_index
from server.query.explain import Sources, explained, sources_of
from server.query.pages import search
from server.query.query import (
    UNSCALED,
    Candidates,
    FreeText,
    InlineViews,
    Query,
    QueryOptions,
    QueryVector,
    RawVector,
    SimilarTo,
    StoredUser,
    Subject,
    TextQuery,
    query_vector_of,
)
from server.query.retriever import Retriever
from server.query.snapshot import Snapshot, prepare
from server.query.subject_views import SubjectViews, raw_views
from store.home import Home
from store.records import Event, Friend, UserViews
from store.state.rebuild import bring_up_to_date
from store.state.state import UserState
from store.store import Store
from tests.live_server import copy_home

TEXT = "a quiet evening with a good book about gardens"
TABLES = ("behaviors", "texts", "social")
TOLERANCE = {"rtol": 1e-5, "atol": 1e-6}


@dataclass(frozen=True)
class World:
    retriever: Retriever
    serving: Snapshot
    store: Store
    views: dict[str, UserViews]
    kind_of: dict[str, str]  # of each item

    @property
    def items(self) -> list[str]:
        return self.serving.index.ids.to_pylist()  # type: ignore[no-any-return]

    def ask(self, subject: Subject, k: int = 10, **options: object) -> Candidates:
        return self.retriever.retrieve([Query(subject, k, options=QueryOptions(**options))])[0]  # type: ignore[arg-type]

    def parts(self, subject: Subject) -> np.ndarray:
        """p_ui (3, D) of a subject, as the model made them."""
        subject_views = views_of(self, subject)
        return self.serving.model.encode_users(raw_views(self.serving, subject_views)).parts[0]


def views_of(world: World, subject: Subject) -> SubjectViews:
    return world.retriever._read([subject], frozenset([0])).views_of(0)


@pytest.fixture(scope="module")
def world(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    home = copy_home(small_home, tmp_path_factory.mktemp("options") / "home")
    with (
        Store.open(home.database) as store,
        UserState.open(home.state) as state,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        bring_up_to_date(store, state)
        serving = prepare(home, load_index(home, current_index(home).name), store, state, cache, 1)
        with store.snapshot() as cursor:
            ids = {
                row[0]
                for table in TABLES
                for row in cursor.execute(f"FROM data.{table} SELECT user_id").fetchall()
            }
            kinds = dict(cursor.execute("SELECT item_id, kind FROM data.items").fetchall())
        views = store.users_views(sorted(ids))
        yield World(Retriever(store, state, serving), serving, store, views, kinds)


def subjects(world: World) -> st.SearchStrategy[Subject]:
    users = sorted(world.views)
    vectors = st.integers(0, 3).map(
        lambda seed: RawVector(np.random.default_rng(seed).normal(size=32).astype(np.float32))
    )
    return st.one_of(
        st.sampled_from([*users[:40], "u-nobody"]).map(StoredUser),
        st.sampled_from(users[:20]).map(lambda user: InlineViews(world.views[user])),
        st.sampled_from(world.items[:20]).map(SimilarTo),
        st.just(FreeText("trains and timetables")),
        vectors,
    )


WEIGHTS = st.tuples(*[st.sampled_from([0.0, 0.3, 1.0, 7.0])] * 3).filter(any)


def options(subject: Subject) -> st.SearchStrategy[QueryOptions]:
    raw = isinstance(subject, RawVector)
    return st.builds(
        QueryOptions,
        view_weights=st.just(QueryOptions.view_weights) if raw else WEIGHTS,
        min_score=st.sampled_from([None, -0.5, 0.0, 0.05, 1.0]),
        text_query=st.sampled_from([None, TextQuery(TEXT), TextQuery(TEXT, 0.0), TextQuery(TEXT, 1.0)]),
        diversity=st.sampled_from([1.0, 0.9, 0.5, 0.0]),
        explain=st.just(False) if raw else st.booleans(),
        exact=st.booleans(),
    )


@st.composite
def queries(draw: st.DrawFn, world: World) -> Query:
    subject = draw(subjects(world))
    kinds = draw(st.sampled_from([(), ("video",), ("video", "article"), ("song",)]))
    denied = tuple(draw(st.lists(st.sampled_from(world.items), max_size=3)))
    wanted = Filter(kinds=kinds, deny=denied)
    return Query(
        subject,
        draw(st.sampled_from([1, 5, 20, 150])),
        draw(st.booleans()),
        wanted if wanted != Filter() else None,
        draw(options(subject)),
    )


def same(ours: Candidates, theirs: Candidates) -> None:
    """Check that two answers agree, but for the order of candidates with nearly equal scores."""
    np.testing.assert_allclose(ours.scores, theirs.scores, **TOLERANCE)
    assert len(ours.ids) == len(theirs.ids)
    assert (ours.views_used, ours.fallback, ours.exact) == (
        theirs.views_used,
        theirs.fallback,
        theirs.exact,
    )
    for i, (a, b) in enumerate(zip(ours.ids, theirs.ids, strict=True)):
        if a != b:
            assert ours.scores[i] == pytest.approx(theirs.scores[i], rel=1e-5, abs=1e-6)


def check(world: World, query: Query, found: Candidates) -> None:
    """Check the laws of every answer."""
    assert len(found.ids) == len(set(found.ids)) == len(found.scores) <= query.k
    total = np.zeros(len(found.scores))
    if isinstance(query.subject, RawVector):
        assert found.shares is None
        assert not found.fallback
    elif found.fallback:
        assert found.shares is None
    else:
        assert found.shares is not None
        total = found.shares.sum(axis=1)
        np.testing.assert_allclose(total, found.scores, **TOLERANCE)
        parts = world.parts(query.subject) * np.array(query.options.view_weights)[:, None]
        used = [v for v, part in zip("HTS", parts, strict=True) if part.any()]
        text = query.options.text_query
        alone = text is not None and (text.weight == 1 or not used)
        assert list(found.views_used) == ([] if alone and text.weight > 0 else used)  # type: ignore[union-attr]
    if query.options.min_score is not None:
        assert (found.scores.astype(float) >= query.options.min_score).all()
    if query.options.diversity == 1.0:
        assert (np.diff(found.scores) <= 0).all()
    assert len(found.explanations) in (0, len(found.ids))


@settings(max_examples=50)
@given(st.data())
def test_every_combination_answers_as_brute_force_over_the_whole_index(
    world: World, data: st.DataObject
) -> None:
    query = data.draw(queries(world))
    (found,) = world.retriever.retrieve([query])
    check(world, query, found)
    expected = brute_force(world, query)
    np.testing.assert_allclose(found.scores, [score for _, score in expected], rtol=1e-4, atol=1e-5)
    if query.options.diversity == 1.0:
        scores = dict(expected)
        for item_id, score in zip(found.ids, found.scores, strict=True):
            assert scores.get(item_id, score) == pytest.approx(score, rel=1e-4, abs=1e-5)


def brute_force(world: World, query: Query) -> list[tuple[str, float]]:
    """The answer by float64 arithmetic on parts and vectors, in plain loops."""
    index, options = world.serving.index, query.options
    vectors = index.main.vectors.astype(np.float64)
    subject = query.subject
    raw = isinstance(subject, RawVector)
    if raw:
        own = subject.vector.astype(np.float64)  # type: ignore[union-attr]
    else:
        own = (world.parts(subject) * np.array(options.view_weights)[:, None]).sum(axis=0)
    vector, text = own, options.text_query
    if text is not None and text.weight > 0:
        weight = text.weight if own.any() else 1.0
        vector = (1 - weight) * own + weight * world.parts(FreeText(text.text)).sum(axis=0)
    ids = index.ids.to_pylist()
    fallback = not raw and not vector.any()
    scores = index.main.popularity.astype(float) if fallback else vectors @ vector
    out = seen_by(world, query)
    wanted = query.filter or Filter()
    allowed = [
        row
        for row in np.argsort(-scores, kind="stable").tolist()
        if ids[row] not in out
        and ids[row] not in wanted.deny
        and (not wanted.kinds or world.kind_of[ids[row]] in wanted.kinds)
    ]
    if options.diversity < 1:
        allowed = allowed[: max(100, 5 * query.k)]
    if options.min_score is not None:
        allowed = [row for row in allowed if np.float32(scores[row]) >= options.min_score]
    if options.diversity < 1:
        allowed = by_hand(scores, vectors, allowed, query.k, options.diversity)
    return [(ids[row], float(scores[row])) for row in allowed[: query.k]]


def seen_by(world: World, query: Query) -> set[str]:
    subject = query.subject
    if isinstance(subject, SimilarTo):
        return {subject.item_id}
    if not query.exclude_seen:
        return set()
    if isinstance(subject, InlineViews):
        return {event.item_id for event in subject.views.history}
    if isinstance(subject, StoredUser):
        return {event.item_id for event in world.store.user_views(subject.user_id).history}
    return set()


def by_hand(scores: np.ndarray, vectors: np.ndarray, rows: list[int], k: int, weight: float) -> list[int]:
    """Maximal marginal relevance, one candidate and one pair of them at a time."""
    least, most = min((scores[r] for r in rows), default=0), max((scores[r] for r in rows), default=0)

    unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosine = (unit @ unit.T).tolist()
    chosen: list[int] = []
    while len(chosen) < min(k, len(rows)):
        values = {
            row: weight * ((scores[row] - least) / (most - least) if most > least else 1.0)
            - (1 - weight) * max((cosine[row][other] for other in chosen), default=0.0)
            for row in rows
            if row not in chosen
        }
        chosen.append(max(values, key=values.__getitem__))
    return chosen


@settings(max_examples=25)
@given(st.data())
def test_a_batch_answers_as_one_by_one(world: World, data: st.DataObject) -> None:
    batch = data.draw(st.lists(queries(world), min_size=1, max_size=6))
    together = world.retriever.retrieve(batch)
    for query, ours in zip(batch, together, strict=True):
        (alone,) = world.retriever.retrieve([query])
        same(ours, alone)
        np.testing.assert_allclose(
            ours.shares if ours.shares is not None else [], alone.shares if alone.shares is not None else [],
            rtol=1e-4, atol=1e-5,
        ) if ours.ids == alone.ids else None  # fmt: skip
        assert len(ours.explanations) == len(alone.explanations)


@settings(max_examples=25)
@given(st.data())
def test_views_sent_along_answer_like_the_same_views_stored(world: World, data: st.DataObject) -> None:
    user = data.draw(st.sampled_from(sorted(world.views)))
    stored = replace(data.draw(queries(world)), subject=StoredUser(user))
    sent = replace(stored, subject=InlineViews(world.views[user]))
    ours, theirs = (world.retriever.retrieve([query])[0] for query in (sent, stored))
    same(ours, theirs)
    for one, other in zip(ours.explanations, theirs.explanations, strict=True):
        for mine, yours in zip(one, other, strict=True):
            assert [c.value for c in mine] == pytest.approx([c.value for c in yours], rel=1e-3, abs=1e-5)


@settings(max_examples=20)
@given(st.data())
def test_diversity_of_one_is_the_plain_order(world: World, data: st.DataObject) -> None:
    query = data.draw(queries(world))
    one = replace(query, options=replace(query.options, diversity=1.0))
    plain = replace(query, options=QueryOptions())
    if query.options.min_score is None and query.options.view_weights == QueryOptions.view_weights:
        both = replace(one, options=replace(one.options, text_query=None, explain=False, exact=False))
        assert world.retriever.retrieve([both])[0].ids == world.retriever.retrieve([plain])[0].ids
    found = world.retriever.retrieve([one])[0]
    assert (np.diff(found.scores) <= 0).all()


def user_with(world: World, *views: str) -> str:
    """Return a user who has these views and no other."""
    for user, has in world.views.items():
        there = (has.history, has.texts, any(friend.history for friend in has.friends))
        if tuple(v for v, one in zip("HTS", there, strict=True) if one) == views:
            return user
    raise AssertionError(f"nobody has {views}")


def test_weights_multiply_the_parts(world: World) -> None:
    subject = StoredUser(user_with(world, "H", "T", "S"))
    found = world.ask(subject, view_weights=(2.0, 0.5, 0.0))
    plain = world.parts(subject)
    vectors = world.serving.index.vectors_of(world.serving.index.rows(found.ids))
    np.testing.assert_allclose(found.shares, vectors @ (plain * [[2.0], [0.5], [0.0]]).T, **TOLERANCE)
    assert found.views_used == ("H", "T")


def test_where_no_view_is_left_popularity_answers(world: World) -> None:
    only_text = StoredUser(user_with(world, "T"))
    left = world.ask(only_text, view_weights=(1.0, 0.0, 1.0))
    assert left.fallback
    assert left.views_used == ()
    assert left.ids == world.ask(StoredUser("u-nobody")).ids
    assert not world.ask(only_text, view_weights=(0.0, 1.0, 0.0)).fallback


def test_a_text_query_moves_the_vector_from_the_subject_to_the_text(world: World) -> None:
    subject, text = StoredUser(user_with(world, "H", "T", "S")), FreeText(TEXT)
    assert world.ask(subject, text_query=TextQuery(TEXT, 0.0)).ids == world.ask(subject).ids
    whole = world.ask(subject, 150, text_query=TextQuery(TEXT, 1.0))
    alone = world.ask(text, 150)
    scores = dict(zip(alone.ids, alone.scores.tolist(), strict=True))
    assert whole.scores.tolist() == pytest.approx([scores[x] for x in whole.ids], rel=1e-5, abs=1e-6)
    assert whole.views_used == ()
    assert whole.shares is not None
    assert not whole.shares[:, :3].any()
    half = world.ask(subject, 150, text_query=TextQuery(TEXT))
    assert half.shares is not None
    np.testing.assert_allclose(
        half.shares[:, 3], [0.5 * scores.get(x, 0) for x in half.ids], rtol=1e-4, atol=1e-5
    ) if set(half.ids) <= set(scores) else None
    nobody = world.ask(StoredUser("u-nobody"), text_query=TextQuery(TEXT, 0.2))
    assert not nobody.fallback
    assert nobody.ids == world.ask(text).ids


def test_a_text_query_beside_a_vector_blends_without_shares(world: World) -> None:
    vector = np.random.default_rng(5).normal(size=32).astype(np.float32)
    found = world.ask(RawVector(vector), text_query=TextQuery(TEXT, 0.3))
    blend = 0.7 * vector + 0.3 * world.parts(FreeText(TEXT)).sum(axis=0)
    vectors = world.serving.index.vectors_of(world.serving.index.rows(found.ids))
    np.testing.assert_allclose(found.scores, vectors @ blend, **TOLERANCE)
    assert found.shares is None
    with pytest.raises(VectorDimError, match="the vector has 3 values"):
        world.ask(RawVector(np.ones(3, np.float32)), text_query=TextQuery(TEXT))


def test_a_least_score_leaves_out_what_is_below(world: World) -> None:
    subject = StoredUser(user_with(world, "H", "T", "S"))
    plain = world.ask(subject, 20)
    least = float(plain.scores[7])
    found = world.ask(subject, 20, min_score=least)
    assert found.ids == [x for x, s in zip(plain.ids, plain.scores, strict=True) if s >= least]
    assert world.ask(subject, 20, min_score=math.nextafter(least, math.inf)).ids == plain.ids[:7]
    assert world.ask(subject, min_score=1e30).ids == []


def test_an_exact_query_says_so(world: World) -> None:
    assert world.ask(StoredUser("u-nobody"), exact=True).exact


@pytest.mark.parametrize("kind", ["HTS", "H", "T", "S"])
def test_all_contributions_of_a_view_sum_to_its_share(world: World, kind: str) -> None:
    subject = StoredUser(user_with(world, *kind))
    subject_views = views_of(world, subject)
    texts = world.store.user_views(subject.user_id).texts
    found = world.ask(subject, view_weights=(1.0, 2.0, 0.5), text_query=TextQuery(TEXT), explain=True)
    assert found.shares is not None
    every = sources_of(world.serving, subject_views, {})
    for i, sources in enumerate(every):
        assert (sources is not None) == ("HTS"[i] in kind)
        for explanation, shares in zip(found.explanations, found.shares, strict=True):
            listed = [one.value for one in explanation[i]]
            assert len(listed) == (min(3, len(sources.names)) if sources else 0)
            assert listed == sorted(listed, reverse=True)
            if sources and len(sources.names) <= 3:
                assert sum(listed) == pytest.approx(shares[i], rel=1e-4, abs=1e-5)
    for events, wrote, friends in found.explanations:
        views = world.views[subject.user_id]
        assert {one.name for one in events} <= {event.item_id for event in views.history}
        assert {one.name for one in wrote} <= {text[:200] for text in texts}
        assert {one.name for one in friends} <= {friend.friend_id for friend in views.friends}


def test_only_an_explanation_reads_texts_and_nothing_else_of_the_store(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, read = user_with(world, "H", "T", "S"), []
    texts_of = Store.texts_of

    def counted(self: Store, user_id: str) -> set[str]:
        read.append(user_id)
        return texts_of(self, user_id)

    monkeypatch.setattr(Store, "texts_of", counted)
    monkeypatch.setattr(Store, "snapshot", None)  # what all reads of views begin with
    assert world.ask(StoredUser(user)).ids
    assert not read
    assert any(said[1] for said in world.ask(StoredUser(user), explain=True).explanations)
    assert world.ask(StoredUser(user_with(world, "H")), explain=True).explanations
    assert read == [user]


def test_a_user_with_few_sources_is_explained_in_full(world: World) -> None:
    first, second, third = world.items[3:6]
    friend = next(f.friend_id for v in world.views.values() for f in v.friends if f.history)
    views = UserViews(
        (Event(first, weight=3.0), Event(second), Event(first), Event(third)),
        (TEXT, "trains"),
        (Friend(friend, 1.0, ()),),
    )
    found = world.ask(InlineViews(views), explain=True)
    assert found.shares is not None
    for explanation, shares in zip(found.explanations, found.shares, strict=True):
        assert {one.name for one in explanation[0]} == {first, second, third}
        assert {one.name for one in explanation[1]} == {TEXT, "trains"}
        assert [one.name for one in explanation[2]] == [friend]
        for some, share in zip(explanation, shares, strict=False):
            assert sum(one.value for one in some) == pytest.approx(share, rel=1e-4, abs=1e-5)


def test_the_event_that_a_result_is_like_contributes_most(world: World) -> None:
    """A history of two dissimilar items: each of them contributes most to its own score."""
    table = world.serving.model.table
    unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)
    cosines = unit @ unit.T
    a, b = np.unravel_index(
        np.where(table.any(axis=1)[:, None] & table.any(axis=1), cosines, 2).argmin(), cosines.shape
    )
    names = world.serving.model.item_ids
    first, second = names[int(a)].as_py(), names[int(b)].as_py()
    views = InlineViews(UserViews((Event(first), Event(second))))
    found = world.retriever.retrieve([Query(views, 150, False, options=QueryOptions(explain=True))])[0]
    greatest = {x: said[0][0].name for x, said in zip(found.ids, found.explanations, strict=True)}
    assert greatest[first] == first
    assert greatest[second] == second


def test_candidates_without_a_finite_score_are_left_out() -> None:
    rows, scores = np.array([[4, 2, 0, -1]]), np.array([[3.0, np.nan, 1.0, -np.inf]], np.float32)
    index = SimpleNamespace(search=lambda *_: (rows, scores))
    vector = QueryVector(np.ones(2, np.float32), None, np.ones(3, np.float32))
    none = np.zeros(0, dtype=np.int64)
    ((found, of_them),) = search(index, [Query(FreeText("x"), 4)], [vector], [none], None)  # type: ignore[arg-type]
    assert (found.tolist(), of_them.tolist()) == ([4, 0], [3.0, 1.0])


def test_a_fallback_has_no_explanation(world: World) -> None:
    found = world.ask(StoredUser("u-nobody"), explain=True)
    assert found.fallback
    assert found.explanations == ()


def test_the_terms_beyond_the_longest_hundred_count_as_one() -> None:
    rng = np.random.default_rng(0)
    terms = rng.normal(size=(130, 6)).astype(np.float32)
    sources = Sources.of([str(i) for i in range(130)], terms, (4, 2))
    assert sources is not None
    assert len(sources.names) == 100
    assert sources.terms.shape == (101, 6)
    whole = sources.terms.sum(axis=0)
    total = terms.sum(axis=0)
    np.testing.assert_allclose(whole[:4], total[:4] / np.linalg.norm(total[:4]), **TOLERANCE)
    np.testing.assert_allclose(whole[4:], total[4:] / np.linalg.norm(total[4:]), **TOLERANCE)
    assert sources.portions.sum() == pytest.approx(1.0, abs=1e-5)
    assert (np.diff(sources.lengths[:-1]) <= 1e-7).all()


def test_sources_by_hand() -> None:
    sources = Sources.of(["nought", "far", "near"], np.array([[0, 0], [0, 4], [3, 0]], np.float32), (2,))
    assert sources is not None
    assert sources.names == ["far", "near"]
    np.testing.assert_allclose(sources.lengths, [0.8, 0.6, 0.0], atol=1e-6)
    np.testing.assert_allclose(sources.portions, [0.64, 0.36, 0.0], atol=1e-6)
    assert Sources.of(["a", "b"], np.array([[1, 0], [-1, 0]], np.float32), (2,)) is None


def test_a_stored_text_that_was_deleted_meanwhile_is_not_named(world: World) -> None:
    subject = StoredUser(user_with(world, "H", "T", "S"))
    query = Query(subject, 3)
    subject_views = views_of(world, subject)
    (found,) = world.retriever.retrieve([query])
    (with_all,) = world.retriever.retrieve([replace(query, options=QueryOptions(explain=True))])
    assert any(one[1] for one in with_all.explanations)
    views = raw_views(world.serving, subject_views)
    parts = world.serving.model.encode_users(views)
    query_vector = query_vector_of(query, QueryVector(parts.vectors[0], parts.parts[0], UNSCALED), None)
    vectors = world.serving.index.vectors_of(world.serving.index.rows(found.ids))
    assert found.shares is not None
    said = explained(world.serving, subject_views, views, query_vector, vectors, found.shares, {})
    assert [one[1] for one in said] == [()] * 3
    assert all(one[0] and one[2] for one in said)
