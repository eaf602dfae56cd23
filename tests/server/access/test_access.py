"""Decisions on calls: who makes one, whether they may, how often."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest
from limits import parse_many

from server.access import (
    Access,
    ItemsHiddenError,
    NoTokenError,
    RateLimitedError,
    ScopeMissingError,
    TenantUnknownError,
    TokenExpiredError,
    TokenFile,
    TokenRevokedError,
    TokenUnknownError,
    changes,
    scope_of,
)
from server.access.rates import COUNTERS_BYTES, RateLimits
from triptych_client.pb.v1 import ingest_pb2, triptych_pb2

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
QUERY, PUT, STATUS = (
    "/triptych.v1.Retrieval/Query",
    "/triptych.v1.Ingest/PutItems",
    "/triptych.v1.Admin/Status",
)
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each call look at the file."""
    monkeypatch.setattr(changes, "LOOK_SECONDS", 0.0)


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "tokens.json")


def bearer(secret: str) -> list[tuple[str, str | bytes]]:
    return [("user-agent", "test"), ("authorization", f"Bearer {secret}")]


def test_every_method_of_ours_has_a_scope() -> None:
    found = {
        f"/{service.full_name}/{method.name}": scope_of(f"/{service.full_name}/{method.name}")
        for file in (triptych_pb2, ingest_pb2)
        for service in file.DESCRIPTOR.services_by_name.values()
        for method in service.methods
    }
    without = [method for method, scope in found.items() if scope not in ("query", "ingest", "admin")]
    assert without == [], "say option (scope) or (ingest_scope) beside the method in the proto"
    assert found[QUERY] == "query"
    assert found[PUT] == "ingest"
    assert {found[f"/triptych.v1.Ingest/{name}"] for name in ("EraseUser", "ExportUser", "ImportFolder")} == {
        "admin"
    }


def test_a_token_that_sees_a_part_of_the_items_is_told_of_no_others(file: TokenFile) -> None:
    _, part = file.create(("query",), NOW, filter={"kinds": ["film"]})
    _, all_ = file.create(("query",), NOW)
    for name in ("FindItems", "ListAttributes"):
        find = f"/triptych.v1.Ingest/{name}"
        assert Access(file).authorise(find, bearer(all_)) is not None
        with pytest.raises(ItemsHiddenError, match="sees a part of the items"):
            Access(file).authorise(find, bearer(part))
    assert Access(file).authorise(QUERY, bearer(part)) is not None


