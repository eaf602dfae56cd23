"""What commands share: which server runs on a home, and output that nothing is cut from."""

from pathlib import Path

import pytest

from scripts.home_access import server_of
from scripts.query import reply_table
from scripts.terminal import console
from store.artifact import DamagedArtifactError
from store.home import Home
from triptych_client.pb.v1 import triptych_pb2 as pb


@pytest.mark.parametrize("damaged", ["{", "[]", '{"pid": "x"}', '{"pid": 1, "local": "nowhere"}'])
def test_a_damaged_server_file_is_named(tmp_path: Path, damaged: str) -> None:
    home = Home(tmp_path)
    home.server_file.write_text(damaged)
    with pytest.raises(DamagedArtifactError, match=r"server\.json: is damaged"):
        server_of(home)


def test_ids_are_printed_whole_and_to_the_letter(capsys: pytest.CaptureFixture[str]) -> None:
    long_id, odd_id = "i" * 256, "[/red] [bold]x"
    reply = pb.QueryResponse(
        item_ids=[long_id, odd_id],
        scores=[2.0, 1.5],
        history_shares=[1.5, -0.5],
        text_shares=[0.5, 2.0],
        views_used=[pb.VIEW_HISTORY, pb.VIEW_TEXT],
    )
    console().print(reply_table(reply, "[who]"))
    out = capsys.readouterr().out
    for whole in (long_id, odd_id, "[who]: views used: history, text", "+1.5000", "-0.5000", "1.5000"):
        assert whole in out
    assert "popularity fallback" not in out


def test_a_fallback_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    reply = pb.QueryResponse(
        item_ids=["i"], scores=[3.0], prior_shares=[3.0], fallback=pb.FALLBACK_POPULARITY
    )
    console().print(reply_table(reply, "who"))
    assert "who: views used: none, popularity fallback" in capsys.readouterr().out
