"""triptych: one subcommand per job.

triptych import DATA --home H; triptych train --home H; triptych reindex --home H; triptych serve --home H
"""

import io
import os
import stat
import sys
from typing import Annotated, Any

import duckdb
import grpc
import lmdb
import typer

from encoder.jobs import leave_pandas_out
from scripts.artifacts.command import artifacts_app
from scripts.backups import backup_command, restore_command
from scripts.bench import app as bench_app
from scripts.compress_text import compress_text_command
from scripts.console import console_command
from scripts.consume import consume_command
from scripts.demo import demo_command
from scripts.doctor import doctor_command
from scripts.evaluate import evaluate_command
from scripts.exchange import import_command
from scripts.export import export_command
from scripts.gateway import gateway_command
from scripts.index import index_app
from scripts.query import query_command
from scripts.reindex import reindex_command
from scripts.split import split_command
from scripts.terminal import set_up_logging
from scripts.tokens import token_app
from scripts.train import train_command
from scripts.tune import tune_command
from server.__main__ import serve_command

app = typer.Typer(
    help=__doc__,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("import")(import_command)
app.command("consume")(consume_command)
app.command("train")(train_command)
app.command("reindex")(reindex_command)
app.command("serve")(serve_command)
app.command("gateway")(gateway_command)
app.command("console")(console_command)
app.command("query")(query_command)
app.command("evaluate")(evaluate_command)
app.command("export")(export_command)
app.add_typer(bench_app, name="bench")
app.command("split")(split_command)
app.command("tune")(tune_command)
app.command("compress-text")(compress_text_command)
app.command("doctor")(doctor_command)
app.command("backup")(backup_command)
app.command("restore")(restore_command)
app.add_typer(index_app, name="index")
app.add_typer(artifacts_app, name="artifacts")
app.add_typer(token_app, name="token")
app.command("demo")(demo_command)


@app.callback()
def options(
    *,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more, and show tracebacks.")] = False,
) -> None:
    """Personalised retrieval: one interest vector per user from behaviour, text and friends."""
    set_up_logging(verbose=verbose)


def main() -> None:
    """Run the command line: exit code 0, 1 with a one-line reason on stderr, or 2 for a usage error.

    Whoever reads its output may stop reading: the command goes on, and the exit code says how it ended.
    """
    out = sys.__stdout__
    if out is not None and sys.stdout is out and stat.S_ISFIFO(os.fstat(out.fileno()).st_mode):
        pipe = io.BufferedWriter(_Pipe(out.fileno(), "w", closefd=False))
        sys.stdout = io.TextIOWrapper(pipe, out.encoding, out.errors)
    leave_pandas_out()
    try:
        app()
    except ModuleNotFoundError as error:
        hint = "run pip install -e clients/python -e '.[cpu,train]' in the checkout"
        print(f"triptych: {error.name} is not installed: {hint}", file=sys.stderr)
        sys.exit(1)
    except (ValueError, LookupError, OSError, RuntimeError, duckdb.Error, lmdb.Error, grpc.RpcError) as error:
        if {"-v", "--verbose"} & set(sys.argv):
            raise
        print(f"triptych: {' '.join(_reason(error).split())}", file=sys.stderr)
        sys.exit(1)


class _Pipe(io.FileIO):
    """A pipe that drops output once its reader has closed it, where typer would end with exit code 1."""

    def write(self, data: Any, /) -> int:
        """Write some bytes and return how many."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _reason(error: Exception) -> str:
    if isinstance(error, duckdb.OutOfMemoryException):
        return "there is not enough memory for this: free some, or work on less at once"
    if isinstance(error, duckdb.Error):
        return f"the store failed in a way that is not expected ({type(error).__name__}): -v shows where"
    if isinstance(error, grpc.Call):
        hint = " (is `triptych serve` running there?)" if error.code() is grpc.StatusCode.UNAVAILABLE else ""
        return f"the server says {error.code().name}: {error.details()}{hint}"
    if isinstance(error, UnicodeEncodeError):  # bytes of the command line that Python could not decode
        return "an argument is not UTF-8"
    return str(error) or type(error).__name__


if __name__ == "__main__":
    main()
