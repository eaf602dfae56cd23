"""triptych token create|list|revoke: who may call a server, and what."""

import re
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from scripts.filter_options import filter_message
from scripts.terminal import console, on_disk

token_app = typer.Typer(
    help="Make, list and revoke the tokens of a server, which reads them again by itself.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
_TIME = re.compile(r"(\d{1,6})([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_KIND = re.compile(r'\s*kind\s*=\s*"?(.+?)"?\s*')
_HomeOption = Annotated[
    Path | None, typer.Option("--home", envvar="TRIPTYCH_HOME", help="The home of the server.")
]
_HomesOption = Annotated[
    Path | None, typer.Option("--homes", help="In its place: the folder of the homes of tenants.")
]


class FilteredTokenError(ValueError):
    """A token with a filter is to have a scope in which the filter could not be kept."""

    def __init__(self, scopes: tuple[str, ...]) -> None:
        super().__init__(
            f"a token with a filter has the scope query alone, not {', '.join(scopes)}: what is written and "
            f"exported is not filtered"
        )
        self.scopes = scopes


@token_app.command("create")
def create_command(
    scope: Annotated[str, typer.Option(help="What it may do: query, ingest, admin, with commas between.")],
    home: _HomeOption = None,
    homes: _HomesOption = None,
    tenant: Annotated[str, typer.Option(help="With --homes: whose home it opens.")] = "",
    expires: Annotated[
        str, typer.Option(help="After 90d, 12h, 30m; at 2030-01-31; or never.", metavar="TIME")
    ] = "90d",
    limit: Annotated[
        str, typer.Option(help="Calls: 100/second, 5000/hour, both with ; between; else the server's.")
    ] = "",
    only: Annotated[
        list[str] | None,
        typer.Option("--filter", help="All it sees are items like that: kind=film, year>=1999; repeats."),
    ] = None,
    name: Annotated[str, typer.Option(help="Whose it is, for `token list`.")] = "",
) -> None:
    """Make a token and print it; it is kept as a hash alone, so it is never shown again.

    As soon as there is a token, calls to the server need one.

    Example: triptych token create --home demo --scope query,ingest --expires 90d
    """
    from server.access import SCOPES
    from server.config import checked_rates, checked_tenant

    now = datetime.now(UTC)
    scopes = tuple(dict.fromkeys(part.strip() for part in scope.split(",")))
    if not set(scopes) <= set(SCOPES):
        raise typer.BadParameter(f"{scope!r} is not of {', '.join(SCOPES)}", param_hint="--scope")
    if (homes is None) == bool(tenant):
        raise typer.BadParameter("--homes needs --tenant, and --home has none", param_hint="--tenant")
    if homes is not None and not (homes / checked_tenant(tenant)).is_dir():
        raise FileNotFoundError(f"there is no home {homes / tenant}")
    if only and scopes != ("query",):
        raise FilteredTokenError(scopes)
    fields = {
        "expires": expiry(expires, now),
        "tenant": tenant,
        "limit": checked_rates(limit),
        "filter": _filter(only) if only else None,
        "name": name,
    }
    token, secret = _tokens(home, homes).create(scopes, now, **fields)
    print(secret)
    until = f"until {token.expires}" if token.expires else "for ever"
    print(f"token {token.id} holds {until}; it is not shown again", file=sys.stderr)


@token_app.command("list")
def list_command(home: _HomeOption = None, homes: _HomesOption = None) -> None:
    """Print the tokens, without themselves.

    Example: triptych token list --home demo
    """
    table = Table("id", "name", "scopes", "tenant", "expires", "limit", "filter", "state", "created")
    now = datetime.now(UTC)
    for one in _tokens(home, homes).read().values():
        expired = now.timestamp() >= one.expires_at
        state = "revoked" if one.revoked else "expired" if expired else "holds"
        only = "" if one.filter is None else str(one.filter)
        scopes = ",".join(one.scopes)
        table.add_row(one.id, one.name, scopes, one.tenant, one.expires, one.limit, only, state, one.created)
    console().print(table)


@token_app.command("revoke")
def revoke_command(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="As `token list` shows it.")],
    home: _HomeOption = None,
    homes: _HomesOption = None,
) -> None:
    """Have a token accepted no more, from the next call on.

    Example: triptych token revoke 5f0c2a91 --home demo
    """
    token = _tokens(home, homes).revoke(token_id, datetime.now(UTC))
    print(f"token {token.id} is revoked since {token.revoked}")


def expiry(written: str, now: datetime) -> str:
    """Return an ISO time in UTC for 90d, 12h or a date; "" for never.

    Raises:
        typer.BadParameter: it is none of these, or has passed.
    """
    if written == "never":
        return ""
    match = _TIME.fullmatch(written)
    try:
        if match is not None:
            at = now + timedelta(seconds=int(match[1]) * _SECONDS[match[2]])
        else:
            at = datetime.fromisoformat(written)
            at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        reason = f"{written!r} is no time: write 90d, 12h, 2030-01-31 or never"
        raise typer.BadParameter(reason, param_hint="--expires") from error
    if at <= now:
        raise typer.BadParameter(f"{written!r} has passed", param_hint="--expires")
    return at.isoformat(timespec="seconds")


def _filter(conditions: list[str]) -> dict[str, Any]:
    """Return a filter as JSON.  Raises: typer.BadParameter, InvalidRequestError."""
    from google.protobuf.json_format import MessageToDict

    from server.wire import filter_of

    kinds = [match[1] for one in conditions if (match := _KIND.fullmatch(one))]
    message = filter_message(kinds, [one for one in conditions if not _KIND.fullmatch(one)], [], [])
    if message is None or filter_of(message) is None:
        raise typer.BadParameter("the filter has no condition", param_hint="--filter")
    message.ClearField("deny")  # of nothing
    return MessageToDict(message)


def _tokens(home: Path | None, homes: Path | None) -> Any:
    from server.access import TokenFile
    from server.config import TOKENS

    folder = homes or on_disk(home)
    if folder is None:
        raise typer.BadParameter("name the home by --home or TRIPTYCH_HOME, or --homes")
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no directory {folder}")
    return TokenFile(folder / TOKENS)
