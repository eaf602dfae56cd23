"""Weights and vectors that are finite and far too great: refused, or bounded where an old store has them."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from encoder.arrays import Actions, Events
from encoder.config import TowerConfig
from encoder.views import event_matrix, history_view, social_view
from store.export import Export, create_export
from store.home import Home
from store.imports.run import import_folder
from store.state.packing import Friendships
from store.store import Store
from store.tables import MAX_WEIGHT
from tests.command_line import Run
from tests.live_server import copy_home, server
from triptych_client.pb.v1 import ingest_pb2 as ig
from triptych_client.pb.v1 import ingest_pb2_grpc as igrpc
from triptych_client.pb.v1 import triptych_pb2 as pb

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")

HUGE = 1.7e308  # finite; twice as much is not


@pytest.fixture
def old_home(small_home: Home, tmp_path: Path) -> Home:
    """A home whose store took any finite weight, as stores did."""
    home = copy_home(small_home, tmp_path / "old")
    with Store.open(home.database) as store, store.writing() as cursor:
        cursor.execute(f"""
            INSERT INTO data.behaviors (user_id, item_id, action, weight)
            SELECT 'wbig', item_id, unnest(['a', 'b']), {HUGE} FROM data.items ORDER BY item_id LIMIT 2""")
        cursor.execute(f"""
            INSERT INTO data.social (user_id, friend_id, relation, weight) VALUES
            ('fan', 'wbig', 'a', 1), ('tied', 'wbig', 'a', {HUGE}), ('tied', 'wbig', 'b', {HUGE})""")
    return home


def finite(reply: pb.QueryResponse) -> pb.QueryResponse:
    assert len(reply.item_ids) == 5
    for values in (reply.scores, reply.history_shares, reply.social_shares):
        assert np.isfinite(values).all()
    return reply


def test_what_an_old_store_holds_gives_people_finite_vectors_of_their_views(old_home: Home) -> None:
    with server(old_home) as client:
        for user, view in (("wbig", pb.VIEW_HISTORY), ("fan", pb.VIEW_SOCIAL), ("tied", pb.VIEW_SOCIAL)):
            reply = finite(client.query(user_id=user, k=5))
            assert (list(reply.views_used), reply.fallback) == ([view], pb.FALLBACK_NONE)
            encoded = client.retrieval.EncodeUser(pb.EncodeUserRequest(user_id=user)).vector.values
            assert np.isfinite(encoded).all()
            assert np.any(encoded)
        friends = pb.Views(friends=[pb.Friend(friend_id="wbig", weight=MAX_WEIGHT)])
        assert list(finite(client.query(views=friends, k=5)).views_used) == [pb.VIEW_SOCIAL]
        requests = [pb.QueryRequest(user_id=user, k=5) for user in ("tied", "wbig")]
        for reply in client.retrieval.QueryBatch(pb.QueryBatchRequest(requests=requests)).responses:
            finite(reply)


def test_one_row_of_an_old_store_does_not_keep_anybody_from_training(
    old_home: Home, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    code, _, err = run("train", "--home", old_home.path, "--fusion", "ridge", "--dim", 16)
    assert code == 0, err
    assert "4 rows weigh more than 1e+12, as an older store let them: they count as 1e+12" in caplog.text
    code, out, err = run("reindex", "--home", old_home.path)
    assert (code, "serves" in out) == (0, True), err


def test_training_and_serving_count_an_old_tie_alike(old_home: Home) -> None:
    with Store.open(old_home.database) as store:
        export_id = create_export(store, old_home.exports)
        served = {friend.friend_id: friend.weight for friend in store.user_views("tied").friends}
    with Export.open(old_home.exports / export_id) as export:
        rows = export.friends().to_pylist()
        trained = {row["friend_id"]: row["weight"] for row in rows if row["user_id"] == "tied"}
    packed = Friendships(("wbig", "wbig"), (0, 1), (HUGE, HUGE), (0, 0)).by_friend()
    assert trained == served == packed == {"wbig": 2 * MAX_WEIGHT}


@given(
    weights=st.lists(st.floats(0, allow_infinity=False), min_size=1, max_size=12),
    factor=st.floats(0, allow_infinity=False),
    weighting=st.sampled_from(["log", "binary"]),
)
def test_any_finite_weights_give_a_finite_history(
    weights: list[float], factor: float, weighting: str
) -> None:
    n = len(weights)
    events = Events(
        np.zeros(n, np.int64),
        np.arange(n) // 3,
        Actions.of(["a", "b"] * n).where(np.arange(2 * n) < n),
        np.array(weights),
        np.zeros(n, np.int64),
    )
    matrix = event_matrix(events, (1, 4), TowerConfig(weighting=weighting, actions={"b": factor}))
    assert np.isfinite(matrix.data).all()
    assert (matrix.data > 0).all()
    pooled = history_view(matrix, np.ones((4, 2), np.float32))
    assert np.linalg.norm(pooled) == pytest.approx(float(matrix.nnz > 0))
    ties = sparse.csr_array(np.minimum(weights, MAX_WEIGHT)[None, :])
    assert np.isfinite(social_view(ties, np.ones((n, 2), np.float32))).all()


def test_a_weight_beyond_the_bound_is_refused_on_import(tmp_path: Path) -> None:
    (tmp_path / "items.csv").write_text("item_id\ni\n")
    (tmp_path / "behaviors.csv").write_text(
        "user_id,item_id,weight,ts\nu,i,1e12,1\nu,i,1000000000001,2\nu,i,1.7e308,3\n"
    )
    (tmp_path / "social.csv").write_text("user_id,friend_id,weight\nu,v,1e12\nu,w,2e12\n")
    with Store.open(tmp_path / "views.duckdb") as store:
        report = import_folder(store, tmp_path, rejects=tmp_path / "rejects")
        assert report.tables["behaviors"].rejected == {"weight_too_large": 2}
        assert report.tables["social"].rejected == {"weight_too_large": 1}
        assert [event.weight for event in store.user_views("u").history] == [MAX_WEIGHT]


def test_a_weight_beyond_the_bound_is_refused_by_a_server(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    with Store.open(home.database) as store:
        item = str(store.visible_events().column("item_id")[0])
    with server(home) as client:
        stub = igrpc.IngestStub(client.channel)
        rows = [ig.BehaviorRow(user_id="w", item_id=item, action=a, weight=HUGE) for a in "ab"]
        refused = stub.AppendBehaviors(ig.AppendBehaviorsRequest(behaviors=rows)).rejected
        assert [one.reason for one in refused] == ["weight_too_large"] * 2
        ties = [ig.FriendRow(user_id="w", friend_id="v", relation=r, weight=HUGE) for r in "ab"]
        refused = stub.PutFriends(ig.PutFriendsRequest(friends=ties)).rejected
        assert [one.reason for one in refused] == ["weight_too_large"] * 2
        reply = finite(client.query(user_id="w", k=5))
        assert reply.fallback == pb.FALLBACK_POPULARITY


def test_imported_text_vectors_count_by_their_direction(tmp_path: Path) -> None:
    (tmp_path / "texts.jsonl").write_text(
        '{"user_id": "u", "text": "a", "vector": [3e38, 3e38], "text_model_id": "m"}\n'
        '{"user_id": "u", "text": "b", "vector": [0, -1e-30], "text_model_id": "m"}\n'
        '{"user_id": "u", "text": "c", "vector": [0, 0], "text_model_id": "m"}\n'
    )
    with Store.open(tmp_path / "views.duckdb") as store:
        import_folder(store, tmp_path, rejects=tmp_path / "rejects", strict=True)
        ((_, vectors),) = store.imported_vectors("m")
    np.testing.assert_allclose(vectors, [[0.5**0.5, 0.5**0.5], [0, -1], [0, 0]], rtol=1e-6)
