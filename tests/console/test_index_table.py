"""Where the indexes are that the page Indexes tells of."""

import re

import pytest

from console.pages.indexes import index_table
from console.words import Words
from triptych_client.pb.v1 import triptych_pb2 as pb

BUCKET, BOTH, UNKNOWN = pb.INDEX_LOCATION_BUCKET, pb.INDEX_LOCATION_BOTH, pb.INDEX_LOCATION_UNKNOWN


def rows(language: str, **locations: "pb.IndexLocation.ValueType") -> list[list[str]]:
    indexes = [
        pb.IndexSummary(index_id=one, items=3, location=place, damaged=one == "broken")
        for one, place in locations.items()
    ]
    table = index_table(indexes, Words(language))
    return [re.findall(r"<t[hd][^>]*>([^<]*)", row) for row in re.findall(r"<tr>.*?</tr>", table)]


def test_without_a_bucket_nothing_is_said_of_places() -> None:
    assert "Where" not in rows("en", a=pb.INDEX_LOCATION_DISK)[0]


@pytest.mark.parametrize(
    ("language", "names"),
    [
        ("en", ["Where", "server", "bucket", "server and bucket", "server"]),
        ("zh", ["位置", "服务器", "存储桶", "服务器和存储桶", "服务器"]),
    ],
)
def test_with_a_bucket_each_has_a_place(language: str, names: list[str]) -> None:
    found = rows(language, a=pb.INDEX_LOCATION_DISK, b=BUCKET, broken=BOTH, d=UNKNOWN)
    assert [row[-1] for row in found] == names
    assert {len(row) for row in found} == {10}
