"""bench state: stores that answer alike, before and after a write."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from scripts.bench.command import app
from scripts.bench.user_state import STORES, StateOptions, StateStore, synthetic_users, timed_reads
from store.state.packing import EVENT

OPTIONS = StateOptions(users=60, events=7, friends=5, texts=2)


@pytest.mark.parametrize("kind", STORES, ids=lambda kind: kind.name)
def test_every_store_reads_what_was_written(tmp_path: Path, kind: type[StateStore]) -> None:
    world = {user.user_id: user for user in synthetic_users(OPTIONS)}
    user = world["u0000003"]
    store = kind(tmp_path)  # type: ignore[call-arg]
    store.fill(iter(world.values()))
    event = np.array([(10**9, 4, 0, 1.0, False)], EVENT)
    friend = world[user.ties.friends[1]]
    for _ in range(2):  # the second one is known
        store.write(friend.user_id, event)
    found = store.read(user.user_id)
    parts = [world[friend_id].events for friend_id in (user.user_id, *user.ties.friends)]
    parts[2] = np.concatenate([parts[2], event])
    assert found.events.tobytes() == np.concatenate(parts).tobytes()
    assert found.texts == [row.tobytes() for row in user.texts["digest"]]
    assert found.weights == list(user.ties.weights)
    assert len(timed_reads(store, list(world), 4)) == len(world)
    assert store.size() > 0
    store.close()


def test_the_command_measures_every_store(tmp_path: Path) -> None:
    words = ["--users", "60", "--events", "4", "--reads", "8", "--writes", "2", "--rounds", "1"]
    result = CliRunner().invoke(app, ["state", *words, "--json", str(tmp_path / "state.json")])
    assert result.exit_code == 0, result.output
    report = (tmp_path / "state.json").read_text("utf-8")
    for kind in STORES:
        assert f"{kind.name}/write" in report or kind is STORES[0]