def test_the_document_has_every_method_by_its_scope() -> None:
    text = (Path(__file__).resolve().parents[3] / "docs" / "security.md").read_text("utf-8")
    rows = re.findall(r"^\| (query|ingest|admin) \| (.*) \|$", text, re.MULTILINE)
    said = {scope: row.split(", ") for scope, row in rows}
    declared: dict[str, list[str]] = {}
    for file in (triptych_pb2, ingest_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                scope = scope_of(f"/{service.full_name}/{method.name}")
                declared.setdefault(scope, []).append(method.name)
    assert {scope: sorted(names) for scope, names in said.items()} == {
        scope: sorted(names) for scope, names in declared.items()
    }


@pytest.mark.parametrize(
    "method", ["/triptych.v1.Admin/New", "/triptych.internal.v1.Owner/ReadTexts", "/x.Y/Z", ""]
)
def test_a_method_without_a_scope_is_refused_to_every_token(file: TokenFile, method: str) -> None:
    _, secret = file.create(("query", "ingest", "admin"), NOW)
    with pytest.raises(ScopeMissingError):
        Access(file).authorise(method, bearer(secret))


def test_without_a_file_everything_is_open_until_there_is_one(file: TokenFile, looking: None) -> None:
    access = Access(file)
    assert access.authorise(QUERY, []) is None
    _, secret = file.create(("query",), NOW)
    with pytest.raises(NoTokenError):
        access.authorise(QUERY, [])
    assert access.authorise(QUERY, bearer(secret)) is not None
    file.path.unlink()  # never opens again
    with pytest.raises(TokenUnknownError):
        access.authorise(QUERY, bearer(secret))
    with pytest.raises(NoTokenError):
        access.authorise(QUERY, [])


def test_with_tenants_nothing_is_open(file: TokenFile) -> None:
    access = Access(file, frozenset(["shop", "zoo"]))
    with pytest.raises(NoTokenError):
        access.authorise(QUERY, [])
    _, shop = file.create(("query",), NOW, tenant="shop")
    _, elsewhere = file.create(("query",), NOW, tenant="bank")
    _, none = file.create(("query",), NOW)
    granted = access.authorise(QUERY, bearer(shop))
    assert granted is not None
    assert granted.token.tenant == "shop"
    for secret in (elsewhere, none):
        with pytest.raises(TenantUnknownError):
            access.authorise(QUERY, bearer(secret))


def test_a_token_for_a_tenant_opens_no_single_home(file: TokenFile) -> None:
    _, secret = file.create(("query",), NOW, tenant="shop")
    with pytest.raises(TenantUnknownError, match="is for tenant shop, which this server does not serve"):
        Access(file).authorise(QUERY, bearer(secret))


def test_health_needs_no_token_and_reflection_any(file: TokenFile) -> None:
    _, secret = file.create(("ingest",), NOW)
    access = Access(file)
    assert access.authorise("/grpc.health.v1.Health/Check", []) is None
    assert access.authorise(REFLECTION, bearer(secret)) is not None
    with pytest.raises(NoTokenError):
        access.authorise(REFLECTION, [])


def test_what_is_no_token_is_unknown_and_is_not_repeated(file: TokenFile) -> None:
    token, secret = file.create(("query",), NOW)
    access = Access(file)
    for wrong in (
        secret[:-1],
        secret + "x",
        f"triptych_{token.id}_",
        f"x_{token.id}_y",
        "junk",
        "_",
        "é" * 9,
    ):
        with pytest.raises(TokenUnknownError) as caught:
            access.authorise(QUERY, bearer(wrong))
        assert wrong not in str(caught.value)
    for metadata in (
        [("authorization", secret)],
        [("authorization", f"Basic {secret}")],
        [("authorization", b"x")],
    ):
        with pytest.raises(NoTokenError):
            access.authorise(QUERY, metadata)  # type: ignore[arg-type]
    assert access.authorise(QUERY, [("authorization", f"bearer  {secret} ")]) is not None


def test_a_token_expires_and_is_revoked_between_two_calls(file: TokenFile) -> None:
    now = NOW.timestamp()
    access = Access(file, clock=lambda: now)
    token, secret = file.create(("query",), NOW, expires="2026-05-01T12:00:10+00:00")
    other, lasting = file.create(("query",), NOW)
    grant = access.authorise(QUERY, bearer(secret))
    assert grant is not None
    now += 9.999
    grant.use()
    now += 0.001
    with pytest.raises(TokenExpiredError, match=f"token {token.id} expired at 2026-05-01T12:00:10"):
        access.authorise(QUERY, bearer(secret))
    with pytest.raises(TokenExpiredError):
        grant.use()
    grant = access.authorise(QUERY, bearer(lasting))
    assert grant is not None
    file.revoke(other.id, NOW)
    with pytest.raises(TokenRevokedError, match=f"token {other.id} was revoked"):
        access.authorise(QUERY, bearer(lasting))
    with pytest.raises(TokenRevokedError):  # in the middle of a stream
        grant.use(0)


def test_a_file_that_gets_damaged_closes_the_server_until_it_is_mended(
    file: TokenFile, looking: None, caplog: pytest.LogCaptureFixture
) -> None:
    _, secret = file.create(("query",), NOW)
    access, whole = Access(file), file.path.read_text()
    file.path.write_text("{")
    with pytest.raises(TokenUnknownError):
        access.authorise(QUERY, bearer(secret))
    assert "no token is accepted until this is mended" in caplog.text
    file.path.write_text(whole)
    assert access.authorise(QUERY, bearer(secret)) is not None


@pytest.mark.parametrize("scope", ["query", "ingest", "admin"])
def test_a_scope_opens_its_methods_alone(file: TokenFile, scope: str) -> None:
    token, secret = file.create((scope,), NOW)
    access = Access(file)
    for method, needed in ((QUERY, "query"), (PUT, "ingest"), (STATUS, "admin")):
        if needed == scope:
            assert access.authorise(method, bearer(secret)) is not None
        else:
            with pytest.raises(
                ScopeMissingError, match=f"token {token.id} has the scopes {scope}, .* needs {needed}"
            ):
                access.authorise(method, bearer(secret))


def test_a_limit_holds_for_its_token_alone_and_says_when_to_come_again(file: TokenFile) -> None:
    _, limited = file.create(("query",), NOW, limit="3/hour")
    _, free = file.create(("query",), NOW)
    _, other = file.create(("query",), NOW, limit="3/hour")
    access = Access(file)
    for _ in range(3):
        access.authorise(QUERY, bearer(limited))
    with pytest.raises(RateLimitedError, match="may make 3/hour calls") as caught:
        access.authorise(QUERY, bearer(limited))
    assert 3500 < caught.value.retry_after <= 3600
    for _ in range(10):
        access.authorise(QUERY, bearer(free))
    assert access.authorise(QUERY, bearer(other)) is not None


def test_the_servers_limit_is_for_tokens_without_one_and_may_change(file: TokenFile) -> None:
    limit = "1/hour"
    _, secret = file.create(("query",), NOW)
    access = Access(file, default_limit=lambda: limit)
    access.authorise(QUERY, bearer(secret))
    with pytest.raises(RateLimitedError):
        access.authorise(QUERY, bearer(secret))
    limit = ""
    assert access.authorise(QUERY, bearer(secret)) is not None


def test_processes_and_threads_count_together(tmp_path: Path) -> None:
    counters = tmp_path / "rates"
    counters.write_bytes(bytes(COUNTERS_BYTES))
    each = [RateLimits(counters) for _ in range(3)]  # as in three processes
    meet = threading.Barrier(6)

    def call(number: int) -> int:
        meet.wait()
        return sum(each[number % 3].seconds_to_wait("abc", "100/hour") is None for _ in range(50))

    with ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(call, range(6))) == 100


