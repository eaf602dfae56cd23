"""The file of tokens: what is kept of one, and what is not."""

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

from server.access import DamagedTokensError, TokenFile, TokenNotFoundError

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)

GOOD = {"id": "a", "sha256": "0" * 64, "scopes": [], "created": ""}


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "tokens.json")


def test_a_token_is_kept_as_a_hash_alone(file: TokenFile) -> None:
    token, secret = file.create(("query", "ingest"), NOW, limit="5/second", name="web")
    text = file.path.read_text("utf-8")
    assert secret not in text
    assert secret.rpartition("_")[2] not in text
    assert secret.startswith(f"triptych_{token.id}_")
    assert len(secret) >= 50
    assert file.read() == {token.id: token}
    assert (token.created, token.scopes, token.limit) == (
        "2026-05-01T12:00:00+00:00",
        ("query", "ingest"),
        "5/second",
    )
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_a_revoked_token_stays_known_and_keeps_its_first_time(file: TokenFile) -> None:
    token, _ = file.create(("query",), NOW)
    other, _ = file.create(("admin",), NOW)
    first = file.revoke(token.id, NOW)
    assert file.revoke(token.id, datetime(2027, 1, 1, tzinfo=UTC)) == first
    assert file.read() == {token.id: first, other.id: other}
    with pytest.raises(TokenNotFoundError, match=r"there is no token 'nope' in .*tokens.json"):
        file.revoke("nope", NOW)


def test_those_who_write_at_once_lose_nothing(file: TokenFile) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: TokenFile(file.path).create(("query",), NOW)[0], range(24)))
    assert file.read().keys() == {token.id for token in made}
    assert len(made) == 24


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"tokens": [{}]}',
        '{"tokens": [{"id": "a", "sha256": "xx", "scopes": [], "created": ""}]}',
        '{"tokens": [{"id": "a", "sha256": "00", "scopes": [], "created": ""}]}',
        json.dumps(
            {"tokens": [{"id": "a", "sha256": "0" * 64, "scopes": [], "created": "", "expires": "soon"}]}
        ),
        json.dumps({"tokens": [{"id": "a", "sha256": "0" * 64, "scopes": [], "created": "", "new": 1}]}),
    ],
)
def test_a_damaged_file_is_named(file: TokenFile, text: str) -> None:
    file.path.write_text(text)
    with pytest.raises(DamagedTokensError, match="is damaged"):
        file.read()
    with pytest.raises(DamagedTokensError):
        file.create(("query",), NOW)
    assert file.path.read_text() == text
