"""triptych token: what it prints, keeps and refuses."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer

from scripts.connection import metadata_of_environment, token_of
from scripts.tokens import expiry
from server.access import TokenFile
from server.app import running
from server.config import ServerConfig
from store.home import Home
from tests.command_line import Run
from tests.live_server import copy_home

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)


def test_create_list_revoke(tmp_path: Path, run: Run) -> None:
    words = (
        "--scope",
        "query, ingest",
        "--expires",
        "90d",
        "--limit",
        "100/second;5000/hour",
        "--name",
        "web app",
    )
    code, out, err = run("token", "create", "--home", tmp_path, *words)
    assert code == 0
    secret = out.strip()
    (token,) = TokenFile(tmp_path / "tokens.json").read().values()
    assert re.fullmatch(rf"triptych_{token.id}_[\w-]{{43}}", secret)
    assert f"token {token.id} holds until {token.expires}" in err
    assert (token.scopes, token.limit, token.name) == (("query", "ingest"), "100/second;5000/hour", "web app")
    code, out, _ = run("token", "list", "--home", tmp_path)
    assert code == 0
    for word in (token.id, "web app", "query,ingest", "holds"):
        assert word in out
    assert secret not in out
    assert run("token", "revoke", token.id, "--home", tmp_path)[0] == 0
    assert "revoked" in run("token", "list", "--home", tmp_path)[1]
    code, _, err = run("token", "revoke", "00000000", "--home", tmp_path)
    assert (code, "there is no token '00000000'" in err) == (1, True)


def test_a_filter_is_kept_as_the_api_writes_it(tmp_path: Path, run: Run) -> None:
    words = ("--scope", "query", "--filter", "kind = film", "--filter", "year>=1999")
    assert run("token", "create", "--home", tmp_path, *words)[0] == 0
    (token,) = TokenFile(tmp_path / "tokens.json").read().values()
    assert token.filter == {"kinds": ["film"], "attributes": [{"name": "year", "atLeast": 1999.0}]}


def test_a_token_of_a_tenant(tmp_path: Path, run: Run) -> None:
    (tmp_path / "shop").mkdir()
    assert run("token", "create", "--homes", tmp_path, "--tenant", "shop", "--scope", "query")[0] == 0
    (token,) = TokenFile(tmp_path / "tokens.json").read().values()
    assert token.tenant == "shop"
    code, _, err = run("token", "create", "--homes", tmp_path, "--tenant", "zoo", "--scope", "query")
    assert (code, "there is no home" in err) == (1, True)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--scope", "everything"), 2, "'everything' is not of query, ingest, admin"),
        (("--scope", "query", "--tenant", "shop"), 2, "--homes needs --tenant"),
        (("--scope", "query", "--expires", "soon"), 2, "'soon' is no time: write 90d"),
        (("--scope", "query", "--expires", "2001-01-01"), 2, "'2001-01-01' has passed"),
        (("--scope", "query", "--limit", "often"), 1, "'often' is no rate limit: write 100/second"),
        (
            ("--scope", "query,ingest", "--filter", "kind=film"),
            1,
            "a token with a filter has the scope query alone",
        ),
        (("--scope", "query", "--filter", "kind"), 2, "'kind' is not a condition like"),
    ],
)
def test_what_makes_no_token(tmp_path: Path, run: Run, words: tuple[str, ...], code: int, said: str) -> None:
    ended, _, err = run("token", "create", "--home", tmp_path, *words)
    assert ended == code
    assert said in " ".join(err.replace("│", " ").split())
    assert not (tmp_path / "tokens.json").exists()


def test_times() -> None:
    assert expiry("90d", NOW) == "2026-07-30T12:00:00+00:00"
    assert expiry("30m", NOW) == "2026-05-01T12:30:00+00:00"
    assert expiry("2030-01-31", NOW) == "2030-01-31T00:00:00+00:00"
    assert expiry("2030-01-31T01:00:00+01:00", NOW) == "2030-01-31T00:00:00+00:00"
    assert expiry("never", NOW) == ""
    for wrong in ("0d", "2026-05-01", "-1d", "999999w", ""):
        with pytest.raises(typer.BadParameter):
            expiry(wrong, NOW)


def test_query_takes_a_token_from_a_file_or_the_environment(
    small_home: Home, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = copy_home(small_home, tmp_path / "home")
    _, secret = TokenFile(home.path / "tokens.json").create(("query",), datetime.now(UTC))
    (tmp_path / "token").write_text(f"{secret}\n")
    with running(ServerConfig(home, port=0)) as address:
        ask = ("query", "u00001", "--address", address)
        code, _, err = run(*ask)
        assert (code, "this server wants a token" in err) == (1, True)
        assert run(*ask, "--token-file", tmp_path / "token")[0] == 0
        monkeypatch.setenv("TRIPTYCH_TOKEN", secret)
        assert run(*ask)[0] == 0


def test_a_file_beats_the_environment_and_nothing_is_no_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text(" of-the-file\n")
    monkeypatch.setenv("TRIPTYCH_TOKEN", "of-the-environment")
    assert token_of(tmp_path / "token") == "of-the-file"
    assert metadata_of_environment() == (("authorization", "Bearer of-the-environment"),)
    monkeypatch.setenv("TRIPTYCH_TOKEN", "")
    assert token_of(None) is None
    assert metadata_of_environment() == ()
