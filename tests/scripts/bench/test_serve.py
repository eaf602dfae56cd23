"""`bench serve`: what it asks, how it counts, and a whole small run; never how fast anything is."""

import json
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
from typer.testing import CliRunner

from scripts.bench.command import app
from scripts.bench.load import CallFailedError
from scripts.bench.serve.callers import Callers, ClosedLoop, Load, OpenLoop, ask
from scripts.bench.serve.h2load import PROGRAM, NoH2loadError, throughput_by_h2load
from scripts.bench.serve.ratios import RATIOS, LoadStep, over_empty, scaling_of, serving_ratios
from scripts.bench.serve.servers import (
    EMPTY,
    OURS,
    NotLoopbackError,
    check_loopback,
    empty_server,
    running_server,
)
from scripts.bench.serve.work import KINDS, NobodyToAskForError, NothingToFilterByError, Work, make_work
from store.export import Export, create_export
from store.home import Home
from tests.import_folder import Folder
from triptych_client.pb.v1 import triptych_pb2 as pb

Answer = Callable[[bytes, grpc.ServicerContext], bytes]


@contextmanager
def server_of(answer: Answer) -> Iterator[str]:
    """Yield the address of a server in this process that answers bytes by a function, one call at a time."""
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server = grpc.server(
        ThreadPoolExecutor(1), handlers=[grpc.method_handlers_generic_handler("a.B", {"C": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_stored_users_are_asked_for_by_a_skewed_law_and_others_once(small_home: Home) -> None:
    with Export.latest(small_home.exports) as export:
        users = set(export.users().to_pylist())
        work = {one.kind: one for one in make_work(export, 4, KINDS, k=7, seed=1)}
        again = make_work(export, 4, KINDS, k=7, seed=1)
    assert [one.requests for one in again] == [work[kind].requests for kind in KINDS]
    stored = [pb.QueryRequest.FromString(request) for request in work["stored"].requests]
    regulars = {request.user_id for request in stored}
    often = Counter(request.user_id for request in stored).most_common()
    assert often[0][1] > 3 * often[9][1]
    assert {request.k for request in stored} == {7}
    uncached = [pb.QueryRequest.FromString(request).user_id for request in work["uncached"].requests]
    assert len(set(uncached)) == len(uncached)
    assert not set(uncached) & regulars
    assert regulars | set(uncached) <= users
    batches = [pb.QueryBatchRequest.FromString(request) for request in work["batch"].requests]
    assert [one.user_id for batch in batches for one in batch.requests] == [one.user_id for one in stored]
    assert {len(batch.requests) for batch in batches} == {work["batch"].queries} == {16}
    inline = [pb.QueryRequest.FromString(request).views for request in work["views"].requests]
    assert any(views.events and views.texts and views.friends for views in inline)
    assert max(len(views.events) for views in inline) <= 50
    vectors = [pb.QueryRequest.FromString(request) for request in work["vector"].requests]
    assert {(len(one.vector.values), one.k) for one in vectors} == {(4, 7)}
    filtered = [pb.QueryRequest.FromString(request) for request in work["filtered"].requests]
    assert [one.user_id for one in filtered] == [one.user_id for one in stored]
    assert {tuple(one.filter.kinds) for one in filtered} in ({("product",)}, {("video",)})


def test_parts_of_work_share_no_request_where_none_is_sent_twice() -> None:
    once = Work("uncached", "/a.B/C", (b"0", b"1", b"2", b"3", b"4"), once=True)
    assert [once.part(n, 2).requests for n in range(2)] == [(b"0", b"2", b"4"), (b"1", b"3")]
    stored = Work("stored", "/a.B/C", (b"0", b"1"))
    assert stored.part(1, 2) == stored


def test_an_export_without_users_or_kinds_says_so(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.csv("items", "item_id", "i1")
    folder.csv("behaviors", "user_id,item_id", "u1,i1", "u2,i1")
    with closing(folder.store) as store:
        create_export(store, tmp_path / "none")
        folder.load(strict=True)
        create_export(store, tmp_path / "some")
    with Export.latest(tmp_path / "none") as export, pytest.raises(NobodyToAskForError, match="no user"):
        make_work(export, 4, KINDS, k=1, seed=0)
    with Export.latest(tmp_path / "some") as export:
        make_work(export, 4, ("stored",), k=1, seed=0)
        with pytest.raises(NothingToFilterByError, match="'filtered'"):
            make_work(export, 4, ("filtered",), k=1, seed=0)


def test_times_of_an_open_loop_are_shared_out_among_processes() -> None:
    even = [OpenLoop(100.0, 1.0, even=True).times(process, 2) for process in range(2)]
    np.testing.assert_allclose(np.sort(np.concatenate(even)), np.arange(100) / 100)
    loop = OpenLoop(1000.0, 20.0, seed=3)
    parts = [loop.times(process, 2) for process in range(2)]
    np.testing.assert_array_equal(parts[0], loop.times(0, 2))
    every = np.sort(np.concatenate(parts))
    assert every.max() < 20
    assert len(every) == pytest.approx(20_000, rel=0.03)
    gaps = np.diff(every)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)  # as exponential ones are
    assert not set(parts[0]) & set(parts[1])


def test_latencies_at_a_rate_count_from_when_a_call_was_due() -> None:
    served = 0.04  # seconds of each call, so a call each 10 ms waits for all before it

    def slowly(request: bytes, _: object) -> bytes:
        time.sleep(served)
        return request

    with server_of(slowly) as address, Callers(1) as callers:
        load = callers.measure(address, Work("k", "/a.B/C", (b"x",)), OpenLoop(100.0, 0.3, even=True))
    assert len(load.latencies) == 30
    waited = 1e3 * (served * np.arange(1, 31) - 0.01 * np.arange(30))  # one after another, by hand
    assert (np.sort(load.latencies) >= waited - 1).all()


def test_every_request_is_sent_once_and_callers_stop_at_their_bound() -> None:
    seen: Counter[bytes] = Counter()

    def note(request: bytes, _: object) -> bytes:
        seen[request] += 1
        return request

    requests = tuple(b"%d" % number for number in range(50))
    with server_of(note) as address, Callers(2, connections=2) as callers:
        once = Work("k", "/a.B/C", requests, once=True)
        load = callers.measure(address, once, ClosedLoop(3, 30.0))
        assert len(load.latencies) == 50
        assert set(seen) == set(requests)
        assert {count for request, count in seen.items() if request != b"0"} == {1}  # the first one warms up
        assert 0 < load.latencies.max() <= 1e3 * load.seconds
        assert load.throughput == 50 / load.seconds
        assert load.client_cpu > 0
        again = callers.measure(address, Work("k", "/a.B/C", requests), ClosedLoop(3, 30.0, calls=60))
        assert len(again.latencies) == 60
        assert len(ask(address, once, 5)) == 5


def test_failed_calls_are_counted_or_raised() -> None:
    turn = threading.Semaphore(22)  # of a closed loop's two callers, ten each to warm up

    def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
        if not turn.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")
        return request

    work = Work("k", "/a.B/C", (b"x",))
    with server_of(refuse) as address, Callers(2) as callers:
        load = callers.measure(address, work, ClosedLoop(2, 30.0, calls=10), tolerant=True)
        assert (len(load.latencies), load.failed, load.reason) == (2, Counter(RESOURCE_EXHAUSTED=8), "enough")
        for _ in range(22):
            turn.release()
        with pytest.raises(CallFailedError, match=r"RESOURCE_EXHAUSTED.*enough"):
            callers.measure(address, work, ClosedLoop(2, 30.0, calls=10))
        with pytest.raises(CallFailedError, match="enough"):  # not even warm
            callers.measure(address, work, ClosedLoop(2, 30.0, calls=10))
        for _ in range(25):  # the two senders of an open loop warm up, too
            turn.release()
        rate = callers.measure(address, work, OpenLoop(200.0, 0.1, even=True), tolerant=True)
        assert (len(rate.latencies), rate.failed) == (5, Counter(RESOURCE_EXHAUSTED=15))


def test_the_empty_method_answers_each_kind_and_its_processes_share_a_port(tmp_path: Path) -> None:
    replies = {"stored": b"s" * 100, "batch": b"b" * 1000}
    with empty_server(tmp_path, replies, 2, processes=2) as empty:
        assert len(set(empty.pids)) == 2
        for kind, reply in replies.items():
            assert ask(empty.address, Work(kind, "", (b"x",) * 8).at_empty(), 8) == [reply] * 8
        with pytest.raises(CallFailedError, match="UNIMPLEMENTED"):
            ask(empty.address, Work("vector", "", (b"x",)).at_empty(), 1)
        before = empty.cpu()
        with Callers(2, connections=8) as callers:
            load = callers.measure(
                empty.address, Work("stored", "", (b"x",)).at_empty(), ClosedLoop(4, 30.0, 800), empty.cpu
            )
        assert 0 < load.server_cpu <= empty.cpu() - before


@pytest.mark.skipif(shutil.which(PROGRAM) is None, reason="h2load is not installed")
def test_h2load_counts_whole_replies_alone(tmp_path: Path) -> None:
    with empty_server(tmp_path, {"stored": b"s" * 1000}, 2) as empty:
        assert throughput_by_h2load(empty.address, Work("stored", "", (b"x",)).at_empty(), 2, 0.3) > 0
    left = threading.Semaphore(5)

    def refuse(request: bytes, context: grpc.ServicerContext) -> bytes:
        if not left.acquire(blocking=False):
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")
        return request * 1000

    with server_of(refuse) as address, pytest.raises(CallFailedError, match=r"enough|bytes"):
        throughput_by_h2load(address, Work("k", "/a.B/C", (b"x",)), 1, 0.2)


def test_without_h2load_its_option_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    done = CliRunner().invoke(app, ["serve", "--h2load"])
    assert isinstance(done.exception, NoH2loadError)


def load(throughput: float, p99: float = 1.0, failed: int = 0) -> Load:
    """A load of a second."""
    return Load(1.0, np.full(int(throughput), p99), Counter(INTERNAL=failed) if failed else Counter())


def test_ratios_by_hand() -> None:
    rounds = {
        (LoadStep("stored", 1), OURS): [load(40), load(30), load(80)],
        (LoadStep("stored", 1), EMPTY): [load(80), load(100), load(100)],
        (LoadStep("stored", 16), OURS): [load(50)],
        (LoadStep("stored", 16), EMPTY): [load(200)],
        (LoadStep("uncached", 16), OURS): [load(30)],
        (LoadStep("uncached", 16), EMPTY): [load(120)],
        (LoadStep("batch", 1), OURS): [load(5), load(10), load(8)],
        (LoadStep("stored", share=0.5), OURS): [load(9, 6.0), load(9, 100.0, failed=1), load(9, 8.0)],
        (LoadStep("stored", share=0.5), EMPTY): [load(9, 2.0), load(9, 1.0), load(9, 2.0)],
    }
    assert serving_ratios(rounds) == {
        "stored_c1": 0.5,
        "stored_c16": 0.25,
        "uncached_c16": 0.25,
        "batch16": 0.5,  # 40/80, 30/160 and 80/128
        "p99_half_load": 3.5,  # without the round in which a call failed
        "processes_scaling": None,
    }
    assert tuple(serving_ratios({})) == RATIOS
    assert set(serving_ratios({}).values()) == {None}
    assert over_empty(rounds, LoadStep("views", 1), lambda one: one.throughput) is None


def test_scaling_is_the_gain_of_ours_over_that_of_the_empty_method() -> None:
    rounds = {
        (LoadStep("stored", callers, processes=processes), name): [load(throughput)]
        for processes, callers, name, throughput in (
            (1, 16, OURS, 100),
            (1, 16, EMPTY, 200),
            (2, 16, OURS, 90),
            (2, 16, EMPTY, 200),
            (2, 32, OURS, 180),  # 16 callers of each
            (2, 32, EMPTY, 400),
        )
    }
    ratios = serving_ratios(rounds, processes=2)
    assert ratios["processes_scaling"] == pytest.approx(0.9)
    assert ratios["stored_c16"] == 0.45
    assert serving_ratios(rounds)["stored_c16"] == 0.5
    gains = scaling_of(rounds, 2)
    assert gains is not None
    assert (gains["ours"], gains["empty"]) == (1.8, 2.0)
    assert (gains["cpu_ours"], gains["cpu_empty"]) == pytest.approx((100 / 180, 0.5))  # as much for more
    assert scaling_of(rounds, 1) is None


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:50051", "[::1]:50051", "127.8.8.8:1"])
def test_loopback_addresses_may_be_loaded(address: str) -> None:
    check_loopback(address)


@pytest.mark.parametrize("address", ["192.0.2.1:50051", "example.org:50051", "0.0.0.0:50051", "50051"])
def test_other_addresses_are_refused(address: str) -> None:
    with pytest.raises(NotLoopbackError, match="loopback"):
        check_loopback(address)


def test_processes_of_a_running_server_are_known_where_the_home_names_it(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert running_server("127.0.0.1:7", home).pids == ()
    home.server_file.write_text(json.dumps({"address": "127.0.0.1:7", "pid": 12}), "utf-8")
    assert running_server("127.0.0.1:7", home).pids == (12,)
    assert running_server("127.0.0.1:8", home).pids == ()
    assert running_server("127.0.0.1:8", home).cpu() == 0.0


def test_an_address_needs_a_home_to_take_users_from() -> None:
    assert CliRunner().invoke(app, ["serve", "--address", "127.0.0.1:1"]).exit_code == 2


def test_bench_serve_measures_a_real_server_beside_the_empty_method(small_home: Home, tmp_path: Path) -> None:
    shutil.copytree(small_home.path, tmp_path / "home")
    out = tmp_path / "serve.json"
    arguments = ["--users-from", str(tmp_path / "home"), "--quick", "--seconds", "0.05", "--json", str(out)]
    done = CliRunner().invoke(app, ["serve", *arguments])
    assert done.exit_code == 0, done.output
    report = json.loads(out.read_text("utf-8"))
    assert tuple(report["ratios"]) == RATIOS
    assert report["ratios"].pop("processes_scaling") is None
    rows = {
        (row["kind"], row["callers"], row["share_of_peak"], row["server"]): row for row in report["results"]
    }
    closed = {(kind, c, None, name) for kind in KINDS for c in (1, 16) for name in (OURS, EMPTY)}
    opened = {("stored", None, share, name) for share in (0.25, 0.5, 0.75) for name in (OURS, EMPTY)}
    assert rows.keys() == closed | opened
    for row in rows.values():
        assert row["p50_ms"] <= row["p90_ms"] <= row["p99_ms"]
        assert row["calls"] > 0
        assert (
            row["reply_bytes"] == rows[row["kind"], row["callers"], row["share_of_peak"], OURS]["reply_bytes"]
        )
    one, empty = (rows["stored", 1, None, name] for name in (OURS, EMPTY))
    assert report["ratios"]["stored_c1"] == one["throughput"] / empty["throughput"]
    assert len(report["beside"]) == len(rows) / 2
    cost = report["cost"]
    assert cost["query_ms"] == one["p50_ms"]
    assert cost["faiss_ms"] > 0
    assert cost["beyond_empty_and_1.15_faiss_ms"] == pytest.approx(
        one["p50_ms"] - empty["p50_ms"] - 1.15 * cost["faiss_ms"]
    )
    assert (tmp_path / "serve.png").read_bytes().startswith(b"\x89PNG")
