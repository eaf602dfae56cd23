"""Vectors of erased people leave the disk in time, whatever serves and whatever is in the way."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from encoder.text.cache import TextCache
from indexer.building import stored_users
from indexer.publish import current_index, load_index
from server.config import ServerConfig
from server.live.commits import CommitListener
from server.live.forgetting import BuildFailedError, Forgetting
from server.live.publisher import OtherIndexServesError, Publisher
from server.query.retriever import Retriever
from server.supervisor import Supervisor
from store.artifact import artifacts
from store.export import create_export
from store.home import Home
from store.privacy.erase import erase_user, list_erasures
from store.state.rebuild import bring_up_to_date
from store.state.state import UserState
from store.store import Store
from tests.live_server import copy_home, refusal, server, soon
from triptych_client import Behavior, Client
from triptych_client.pb.v1 import triptych_pb2 as pb

DAY = timedelta(days=1)


class Place:
    """What forgets in a server, with a clock that is set by hand."""

    def __init__(self, home: Home, stack: ExitStack) -> None:
        self.home = home
        self.store = stack.enter_context(Store.open(home.database))
        self.state = stack.enter_context(UserState.open(home.state))
        cache = stack.enter_context(closing(TextCache.open(home.text_cache)))
        bring_up_to_date(self.store, self.state)
        retriever = Retriever(self.store, self.state)
        supervisor = Supervisor()
        self.listener = stack.enter_context(CommitListener(self.store, self.state, retriever, supervisor))
        config = ServerConfig(home)
        self.publisher = Publisher(
            config, self.store, self.state, cache, retriever, self.listener, supervisor
        )
        self.publisher.resume()
        self.now = datetime.now(UTC).replace(tzinfo=None)
        self.forgetting = Forgetting(home, self.store, self.publisher, DAY, supervisor, lambda: self.now)

    def erase(self, user_id: str) -> None:
        erase_user(self.store, self.state, user_id, (), ())
        self.listener.erased(user_id)

    def holding(self, user_id: str) -> list[str]:
        indexes = self.home.indexes
        return [index_id for index_id in artifacts(indexes) if user_id in stored_users(indexes / index_id)]


@pytest.fixture
def place(small_home: Home, tmp_path: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        yield Place(copy_home(small_home, tmp_path / "home"), stack)


def people(home: Home, count: int) -> list[str]:
    users = load_index(home, current_index(home).name).users
    assert users is not None
    return users.item_ids(np.arange(count))


def test_all_who_were_erased_go_in_one_step_after_half_the_time(place: Place) -> None:
    ann, bob, eve = people(place.home, 3)
    old = place.publisher.index_id
    place.erase(ann)
    place.now += DAY / 4
    place.erase(bob)
    place.now += DAY / 4 - timedelta(minutes=5)
    assert place.forgetting.look() == []
    assert (place.holding(ann), place.publisher.index_id) == ([old], old)
    place.now += timedelta(minutes=6)
    assert place.forgetting.look() == [old]
    new = place.publisher.index_id
    assert artifacts(place.home.indexes) == [new] != [old]
    assert current_index(place.home).name == new
    assert [place.holding(user) for user in (ann, bob, eve)] == [[], [], [new]]
    assert place.forgetting.look() == []  # once is enough
    place.now += 10 * DAY
    assert place.forgetting.look() == []
    assert place.publisher.index_id == new
    last = json.loads(place.home.audit_log.read_text("utf-8").splitlines()[-1])
    assert (last["action"], last["indexes"]) == ("remove_indexes", [old])
    assert ann not in place.home.audit_log.read_text("utf-8")


def test_who_came_back_stays_and_the_vector_of_before_goes(place: Place) -> None:
    ann, *_ = people(place.home, 1)
    old, seen = place.publisher.index_id, load_index(place.home, place.publisher.index_id).users
    assert seen is not None
    before = seen.vectors_of(seen.rows([ann]))
    place.erase(ann)
    with place.store.writing({ann}) as cursor:
        cursor.execute(
            "INSERT INTO data.behaviors (user_id, item_id) SELECT $1, min(item_id) FROM data.items", [ann]
        )
    bring_up_to_date(place.store, place.state)
    place.now += DAY
    assert place.forgetting.look() == [old]
    now = load_index(place.home, place.publisher.index_id).users
    assert now is not None
    assert (now.main.ids.column.to_pylist().count(ann), len(now.delta.changes())) == (1, 0)
    assert not np.allclose(now.vectors_of(now.rows([ann])), before)
    assert place.forgetting.look() == []  # the person who came back is there by right


def test_a_target_of_a_roll_back_goes_though_the_index_that_serves_is_free_of_the_erased(
    place: Place,
) -> None:
    ann, *_ = people(place.home, 1)
    old = place.publisher.index_id
    place.erase(ann)
    create_export(place.store, place.home.exports)
    new = place.forgetting._build()
    place.publisher.publish(new)
    place.now += DAY
    (place.home.indexes / ".spool-left").mkdir()
    os.utime(place.home.indexes / ".spool-left", (0, 0))
    assert place.forgetting.look() == [old]
    assert (artifacts(place.home.indexes), place.publisher.index_id) == ([new], new)
    assert not (place.home.indexes / ".spool-left").exists()


def test_a_failure_leaves_everything_and_is_made_up_for(place: Place) -> None:
    ann, *_ = people(place.home, 1)
    old = place.publisher.index_id
    place.erase(ann)
    place.now += DAY
    model = next(place.home.models.glob("*/user_tower.onnx"))
    model.rename(model.with_suffix(".away"))
    with pytest.raises(BuildFailedError, match="exit code 1") as error:
        place.forgetting.look()
    assert error.value.code == 1
    assert (artifacts(place.home.indexes), place.publisher.index_id) == ([old], old)
    model.with_suffix(".away").rename(model)
    assert place.forgetting.look() == [old]


def test_an_index_made_in_the_meantime_is_not_replaced_by_an_older_one(place: Place) -> None:
    old = place.publisher.index_id
    with pytest.raises(OtherIndexServesError, match=f"index {old} serves by now, not another") as error:
        place.publisher.publish_in_place_of("another", old)
    assert (error.value.before, error.value.serving) == ("another", old)


def test_people_whom_no_index_holds_and_a_time_of_zero_cost_nothing(place: Place) -> None:
    place.erase("nobody")
    place.now += 3 * DAY
    assert place.forgetting.look() == []
    assert len(list_erasures(place.store)) == 1
    assert Forgetting(place.home, place.store, place.publisher, timedelta()).look_at is None


def test_a_server_forgets_while_it_answers(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    ann, bob = people(home, 2)
    with server(home, "--forget-hours", "0.001") as live, Client(live.address) as client:
        old = client.status().index_id
        client.erase_user(ann)
        soon(lambda: old not in artifacts(home.indexes))
        new = client.status().index_id
        assert artifacts(home.indexes) == [new]
        assert ann not in stored_users(home.indexes / new)
        assert bob in stored_users(home.indexes / new)
        assert refusal(lambda: live.admin.RollbackIndex(pb.RollbackIndexRequest())).reason == "NO_OLDER_INDEX"
        client.append_behaviors([Behavior(ann, client.query(user_id=bob, k=1).item_ids[0])])
        soon(lambda: ann in client.query(user_id=bob, k=1000, target=pb.TARGET_USERS).user_ids)
