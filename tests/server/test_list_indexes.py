"""ListIndexes: newest first, what serves is marked, and a damaged manifest hides no other."""

import shutil
from pathlib import Path

from store.home import Home
from store.listing import list_artifacts
from tests.live_server import copy_home, refusal, server
from triptych_client.pb.v1 import triptych_pb2 as pb


def test_indexes_are_listed_newest_first(small_home: Home, tmp_path: Path) -> None:
    home = copy_home(small_home, tmp_path / "home")
    (first,) = [path.name for path in home.indexes.iterdir() if not path.name.startswith(".")]
    broken = home.indexes / "29990101T000000000000-abcd"
    shutil.copytree(home.indexes / first, broken)
    (broken / "manifest.json").unlink()
    (broken / "manifest.json").write_text("{}")
    listed = list_artifacts(home.indexes, 10)
    assert [one.artifact_id for one in listed] == [broken.name, first]
    assert [one.damaged for one in listed] == [True, False]
    assert listed[1].facts["items"] == 150
    assert listed[1].nbytes > 1_000
    assert [one.artifact_id for one in list_artifacts(home.indexes, 1)] == [broken.name]
    with server(home) as client:
        damaged, serves = client.admin.ListIndexes(pb.ListIndexesRequest(), timeout=60).indexes
        assert (damaged.damaged, damaged.serving, damaged.items) == (True, False, 0)
        assert (serves.index_id, serves.serving, serves.items, serves.dim) == (first, True, 150, 32)
        assert serves.created.seconds > 0
        too_many = pb.ListIndexesRequest(limit=1_001)
        assert refusal(lambda: client.admin.ListIndexes(too_many, timeout=60)).reason == "INVALID_REQUEST"
