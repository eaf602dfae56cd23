"""triptych query: one question to a running server."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from scripts.filters import filter_message
from scripts.session import console
from server.client import Client, QueryFields
from server.pb.triptych.v1 import triptych_pb2 as pb

_VIEWS = {pb.VIEW_HISTORY: "history", pb.VIEW_TEXT: "text", pb.VIEW_SOCIAL: "social"}
_COLUMNS = ("history", "text", "social", "popularity")


def query_command(
    user: Annotated[str | None, typer.Argument(help="A user id; or ask by --item or --text.")] = None,
    address: Annotated[str, typer.Option(help="host:port of the server.")] = "127.0.0.1:50051",
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many items.")] = 10,
    item: Annotated[str | None, typer.Option(help="Find items similar to this one.")] = None,
    text: Annotated[str | None, typer.Option(help="Find items for a text.")] = None,
    seen: Annotated[bool, typer.Option("--seen", help="Also items of the user's history.")] = False,
    kind: Annotated[list[str] | None, typer.Option(help="Only items of this kind; may be repeated.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(help="Only items with such an attribute: year>=1999, colour=red; may be repeated."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this item; may be repeated.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="Not this item; may be repeated.")] = None,
    tls_ca: Annotated[Path | None, typer.Option(help="PEM root certificate; turns TLS on.")] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait.")] = 10.0,
) -> None:
    """Ask a server for a user's items.

    Prints them with their scores and the share of each view. Conditions on one attribute with = are
    alternatives; all others must hold together.

    Example: triptych query alice --address 127.0.0.1:50051 -k 10
    """
    subjects = [subject for subject in (user, item, text) if subject is not None]
    if len(subjects) != 1:
        raise typer.BadParameter("name exactly one of USER, --item and --text")
    fields: QueryFields = {"k": k, "exclude_seen": not seen}
    if user is not None:
        fields["user_id"] = user
    elif item is not None:
        fields["item_id"] = item
    else:
        fields["text"] = text or ""
    wanted = filter_message(kind or [], where or [], only or [], without or [])
    if wanted is not None:
        fields["filter"] = wanted
    with Client(address, tls_ca=tls_ca, timeout=timeout) as client:
        reply = client.query(**fields)
    console().print(reply_table(reply, subjects[0]))


def reply_table(reply: pb.QueryResponse, subject: str) -> Table:
    """Return a reply as a table: items, scores and shares; an empty array of shares is all zero."""
    used = ", ".join(_VIEWS[view] for view in reply.views_used) or "none"
    fallback = ", popularity fallback" if reply.fallback == pb.FALLBACK_POPULARITY else ""
    title = f"{escape(subject)}: views used: {used}{fallback}"
    item = Column("item", overflow="fold")
    table = Table("", item, "score", *_COLUMNS, title=title, title_justify="left")
    shares = (reply.history_shares, reply.text_shares, reply.social_shares, reply.prior_shares)
    for row, (item_id, score) in enumerate(zip(reply.item_ids, reply.scores, strict=True)):
        columns = [f"{share[row]:+.4f}" if share else "" for share in shares]
        table.add_row(str(row + 1), escape(item_id), f"{score:.4f}", *columns)
    return table
