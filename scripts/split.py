"""triptych split: mark behaviours as held out, to choose and to judge models on."""

from enum import StrEnum
from typing import Annotated, Any, Literal

import typer
from rich.table import Table

from scripts.home_access import NoSuchHomeError, writable_store
from scripts.terminal import HomeOption, console
from store.home import Home
from store.store import Store

SPLITS = ("train", "valid", "test")  # by the label that evaluation.split gives


class SplitBy(StrEnum):
    """What `--by` takes."""

    RANDOM = "random"
    TIME = "time"
    LAST = "last"


class AlreadySplitError(ValueError):
    """Rows are held out already, and --replace is not given."""

    def __init__(self, rows: int) -> None:
        super().__init__(
            f"{rows:,} behaviours are held out already, and results on them would no longer compare: "
            "say --replace to mark anew"
        )
        self.rows = rows


class NothingToSplitError(ValueError):
    """The store has no behaviours."""

    def __init__(self, home: Home) -> None:
        super().__init__(f"{home.database} holds no behaviours to split: import some (triptych import)")


class EmptySplitError(ValueError):
    """A split would hold out no row, so that nothing could be chosen or judged on it."""

    def __init__(self, by: str, rows: int, users: int, least: int) -> None:
        super().__init__(
            f"--by {by} would hold out none of {rows:,} behaviours of {users:,} users: rows are only taken "
            f"from users with {least} or more, by the shares --valid and --test; import more, or raise them"
        )
        self.by = by


def split_command(
    home: HomeOption,
    by: Annotated[
        SplitBy,
        typer.Option(
            help="random draws rows; time takes each user's latest share; last their last two events."
        ),
    ],
    valid: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share to choose models on.")] = 0.1,
    test: Annotated[float, typer.Option(min=0.0, max=0.9, help="Share to judge models on.")] = 0.1,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw in random.")] = 0,
    replace: Annotated[
        bool, typer.Option("--replace", help="Forget the rows that are held out already.")
    ] = False,
) -> None:
    """Mark behaviours as held out: valid to choose models on, test to judge them; the rest is history.

    Rows of the same item and time stay together, and every user keeps some history. Shares do not matter to
    `last`; to hold nothing out any more, say --by random --valid 0 --test 0 --replace.

    Example: triptych split --home demo --by time --valid 0.1 --test 0.1
    """
    if valid + test >= 1:
        raise typer.BadParameter("--valid and --test together must leave a share for train")
    place = Home(home)
    if not place.database.exists():
        raise NoSuchHomeError(home)
    with writable_store(place) as store:
        marked = split_store(store, place, by.value, valid=valid, test=test, seed=seed, replace=replace)
    _print_counts(marked)
    print(
        "models and indexes made before know the old history: "
        f"run `triptych train --home {home}`, then `triptych reindex --home {home}`"
    )


def split_store(
    store: Store,
    home: Home,
    by: Literal["random", "time", "last"],
    *,
    valid: float,
    test: float,
    seed: int,
    replace: bool,
) -> Any:
    """Write the marks, and return user_id and split of all behaviours as an Arrow table.

    Raises:
        NothingToSplitError: there are no behaviours.
        AlreadySplitError: rows are held out and `replace` is off; nothing is written.
        NoTimeError: a split by time, and a row has no time; nothing is written.
        EmptySplitError: no row would be held out, though a share is; nothing is written.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from evaluation.split import MIN_ROWS, NO_TIME, mark

    events = store.visible_events(held_out=True)
    if not len(events):
        raise NothingToSplitError(home)
    held_out = int(pc.sum(pc.is_in(events.column("split"), pa.array(SPLITS[1:]))).as_py())
    if held_out and not replace:
        raise AlreadySplitError(held_out)

    def positions(name: str) -> Any:
        """Return ids as positions among the sorted ids: the same rows give the same draw in any store."""
        column = events.column(name).combine_chunks()
        distinct = pc.unique(column)
        return np.asarray(pc.index_in(column, distinct.take(pc.array_sort_indices(distinct))), dtype=np.int64)

    ts = pc.fill_null(events.column("ts").cast(pa.timestamp("us")).cast(pa.int64()), NO_TIME)
    labels = mark(
        by,
        positions("user_id"),
        positions("item_id"),
        np.asarray(ts.to_numpy(), dtype=np.int64),
        valid=valid,
        test=test,
        seed=seed,
    )
    if not labels.any() and (by == "last" or valid + test):
        users = pc.count_distinct(events.column("user_id")).as_py()
        raise EmptySplitError(by, len(events), users, MIN_ROWS)
    names = pa.array(SPLITS).take(pa.array(labels))
    marks = events.drop_columns("split").append_column("split", names)
    store.write_splits(marks.filter(pa.array(labels > 0)), reset=True)
    return marks.select(["user_id", "split"])


def _print_counts(marked: Any) -> None:
    import pyarrow.compute as pc

    table = Table("split", "rows", "share", "users", title="behaviours")
    for split in SPLITS:
        users = marked.filter(pc.equal(marked.column("split"), split)).column("user_id")
        table.add_row(
            split,
            f"{len(users):,}",
            f"{len(users) / len(marked):.1%}",
            f"{pc.count_distinct(users).as_py():,}",
        )
    held_out = marked.filter(pc.not_equal(marked.column("split"), "train")).column("user_id")
    console().print(table)
    print(
        f"{pc.count_distinct(held_out).as_py():,} of "
        f"{pc.count_distinct(marked.column('user_id')).as_py():,} users with behaviour have held-out rows"
    )
