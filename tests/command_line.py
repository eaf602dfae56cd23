"""Command lines of `triptych` in this process: what the fixture `run` of conftest gives a test."""

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]  # words → exit code, stdout and stderr
