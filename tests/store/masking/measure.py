"""Precision and recall of masking on the strings of strings.tsv, as the table in docs/data-protection.md.

    python -m tests.store.masking.measure

What is to be masked stands in ⟦ ⟧. Found is what has exactly these bounds and this kind. Strings of kind none
have nothing to mask. Some of all kinds are hard on purpose, and are missed.
"""

import re
from pathlib import Path
from typing import NamedTuple

from store.masking import KINDS, Masker, Masking

STRINGS = Path(__file__).with_name("strings.tsv")
LANGUAGES = {"en": "English", "zh": "Chinese"}
CONTEXTS = ("in", "out")


class Marked(NamedTuple):
    """A string, and what is to be found in it."""

    language: str
    kind: str
    context: str
    text: str
    wanted: frozenset[tuple[tuple[int, int], str]]


def strings() -> list[Marked]:
    """Read all strings."""
    marked = []
    for line in STRINGS.read_text("utf-8").splitlines()[1:]:
        language, kind, context, text = line.split("\t")
        spans, plain = [], ""
        for part in re.split("(⟦[^⟧]*⟧)", text):
            inner = part.strip("⟦⟧")
            if part != inner:
                spans.append(((len(plain), len(plain) + len(inner)), kind))
            plain += inner
        marked.append(Marked(language, kind, context, plain, frozenset(spans)))
    return marked


def table() -> str:
    """Return precision and recall by kind and language, as a table in Markdown."""
    masker = Masker(Masking(KINDS))
    found = [(one, set(masker.find(one.text))) for one in strings()]
    lines = [
        "| kind | language | in them | recall in a sentence | recall alone | wrongly masked | precision |",
        "|---|---|---|---|---|---|---|",
    ]
    totals = [0, 0, 0]
    for kind in KINDS:
        for language, name in LANGUAGES.items():
            some = [(one, hits) for one, hits in found if one.language == language]
            wanted = [(one.context, one.wanted & hits, one.wanted) for one, hits in some if one.kind == kind]
            recall = [
                f"{sum(len(hit) for c, hit, _ in wanted if c == context)}/"
                f"{sum(len(all_) for c, _, all_ in wanted if c == context)}"
                for context in CONTEXTS
            ]
            right = sum(len(hit) for _, hit, _ in wanted)
            wrong = sum(sum(k == kind for _, k in hits - one.wanted) for one, hits in some)
            count = sum(len(all_) for *_, all_ in wanted)
            precision = f"{right / (right + wrong):.2f}"
            lines.append(f"| {kind} | {name} | {count} | {' | '.join(recall)} | {wrong} | {precision} |")
            totals = [a + b for a, b in zip(totals, (count, right, wrong), strict=True)]
    count, right, wrong = totals
    lines.append(
        f"| all | both | {count} | {right}/{count} in both: {right / count:.2f} | | {wrong} "
        f"| {right / (right + wrong):.2f} |"
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
