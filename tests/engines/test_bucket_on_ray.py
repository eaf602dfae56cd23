"""The job of deploy/kubernetes/machines/ray-job.yaml: its script, with a namespace of processes a pod."""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from scripts.bench.faults.nats_server import free_port
from store.home import Home
from store.objects import CURRENT, LATEST, HomeBucket
from tests.engines.s3 import BUCKET, environment, s3_server

JOB = Path(__file__).parents[2] / "deploy" / "kubernetes" / "machines" / "ray-job.yaml"
URL = f"s3://{BUCKET}/home"
SECONDS = 1_200.0  # of a pod, which may begin its head again and again on a busy machine


class Pods:
    """The pods of the job on this machine, each with processes of its own, which end with it.

    Args:
        folder: for the disk that they share, and for logs.
    """

    def __init__(self, folder: Path) -> None:
        self.work, self._log = folder / "work", folder / "log"
        self.work.mkdir(parents=True)
        (container,) = yaml.safe_load(JOB.read_text("utf-8"))["spec"]["template"]["spec"]["containers"]
        self.command: list[str] = container["command"]
        self.script: str = container["args"][0]
        self.programs = folder / "bin"
        self.programs.mkdir()
        for name, words in (("triptych", "-m scripts.cli"), ("ray", "-m ray.scripts.scripts")):
            (self.programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {words} "$@"\n')
            (self.programs / name).chmod(0o755)
        self.environment = os.environ | {"PATH": f"{self.programs}:{os.environ['PATH']}", "JOB": "test"}
        self.environment |= {
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": "a" * 64,
        }

    def script_here(self, command: str, port: int) -> str:
        """Return the script of the job for pods of this machine, which have no names and one port for all."""
        entrypoint = "triptych reindex --home s3://triptych/home --cache /work --ray auto"
        here = f"triptych {command} --home {URL} --cache {shlex.quote(str(self.work))} --ray auto"
        changed = self.script
        for there, ours in (
            (entrypoint, here),
            ("$JOB-0.triptych-ray:6379", f"127.0.0.1:{port}"),
            ("--port=6379", f"--port={port} --node-ip-address=127.0.0.1"),
            ("--block;", "--block --node-ip-address=127.0.0.1;"),
        ):
            assert there in changed
            changed = changed.replace(there, ours)
        return changed

    def run(self, command: str, *, apart: bool = False) -> "subprocess.CompletedProcess[str]":
        """Run the job with a worker; return how pod 0 ended.

        Args:
            command: of ours, before --home.
            apart: whether the worker has another disk in the place of the shared one.
        """
        with tempfile.TemporaryDirectory(prefix="ray") as sockets:  # short: paths of sockets are
            env = self.environment | {"RAY_TMPDIR": sockets}
            script = self.script_here(command, free_port())
            with self._worker(script, env, apart=apart):
                return subprocess.run(
                    self._pod(script),
                    env=env | {"JOB_COMPLETION_INDEX": "0"},
                    capture_output=True,
                    text=True,
                    timeout=SECONDS,
                    check=False,
                )

    @contextmanager
    def _worker(self, script: str, env: dict[str, str], *, apart: bool) -> Iterator[None]:
        before = f"mount -t tmpfs none {shlex.quote(str(self.work))}\n" if apart else ""
        with self._log.open("ab") as log:
            worker = subprocess.Popen(
                self._pod(before + script), env=env | {"JOB_COMPLETION_INDEX": "1"}, stdout=log, stderr=log
            )
        try:
            yield
        finally:
            worker.kill()
            worker.wait()

    def _pod(self, script: str) -> list[str]:
        return [
            "unshare",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            *self.command,
            script,
        ]


@pytest.mark.parametrize(("failures", "code"), [(2, 0), (9, 1)])
def test_a_head_that_does_not_come_up_is_begun_again_a_few_times(
    tmp_path: Path, failures: int, code: int
) -> None:
    pods, calls = Pods(tmp_path), tmp_path / "calls"
    program = f"""#!/bin/sh
echo "${{0##*/}} $1" >> {calls}
[ "${{0##*/}} $1" != "ray start" ] || [ "$(grep -c 'ray start' {calls})" -gt {failures} ]
"""
    for name in ("ray", "triptych"):
        (pods.programs / name).write_text(program)
    done = subprocess.run(
        [*pods.command, pods.script],
        env=pods.environment | {"JOB_COMPLETION_INDEX": "0"},
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == code
    begun = ["ray start", "ray stop"] * min(failures, 4) + ["ray start"]
    assert calls.read_text().splitlines() == begun + ["triptych reindex"] * (code == 0)


@pytest.mark.nightly
@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="pods need the rights of root"
)
def test_the_job_works_from_a_bucket_and_says_what_must_be_shared(small_home: Home, tmp_path: Path) -> None:
    pods = Pods(tmp_path)
    with s3_server(tmp_path / "s3") as endpoint, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(endpoint).items():
            patch.setenv(name, value)
        pods.environment |= environment(endpoint)
        copy = ["triptych", "artifacts", "copy", "--from", str(small_home.path), "--to", URL]
        subprocess.run(copy, env=pods.environment, check=True, timeout=SECONDS)
        bucket = HomeBucket(URL)
        first = bucket.pointer(CURRENT).artifact_id

        apart = pods.run("reindex --full", apart=True)  # else nothing changed, and no part is given out
        assert apart.returncode == 1
        assert "NotSharedError" in apart.stderr
        assert "the folder of --cache, must lie on storage that every machine" in apart.stderr
        assert bucket.pointer(CURRENT).artifact_id == first

        done = pods.run("reindex --full")
        assert done.returncode == 0, done.stderr
        second = bucket.pointer(CURRENT).artifact_id
        assert second != first
        assert bucket.manifest("indexes", second)["files"] == bucket.manifest("indexes", first)["files"]
        trained = pods.run("train --fusion ridge --dim 16")
        assert trained.returncode == 0, trained.stderr
        assert pods.run("reindex").returncode == 0
        third = bucket.pointer(CURRENT).artifact_id
        assert third != second
        assert bucket.manifest("indexes", third)["model_id"] == bucket.pointer(LATEST).artifact_id
        assert not list(pods.work.rglob(".spool-*"))