def test_a_window_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    rates = RateLimits()
    monkeypatch.setattr(type(rates._storage), "now", staticmethod(lambda: now))
    assert rates.seconds_to_wait("a", "2/second;3/minute", 2) is None
    assert rates.seconds_to_wait("a", "2/second;3/minute") == pytest.approx(1.0)
    now += 1.0
    assert rates.seconds_to_wait("a", "2/second;3/minute") == pytest.approx(59.0)
    now += 59.0
    assert rates.seconds_to_wait("a", "2/second;3/minute") is None


def test_more_tokens_than_places_still_count() -> None:
    rates = RateLimits()
    assert all(rates.seconds_to_wait(f"t{number}", "1/hour") is None for number in range(30_000))
    assert rates.seconds_to_wait("t29999", "1/hour") is not None


def test_counters_of_one_token_or_of_all_begin_anew() -> None:
    rates = RateLimits()
    limit, other = "1/hour", "2/hour"
    for token_id in ("a", "b"):
        assert rates.seconds_to_wait(token_id, limit) is None
        assert rates.seconds_to_wait(token_id, limit) is not None
    (item,) = parse_many(limit)
    rates._storage.clear(item.key_for("a"))
    assert rates.seconds_to_wait("a", limit) is None
    assert rates.seconds_to_wait("b", limit) is not None
    rates._storage.reset()
    assert rates.seconds_to_wait("b", limit) is None
    assert rates.seconds_to_wait("b", other) is None
