"""The code of a page, run as a reader would run it, and what it prints.

Of the fenced blocks of a page, `sh` and `python` are run in order, in one folder; a `text` block behind one
is what it printed. A command that ends in `&` stays up until the page ends. Ports are exchanged for free
ones, so that pages run beside whatever else listens.
"""

import contextlib
import io
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_FENCE = re.compile(r"^```(sh|python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PORT = re.compile(r"(?<=127\.0\.0\.1:)\d+|(?<=--port )\d+")
_DEFAULT_PORT = 50051
_SECONDS = 300.0  # that a block may take, and a server to start
_COLUMNS = "110"  # of tables in what is printed


class PageError(RuntimeError):
    """A block of a page failed; shows the block and what it said."""

    def __init__(self, code: str, said: str) -> None:
        super().__init__(f"this block failed:\n{code}\n{said}")


@dataclass(frozen=True)
class CodeBlock:
    """A fenced block: its language, its text, and where the text lies in the page."""

    language: str
    code: str
    start: int
    end: int


def blocks(page: str) -> list[CodeBlock]:
    """Return the blocks of a page that are run, or that show what was printed."""
    return [CodeBlock(one[1], one[2], *one.span(2)) for one in _FENCE.finditer(page)]


@dataclass
class PageRun:
    """Runs the blocks of one page; `with` ends what it left running.

    Attributes:
        folder: where commands run.
        ports: which port stands for one that the page names.
    """

    folder: Path
    ports: dict[int, int] = field(default_factory=dict)
    _names: dict[str, Any] = field(default_factory=lambda: {"__name__": "page"})
    _running: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._running):
            process.terminate()
            process.wait(timeout=_SECONDS)

    def run(self, page: str) -> list[tuple[CodeBlock, str]]:
        """Run the blocks of a page and return each with what it printed.

        Raises:
            PageError: a block failed.
        """
        return [(one, self._run(one)) for one in blocks(page) if one.language != "text"]

    def _run(self, block: CodeBlock) -> str:
        code = _PORT.sub(lambda port: str(self._port(int(port[0]))), block.code)
        return self._python(code) if block.language == "python" else self._shell(code)

    def _port(self, named: int) -> int:
        if named not in self.ports:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.ports[named] = free.getsockname()[1]
        return self.ports[named]

    def _python(self, code: str) -> str:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.chdir(self.folder):
            try:
                exec(compile(code, "<page>", "exec"), self._names)  # noqa: S102  # our own pages
            except Exception as error:
                raise PageError(code, f"{said.getvalue()}{type(error).__name__}: {error}") from error
        return said.getvalue()

    def _shell(self, code: str) -> str:
        said, together = "", ""
        for line in code.splitlines(keepends=True):
            if line.rstrip().endswith(" &"):
                said += self._foreground(together)
                together = ""
                self._background(line.rstrip().removesuffix("&"))
            else:
                together += self._addressed(line)
        return said + self._foreground(together)

    def _foreground(self, code: str) -> str:
        if not code.strip():
            return ""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", code],
            capture_output=True,
            text=True,
            cwd=self.folder,
            env=environment(),
            timeout=_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise PageError(code, done.stdout + done.stderr)
        return done.stdout

    def _background(self, line: str) -> None:
        words = shlex.split(line)
        if "--port" not in words:
            words += ["--port", str(self._port(_DEFAULT_PORT))]
        log = self.folder / f"background-{len(self._running)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                words, cwd=self.folder, env=environment(), stdout=output, stderr=output
            )
        self._running.append(process)
        port, deadline = int(words[words.index("--port") + 1]), time.monotonic() + _SECONDS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise PageError(line, log.read_text("utf-8", "replace"))
            time.sleep(0.05)

    def _addressed(self, line: str) -> str:
        """Return a line in which `triptych query` names the address that it would take by itself."""
        if "triptych query" not in line or "--address" in line:
            return line
        address = f"127.0.0.1:{self._port(_DEFAULT_PORT)}"
        return line.replace(
            "triptych query", f"triptych query --timeout {_SECONDS:.0f} --address {address}", 1
        )


def with_outputs(page: str, printed: list[tuple[CodeBlock, str]]) -> str:
    """Return a page whose `text` blocks show what the blocks before them printed."""
    said = {block.end: output for block, output in printed}
    last, parts, place = "", [], 0
    for block in blocks(page):
        if block.language != "text":
            last = said.get(block.end, "")
            continue
        parts += [page[place : block.start], _trimmed(last)]
        place = block.end
    return "".join([*parts, page[place:]])


def _trimmed(output: str) -> str:
    return "\n".join(line.rstrip() for line in output.strip("\n").splitlines()) + "\n"


def environment() -> dict[str, str]:
    """Return the environment of commands: this Python's comes first, tables have one width."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return {**os.environ, "PATH": path, "COLUMNS": _COLUMNS}


def _listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0
