"""Training data of a language model: texts, or pairs of a user's and an item's text, drawn in one pass."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from encoder.text.encoder import item_text
from encoder.text.samples import MOST_CHARACTERS, TEXT_ROWS, Reservoir, read_texts, rows_by_user
from encoder.text.tuning.options import AdaptOptions, CompressOptions, TextTrainingOptions, TuneOptions
from store.export import Export

_JUDGED = 320  # held-out pairs or texts at most: enough to tell two epochs apart
_FEWEST = 2  # a softmax over one is always right


class TooFewTextsError(ValueError):
    """The visible data hold too few pairs or texts to train on, or to stop the training by."""

    def __init__(self, what: str, training: int, held_out: int) -> None:
        super().__init__(
            f"there are {training} {what} to train on and {held_out} held out for early stopping; "
            f"each needs {_FEWEST} or more: import more texts, or leave the tuning out"
        )
        self.training = training
        self.held_out = held_out


@dataclass(frozen=True)
class TextPair:
    """A text that a user wrote and the text of an item in the same user's history."""

    user_id: str
    text: str
    item_id: str
    item_text: str


def draw_pairs(export: Export, options: TuneOptions) -> tuple[list[TextPair], list[TextPair]]:
    """Draw the pairs to train on, enough for all epochs, and the held-out ones, of other users.

    A text pairs with items of its user's visible history, one that names an item with that item alone.
    A pair is left out as trivial where one text holds the other whole, case and spacing aside: a
    review that quotes all there is of the item, an author's abstract of an own document.

    Raises:
        TooFewTextsError: fewer than two pairs on either side.
    """
    rng = np.random.default_rng(options.seed)
    training = Reservoir[tuple[str, str, str]](options.pairs * options.epochs, rng)
    judged = Reservoir[tuple[str, str, str]](_JUDGED, rng)
    for user_id, texts, items in _users(export, options):
        kept = judged if is_held_out(user_id, options) else training
        for text, item_id in _draw(texts, items, options.pairs_per_user, rng):
            kept.add((user_id, text, item_id))
    drawn, drawn_judged = training.shuffled(), judged.shuffled()
    known = _item_texts(export, {item_id for _, _, item_id in [*drawn, *drawn_judged]})
    pairs, held_out = _pairs(drawn, known), _pairs(drawn_judged, known)
    if min(len(pairs), len(held_out)) < _FEWEST:
        raise TooFewTextsError("pairs of a user's text and an item", len(pairs), len(held_out))
    return pairs, held_out


def draw_texts(export: Export, options: AdaptOptions | CompressOptions) -> tuple[list[str], list[str]]:
    """Draw distinct texts of users and items to train on, and the held-out ones.

    Raises:
        TooFewTextsError: fewer than two texts on either side.
    """
    rng = np.random.default_rng(options.seed)
    training = Reservoir[str](options.texts * options.epochs, rng)
    judged = Reservoir[str](_JUDGED, rng)
    for text in read_texts(export, options.left_out_users):
        (judged if is_held_out(normalised(text), options) else training).add(text)
    texts, held_out = (list(dict.fromkeys(kept.shuffled())) for kept in (training, judged))
    if min(len(texts), len(held_out)) < _FEWEST:
        raise TooFewTextsError("texts", len(texts), len(held_out))
    return texts, held_out


def is_held_out(key: str, options: TextTrainingOptions) -> bool:
    """Return whether a key falls into the share that only early stopping sees; the seed decides."""
    digest = hashlib.sha256(f"{options.seed} {key}".encode()).digest()
    return int.from_bytes(digest[:8]) < options.held_out * 2**64


def normalised(text: str) -> str:
    """Return a text without the case and spacing in which copies differ."""
    return " ".join(text.casefold().split())


def _users(
    export: Export, options: TuneOptions
) -> Iterator[tuple[str, list[tuple[str | None, str]], list[str]]]:
    """Yield user id, (item named or None, text) and distinct items of the history, user by user."""
    histories = rows_by_user(export.history_batches(), "item_id", "action", "weight")
    owner, behaviours = next(histories, (None, []))
    for user_id, rows in rows_by_user(export.texts_batches(TEXT_ROWS), "item_id", "text"):
        while owner is not None and owner < user_id:  # both streams are sorted by user
            owner, behaviours = next(histories, (None, []))
        if user_id in options.left_out_users:
            continue
        items: dict[str, None] = {}
        if owner == user_id:
            items = dict.fromkeys(
                item_id
                for item_id, action, weight in behaviours
                if weight > 0 and action not in options.ignored_actions
            )
        yield user_id, [(item_id, text) for item_id, text in rows if text.strip()], list(items)


def _draw(
    texts: Sequence[tuple[str | None, str]], items: Sequence[str], count: int, rng: np.random.Generator
) -> list[tuple[str, str]]:
    """Draw up to `count` different (text, item id) of one user."""
    if not texts:
        return []
    rows = rng.integers(len(texts), size=count).tolist()
    places = rng.integers(max(len(items), 1), size=count).tolist()
    drawn: dict[tuple[int, str], None] = {}
    for row, place in zip(rows, places, strict=True):
        item_id = texts[row][0] or (items[place] if items else None)
        if item_id is not None:
            drawn[row, item_id] = None
    return [(texts[row][1][:MOST_CHARACTERS], item_id) for row, item_id in drawn]


def _item_texts(export: Export, wanted: set[str]) -> dict[str, str]:
    items = export.items(columns=["item_id", "title", "text"])
    mask = pc.is_in(items.column("item_id"), value_set=pa.array(sorted(wanted), pa.string()))
    return {
        row["item_id"]: item_text(row["title"], row["text"])[:MOST_CHARACTERS]
        for batch in items.filter(mask).to_batches(TEXT_ROWS)
        for row in batch.to_pylist()
    }


def _pairs(drawn: Iterable[tuple[str, str, str]], known: dict[str, str]) -> list[TextPair]:
    pairs = (TextPair(user, text, item, known.get(item, "")) for user, text, item in drawn)
    return [pair for pair in pairs if pair.item_text and not _trivial(pair)]


def _trivial(pair: TextPair) -> bool:
    text, other = normalised(pair.text), normalised(pair.item_text)
    return text in other or other in text
