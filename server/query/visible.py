"""Items that a caller may see: the filter of a token, which holds beyond the results of a search."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from indexer.filters import Filter
from indexer.index import Index
from server.query.pages import NO_ROWS
from server.query.query import Explanation, InlineViews, SimilarTo, StoredUser, Subject
from store.store import ItemNotFoundError

_Subject = TypeVar("_Subject", Subject, StoredUser | InlineViews)


def visible_of(index: Index, visible: Filter, item_ids: Sequence[str]) -> set[str]:
    """Return those of some items that pass a filter; an item that is not in the index passes none."""
    if not item_ids:
        return set()
    wanted = visible.both(Filter(allow=tuple(sorted(set(item_ids)))))
    state = index.delta.state
    return set(index.item_ids(index.popular(len(item_ids), NO_ROWS, wanted, state), state))


def visible_subject(index: Index, visible: Filter | None, subject: _Subject) -> _Subject:
    """Return a subject without the events that are about items which the caller may not see.

    Raises:
        ItemNotFoundError: it is such an item; there is no difference to one that does not exist.
    """
    if visible is None:
        return subject
    if isinstance(subject, SimilarTo) and subject.item_id not in visible_of(
        index, visible, [subject.item_id]
    ):
        raise ItemNotFoundError(subject.item_id)
    if isinstance(subject, InlineViews) and subject.views.history:
        views = subject.views
        seen = visible_of(index, visible, [event.item_id for event in views.history])
        history = tuple(event for event in views.history if event.item_id in seen)
        return InlineViews(replace(views, history=history))
    return subject


def visible_explanations(
    index: Index, visible: Filter | None, explanations: tuple[Explanation, ...]
) -> tuple[Explanation, ...]:
    """Return explanations that name what the caller may see, and no texts, which may be about other items."""
    if visible is None:
        return explanations
    named = {source.name for items, _, _ in explanations for source in items}
    seen = visible_of(index, visible, sorted(named))
    return tuple(
        (tuple(source for source in items if source.name in seen), (), friends)
        for items, _, friends in explanations
    )
