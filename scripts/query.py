"""triptych query: one question to a running server."""

from typing import Annotated, cast

import typer
from rich.markup import escape
from rich.table import Column, Table

from scripts.connection import TlsCaOption, TlsCertOption, TlsKeyOption, TokenFileOption, token_of
from scripts.filter_options import filter_message
from scripts.terminal import console
from triptych_client import CallError, Client, QueryFields
from triptych_client.pb.v1 import triptych_pb2 as pb

_VIEWS = {pb.VIEW_HISTORY: "history", pb.VIEW_TEXT: "text", pb.VIEW_SOCIAL: "social"}
_COLUMNS = ("history", "text", "social", "text query", "popularity")
_QUANTITIES = {
    pb.QUANTITY_PROBABILITY: "click, probability if shown first",
    pb.QUANTITY_SCORE: "click, score",
    pb.QUANTITY_RATING: "rating",
}
_ALWAYS = {"history", "text", "social", "popularity"}


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
        typer.Option(
            help="Only items with such an attribute: year>=1999, colour=red, id!=7, released<2000-01-01, "
            "with = != >= <= > <; may be repeated."
        ),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Only this item; may be repeated.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="Not this item; may be repeated.")] = None,
    view_weights: Annotated[
        str | None, typer.Option(help="Weights of history, text and social, e.g. 1,0.5,0 (0 leaves one out).")
    ] = None,
    min_score: Annotated[float | None, typer.Option(help="Leave out results with a lower score.")] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="The user's interest categories, of the model's head for them.")
    ] = False,
    predict: Annotated[
        list[str] | None,
        typer.Option(help="Whether the user clicks this item, how they rate it; may be repeated."),
    ] = None,
    text_query: Annotated[str | None, typer.Option(help="Also search for this text.")] = None,
    text_query_weight: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Of the text query, against the subject's; default 0.5."),
    ] = None,
    diversity: Annotated[
        float | None, typer.Option(min=0, max=1, help="Maximal marginal relevance; 1 is the order by score.")
    ] = None,
    users: Annotated[
        bool,
        typer.Option("--users", help="Find users: those like USER, or who should see the item or text."),
    ] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each result is owed to.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Compare every item.")] = False,
    offset: Annotated[
        int, typer.Option(min=0, max=999, help="Leave out so many of the best: the next page.")
    ] = 0,
    index_id: Annotated[
        str | None, typer.Option(help="Of the first page; refused where another index serves by now.")
    ] = None,
    token_file: TokenFileOption = None,
    tls_ca: TlsCaOption = None,
    tls_cert: TlsCertOption = None,
    tls_key: TlsKeyOption = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait.")] = 10.0,
) -> None:
    """Ask a server for a user's items.

    Prints them with their scores and the share of each view. Conditions on one attribute with = are
    alternatives; all others must hold together. A value in quotes is text, as in zip="01234"; a day, as in
    released<=2000-12-31, is the whole of it in UTC.

    Example: triptych query alice --address 127.0.0.1:50051 -k 10

    Example: triptych query alice --text-query "slow jazz" --diversity 0.7 --explain

    Example: triptych query --item i00012 --users -k 100

    Example: triptych query alice --predict i00012 --predict i00007

    Example: triptych query alice --profile
    """

    def client_of() -> Client:
        return Client(
            address,
            tls_ca=tls_ca,
            tls_cert=tls_cert,
            tls_key=tls_key,
            token=token_of(token_file),
            timeout=timeout,
        )

    if profile or predict:
        if user is None or item is not None or text is not None or (profile and predict):
            raise typer.BadParameter("--profile and --predict, one of them, are asked of a USER")
        with client_of() as client:
            tables = (
                [profile_table(client, user, k)]
                if profile
                else prediction_tables(client, user, predict or [])
            )
        for table in tables:
            console().print(table)
        return
    subjects = [subject for subject in (user, item, text) if subject is not None]
    if len(subjects) != 1:
        raise typer.BadParameter("name exactly one of USER, --item and --text")
    fields: QueryFields = {
        "k": k,
        "exclude_seen": not seen,
        "explain": explain,
        "exact": exact,
        "offset": offset,
    }
    if user is not None:
        fields["user_id"] = user
    elif item is not None:
        fields["item_id"] = item
    else:
        fields["text"] = text or ""
    if users:
        fields["target"] = pb.TARGET_USERS
    if view_weights is not None:
        fields["view_weights"] = _weights(view_weights)
    given = {
        "min_score": min_score,
        "text_query": text_query,
        "text_query_weight": text_query_weight,
        "diversity": diversity,
        "index_id": index_id,
    }
    fields.update(cast("QueryFields", {name: value for name, value in given.items() if value is not None}))
    wanted = filter_message(kind or [], where or [], only or [], without or [])
    if wanted is not None:
        fields["filter"] = wanted
    with client_of() as client:
        reply = client.query(**fields)
    console().print(reply_table(reply, subjects[0], offset))
    if len(reply.scores) == k and offset + 2 * k <= 1000:
        print(f"next page: --offset {offset + k} --index-id {reply.index_id}")


