"""What people of the sample world write, and what its items say."""

from collections.abc import Sequence
from dataclasses import dataclass

from scripts.world import words

MAX_WORDS = 16  # of a post
_LINES = 11  # of a topic in the word list


@dataclass(frozen=True)
class Topic:
    """One topic."""

    name: str
    facets: tuple[tuple[str, ...], ...]  # five of five words
    posts: tuple[str, ...]
    texts: tuple[str, ...]
    chinese: tuple[str, ...]  # one for each facet


def topics() -> tuple[Topic, ...]:
    """Return the twelve topics."""
    lines = [line.strip() for line in words.TOPICS.strip().split("\n")]
    return tuple(_topic(lines[start : start + _LINES]) for start in range(0, len(lines), _LINES))


def item(topic: Topic, facet: int, kind: str, draw: Sequence[int]) -> tuple[str, str]:
    """Return title and text of an item; `draw` holds six numbers that choose the words."""
    slots = _slots(topic, facet, draw)
    title = _sentence(_pick(words.TITLES[kind], draw[3]), slots)
    text = _sentence(_pick(topic.texts, draw[4]), slots)
    return title, f"{text} {_sentence(_pick(words.ITEM_CLOSERS, draw[5]), slots)}"


def chinese_item(topic: Topic, facet: int, kind: str, number: int, draw: Sequence[int]) -> tuple[str, str]:
    """Return a Chinese title, told apart by `number`, and text of an item."""
    phrase = topic.chinese[facet]
    title = words.CHINESE_TITLES[kind].format(p=phrase, n=number)
    return title, _pick(words.CHINESE_TEXTS, draw[0]).format(p=phrase)


def post(topic: Topic, facet: int, draw: Sequence[int]) -> str:
    """Return a sentence of at most MAX_WORDS words; `draw` holds six numbers that choose them."""
    slots = _slots(topic, facet, draw)
    said = f"{_pick(words.OPENERS, draw[3])} {_pick(topic.posts, draw[4])}"
    full = _sentence(f"{said}, {_pick(words.CLOSERS, draw[5])}", slots)
    return full if len(full.split()) <= MAX_WORDS else _sentence(f"{said}.", slots)


def chinese_post(topic: Topic, facet: int, draw: Sequence[int]) -> str:
    """Return a Chinese sentence; `draw` holds numbers that choose its ends."""
    return (
        _pick(words.CHINESE_OPENERS, draw[0]) + topic.chinese[facet] + _pick(words.CHINESE_CLOSERS, draw[1])
    )


def _topic(lines: Sequence[str]) -> Topic:
    return Topic(
        name=lines[0],
        facets=tuple(tuple(line.split(", ")) for line in lines[1:6]),
        posts=tuple(lines[6:9]),
        texts=tuple(lines[9].split(" | ")),
        chinese=tuple(lines[10].split(" | ")),
    )


def _pick(choices: Sequence[str], draw: int) -> str:
    return choices[draw % len(choices)]


def _slots(topic: Topic, facet: int, draw: Sequence[int]) -> dict[str, str]:
    """Return three different words: a and b of the facet, c of another one."""
    a, b = draw[0] % 5, (draw[0] % 5 + 1 + draw[1] % 4) % 5
    c = topic.facets[(facet + 1 + draw[2] % 4) % 5][draw[2] // 4 % 5]
    return {"a": topic.facets[facet][a], "b": topic.facets[facet][b], "c": c}


def _sentence(pattern: str, slots: dict[str, str]) -> str:
    filled = pattern.format(**slots)
    return filled[0].upper() + filled[1:]
