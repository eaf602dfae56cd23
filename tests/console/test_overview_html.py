"""Alerts and charts as HTML: escaped, with words for severities, and with gaps where nothing was asked."""

import json
import re
import struct
from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from console.alerts import alerts_html
from console.minutes import MinuteSeries, minutes_html
from console.pages.map import packed_points, placed
from console.words import Words
from triptych_client import MapOfItems
from triptych_client.pb.v1 import triptych_pb2 as pb

NOW = datetime(2026, 1, 1, 12, 30, tzinfo=UTC)


def alert(**fields: object) -> pb.Alert:
    since = Timestamp()
    since.FromDatetime(datetime(2026, 1, 1, 12, 0, tzinfo=UTC))
    return pb.Alert(since=since, **fields)  # type: ignore[arg-type]


def test_an_alert_says_what_is_wrong_since_when_and_what_to_do() -> None:
    one = alert(
        name="TriptychErrors",
        severity="critical",
        labels={"method": "<b>"},
        summary="2% of <b> fail.",
        advice="Look.",
    )
    english = alerts_html([one], 16, Words("en"), NOW)
    assert "critical: 2% of &lt;b&gt; fail." in english
    assert "for 30 min" in english
    assert "Look." in english
    assert "<b>fail" not in english
    chinese = alerts_html([one], 16, Words("zh"), NOW)
    assert "严重: 调用失败过多（&lt;b&gt;）" in chinese
    assert "none of 16 conditions" in alerts_html([], 16, Words("en"), NOW)


def test_a_line_has_gaps_and_a_point_alone_is_seen() -> None:
    series = MinuteSeries("p99", "t-text", [1.0, 2.0, None, 4.0, None])
    drawn = minutes_html("Latency", [series], "ms")
    assert len(re.findall("<polyline", drawn)) == 2
    assert len(re.findall("<circle", drawn)) == 1
    assert "4 ms" in drawn
    assert 'points="0.0,96.0 150.0,66.0"' in drawn
    empty = minutes_html("Calls", [MinuteSeries("calls", "t-history", [])], "", bars=True)
    assert "<rect" not in empty


def test_bars_are_as_high_as_their_values() -> None:
    drawn = minutes_html("Calls", [MinuteSeries("a", "t-history", [5, 10])], "", bars=True)
    assert re.findall(r'height="([\d.]+)"', drawn) == ["60.0", "120.0"]


def found() -> MapOfItems:
    axes = pb.MapAxes(
        first=[1, 0, 0],
        second=[0, 1, 0],
        mean=[0.5, 0],
        explained=[0.3, 0.2],
        items=3,
        points=2,
        groups=["x"],
    )
    return MapOfItems(axes, ["a\nb", "c"], struct.pack("4f", 3, 4, -3, -4), bytes([0, 255]))


def test_the_arrows_of_a_person_add_up_and_are_as_long_as_the_points_are_far() -> None:
    encoded = pb.EncodeUserResponse(
        vector=pb.Vector(values=[3, 4, 12]),
        history_part=pb.Vector(values=[3, 0, 12]),
        text_part=pb.Vector(values=[0, 4, 0]),
    )
    person = placed(encoded, found(), Words("en"))
    assert person is not None
    assert person["parts"] == ["history", "text", "whole"]
    assert person["origin"] == [-0.5, 0.0]
    history, text, whole = ([x + 0.5, y] for x, y in person["places"])
    assert [a + b for a, b in zip(history, text, strict=True)] == whole
    assert whole == [3.0, 4.0]  # 5 long, as far as both points are
    assert person["share"] == 25 / 169
    nobody = pb.EncodeUserResponse(vector=pb.Vector(values=[0, 0, 0]))
    assert placed(nobody, found(), Words("en")) is None


def test_points_are_packed_as_the_script_reads_them() -> None:
    packed = packed_points(found(), Words("en"))
    size = int.from_bytes(packed[:4], "little")
    assert (4 + size) % 4 == 0  # floats follow
    head = json.loads(packed[4 : 4 + size])
    assert head["points"] == 2
    assert head["said"] == "A sample of 2 of 3 items. The axes hold 30% and 20% of the variance."
    assert packed[4 + size + 16 :] == bytes([0, 255]) + b"a b\nc"
