"""People who are asked for are compared with those whom the model was trained on."""

from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest

from encoder.drift.reference import DriftReference
from encoder.drift.stability import BINS, QUANTITIES
from encoder.text.cache import TextCache
from indexer.publish import current_index, load_index
from server.query import DriftSampler, Query, QueryOptions, Retriever, StoredUser, prepare
from server.telemetry import Figures, FiguresSource
from server.telemetry.drift_metrics import LEAST_SAMPLES
from server.telemetry.exposition import ProcessSum
from store.home import Home
from store.state.rebuild import bring_up_to_date
from store.state.state import UserState
from store.store import Store
from tests.live_server import copy_home


@pytest.fixture(scope="module")
def home(small_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    return copy_home(small_home, tmp_path_factory.mktemp("drift") / "home")


@pytest.fixture(scope="module")
def retriever(home: Home) -> Iterator[Retriever]:
    with (
        Store.open(home.database) as store,
        UserState.open(home.state) as state,
        closing(TextCache.open(home.text_cache)) as cache,
    ):
        bring_up_to_date(store, state)
        serving = prepare(home, load_index(home, current_index(home).name), store, state, cache, 1)
        yield Retriever(store, state, serving)


def told(*figures: Figures) -> dict[str, float]:
    """The indexes that a scrape tells."""
    sources = [FiguresSource(f"query-{place}", "", one.read()) for place, one in enumerate(figures)]
    metrics = {metric.name: metric for metric in ProcessSum(lambda: sources).collect()}
    indexes = {sample.labels["quantity"]: sample.value for sample in metrics["triptych_drift_psi"].samples}
    return indexes | {"samples": metrics["triptych_drift_samples"].samples[0].value}


def sample(sampler: DriftSampler, retriever: Retriever, users: list[str], start: float) -> None:
    """Have each user sampled, a second apart."""
    queries = [Query(StoredUser(user_id)) for user_id in users]
    for place, (query, answer) in enumerate(zip(queries, retriever.retrieve(queries), strict=True)):
        sampler.offer(start + 2.0 * place, [query], [answer])
        sampler.look()


def test_a_model_knows_how_people_were(home: Home, retriever: Retriever) -> None:
    reference = DriftReference.load(home.models / retriever.snapshot.model.model_id)
    assert reference is not None
    assert set(reference.distributions) == set(QUANTITIES)
    assert reference.centre.shape == (retriever.snapshot.model.dim,)


def test_the_people_of_the_training_have_not_drifted_and_some_of_them_alone_have(
    home: Home, retriever: Retriever
) -> None:
    figures = Figures()
    sampler = DriftSampler(figures, home.models, retriever)
    sampler.look()  # the model that serves
    everybody = [f"u{number:05d}" for number in range(200)]
    sample(sampler, retriever, everybody, 0.0)
    few = told(figures)
    assert few["samples"] == pytest.approx(200, rel=0.05)
    assert few.keys() == {"samples"}  # too few to say
    sample(sampler, retriever, everybody * 3, 1e6)
    calm = told(figures)
    assert calm["samples"] > LEAST_SAMPLES
    assert max(calm[name] for name in QUANTITIES) < 0.1, calm

    others = Figures()
    sampler = DriftSampler(others, home.models, retriever)
    sampler.look()
    sample(sampler, retriever, everybody[:5] * 130, 0.0)
    assert max(told(others)[name] for name in QUANTITIES) > 0.25
    both = told(figures, others)  # of two processes
    assert both["samples"] == pytest.approx(calm["samples"] + told(others)["samples"])


def test_one_person_a_second_is_taken_of_plain_queries_alone(home: Home, retriever: Retriever) -> None:
    figures = Figures()
    sampler = DriftSampler(figures, home.models, retriever)
    sampler.look()
    plain = Query(StoredUser("u00001"))
    (answer,) = retriever.retrieve([plain])

    def taken(now: float, query: Query, answer: object) -> bool:
        before = sum(figures.cells("drift_weights"))
        sampler.offer(now, [query], [answer])
        sampler.look()
        return sum(figures.cells("drift_weights")) > before

    assert taken(10.0, plain, answer)
    assert not taken(10.5, plain, answer)  # within a second
    assert not taken(20.0, Query(StoredUser("u00001"), offset=5), answer)
    assert not taken(20.0, Query(StoredUser("u00001"), exclude_seen=False), answer)
    assert not taken(20.0, Query(StoredUser("u00001"), options=QueryOptions(exact=True)), answer)
    assert not taken(20.0, plain, None)  # it failed
    nobody = Query(StoredUser("nobody"))
    assert not taken(20.0, nobody, retriever.retrieve([nobody])[0])
    assert taken(20.0, plain, answer)


def test_a_person_is_counted_by_what_a_query_is_made_of(home: Home, retriever: Retriever) -> None:
    figures = Figures()
    sampler = DriftSampler(figures, home.models, retriever)
    sampler.look()
    reference = DriftReference.load(home.models / retriever.snapshot.model.model_id)
    assert reference is not None
    user = StoredUser("u00003")
    (answer,) = retriever.retrieve([Query(user)])
    sampler.offer(10.0, [Query(user)], [answer])
    sampler.look()
    vector = retriever.encode(user).vector
    for quantity, value in (
        ("vector_length", float(np.linalg.norm(vector))),
        ("best_score", float(answer.scores[0])),
    ):
        wanted = [0.0] * BINS
        wanted[reference.distributions[quantity].bin_of(value)] = 1.0
        assert list(figures.cells("drift_weights", quantity)) == wanted
