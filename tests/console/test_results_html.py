"""Results as HTML: escaped, with bars that are as long as the shares, and reasons."""

import re

from console.results import names_in, results_html, summary_of
from console.tables import rows_html
from console.words import Words
from triptych_client.pb.v1 import triptych_pb2 as pb

SAY = Words("en")


def test_a_bar_is_split_by_view_and_the_longest_fills_the_row() -> None:
    reply = pb.QueryResponse(
        item_ids=["a", "b"], scores=[4, 1], history_shares=[3, 1.5], text_shares=[1, -0.5]
    )
    widths = re.findall(
        r'class="t-piece t-(\w+)( t-minus)?" style="width:([\d.]+)%"', results_html(reply, {}, SAY)
    )
    assert widths == [
        ("history", "", "75.00"),
        ("text", "", "25.00"),
        ("history", "", "37.50"),
        ("text", " t-minus", "12.50"),
    ]


def test_what_the_server_sends_is_escaped() -> None:
    bad = "<script>alert(1)</script>\"'&"
    why = pb.Explanation(texts=[pb.Contribution(name=bad, value=1)])
    reply = pb.QueryResponse(item_ids=[bad, "x"], scores=[1, 1], explanations=[why, why])
    shown = results_html(reply, {"x": bad}, SAY) + rows_html([bad], [[bad, bad]], {bad: bad})
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") >= 5


def test_reasons_name_items_by_their_titles() -> None:
    why = pb.Explanation(events=[pb.Contribution(name="e", value=0.25)])
    reply = pb.QueryResponse(item_ids=["a"], scores=[1], explanations=[why])
    assert names_in(reply) == ["a", "e"]
    shown = results_html(reply, {"e": "Blue in Green"}, SAY)
    assert "Blue in Green" in shown
    assert "+0.2500" in shown


def test_people_lead_to_their_page_and_nothing_found_is_said() -> None:
    assert 'href="/people?user=a%26b"' in results_html(
        pb.QueryResponse(user_ids=["a&b"], scores=[1]), {}, SAY
    )
    assert "nothing passes the filter" in results_html(pb.QueryResponse(), {}, SAY)


def test_the_fallback_is_said() -> None:
    reply = pb.QueryResponse(fallback=pb.FALLBACK_POPULARITY)
    assert "the most popular" in summary_of(reply, SAY)