def profile_table(client: Client, user: str, k: int) -> Table:
    """Ask for the interest categories of a user, and return them as a table.  Raises: CallError."""
    reply = client.predict(user, k=k)
    return _prediction_table(user, reply, reply.label, "probability")


def prediction_tables(client: Client, user: str, item_ids: list[str]) -> list[Table]:
    """Ask each head that the model has for items; return the answers as tables.

    Raises:
        CallError: the call fails, or the model has neither head.
    """
    tables, missing = list[Table](), list[CallError]()
    for head in (pb.HEAD_CLICK, pb.HEAD_RATING):
        try:
            reply = client.predict(user, item_ids, head)
        except CallError as error:
            if error.reason != "HEAD_NOT_FITTED":
                raise
            missing.append(error)
            continue
        tables.append(_prediction_table(user, reply, "item", _QUANTITIES[reply.quantity]))
    if not tables:
        raise missing[0]
    return tables


def _prediction_table(user: str, reply: pb.PredictResponse, *columns: str) -> Table:
    used = ", ".join(_VIEWS[view] for view in reply.views_used)
    title = f"{escape(user)}: views used: {used or 'none, so this holds of everybody'}"
    table = Table(Column(columns[0], overflow="fold"), *columns[1:], title=title, title_justify="left")
    for name, value in zip(reply.item_ids or reply.categories, reply.values, strict=True):
        table.add_row(escape(name), f"{value:.4f}")
    return table


def reply_table(reply: pb.QueryResponse, subject: str, offset: int = 0) -> Table:
    """Return a reply as a table: items, scores and shares; an empty array of shares is all zero.

    `offset` results were on the pages before.
    """
    used = ", ".join(_VIEWS[view] for view in reply.views_used) or "none"
    fallback = ", popularity fallback" if reply.fallback == pb.FALLBACK_POPULARITY else ""
    title = f"{escape(subject)}: views used: {used}{fallback}"
    found = reply.user_ids or reply.item_ids
    column = Column("user" if reply.user_ids else "item", overflow="fold")
    arrays = (
        reply.history_shares,
        reply.text_shares,
        reply.social_shares,
        reply.query_shares,
        reply.prior_shares,
    )
    always = set() if reply.user_ids else _ALWAYS
    shown = [(name, share) for name, share in zip(_COLUMNS, arrays, strict=True) if share or name in always]
    names = [name for name, _ in shown] + ["owed to"] * bool(reply.explanations)
    table = Table("", column, "score", *names, title=title, title_justify="left")
    for row, (name, score) in enumerate(zip(found, reply.scores, strict=True)):
        columns = [f"{share[row]:+.4f}" if share else "" for _, share in shown]
        if reply.explanations:
            columns.append(escape(_owed(reply.explanations[row])))
        table.add_row(str(offset + row + 1), escape(name), f"{score:.4f}", *columns)
    return table


def _owed(one: pb.Explanation) -> str:
    """Return what contributed most as lines like history i00012 +0.31."""
    sources = (("history", one.events), ("text", one.texts), ("social", one.friends))
    return "\n".join(f"{view} {x.name[:60]} {x.value:+.4f}" for view, some in sources for x in some)


def _weights(written: str) -> pb.ViewWeights:
    """Return the weights that an option names.  Raises: typer.BadParameter."""
    try:
        history, text, social = map(float, written.split(","))
    except ValueError as error:
        raise typer.BadParameter(f"{written!r} is not three numbers like 1,0.5,0") from error
    return pb.ViewWeights(history=history, text=text, social=social)
