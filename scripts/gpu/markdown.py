"""The section of docs/benchmarks.md about a card."""

from collections.abc import Mapping, Sequence
from typing import Any

_COMMAND = "    make gpu"


def gpu_markdown(report: Mapping[str, Any]) -> str:
    """Return a Markdown section; a step that found nothing is named with its reason."""
    card, found = report["card"], report["steps"]
    parts = [
        "## On a graphics card",
        _COMMAND,
        f"{report['date']}, {card.get('name', 'a card')} ({card.get('memory.total', '?')}, driver "
        f"{card.get('driver_version', '?')}), {report['cpus']} CPU cores, FAISS {report['faiss']}, "
        f"{sum(one['took'] for one in found.values()):.0f} s in all.",
    ]
    writers = {
        "tests": _tests,
        "parity": _parity,
        "exact": _exact,
        "text": _text,
    }
    for name, write in writers.items():
        if name in found and "error" not in found[name]:
            parts += write(found[name])
    parts += _beside("builds", found, _builds)
    parts += _beside("training", found, _training)
    errors = [f"- {name}: {one['error']}" for name, one in found.items() if "error" in one]
    if errors:
        parts += ["Not measured:", "\n".join(errors)]
    return "\n\n".join(parts) + "\n"


def _beside(name: str, found: Mapping[str, Any], write: Any) -> list[str]:
    measured = [
        found[one] for one in (name, f"{name} on the CPU") if one in found and "error" not in found[one]
    ]
    return write(measured) if measured else []


def _tests(one: Mapping[str, Any]) -> list[str]:
    reasons = f" ({'; '.join(one['reasons'])})" if one["reasons"] else ""
    return [f"Tests marked `gpu`: {one['passed']} passed, {one['skipped']} skipped{reasons}."]


def _parity(one: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            r["factory"],
            *(f"{r[c]:.4f}" for c in ("same_ids", "recall_card", "recall_cpu")),
            f"{r['greatest_score_difference']:.1e}",
            "–" if "same_ids_torch" not in r else f"{r['same_ids_torch']:.4f}",
        )
        for r in one["results"]
    ]
    names = (
        "index",
        "same ids, card and CPU",
        "recall, card",
        "recall, CPU",
        "greatest difference of a score",
        "same ids as a product in torch",
    )
    return [f"Card beside CPU, {one['items']:,} × {one['dim']}, k = {one['k']}:", _table(names, rows)]


def _exact(one: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            r["batch"],
            f"{r['ms']:.2f}",
            f"{r['queries_per_second']:,.0f}",
            f"{r['gb_per_second']:,.0f}",
            _share(r["share_of_bandwidth"]),
        )
        for r in one["results"]
    ]
    copied = one["copy_gb_per_second"]
    beside = f"a copy within the card moves {copied:,.0f} GB/s, " if copied else ""
    size = f"{one['items']:,} × {one['dim']}, k = {one['k']}"
    head = f"Every vector compared as halves, {size}; {beside}recall {one['recall']:.4f}:"
    return [head, _table(("batch", "ms", "queries a second", "GB/s", "share of the copy"), rows)]


def _text(one: Mapping[str, Any]) -> list[str]:
    by = {(r["tokens"], r["device"]): r["texts_per_second"] for r in one["results"]}
    rows = [
        (
            tokens,
            f"{by[tokens, 'card']:,.0f}",
            f"{by[tokens, 'CPU']:,.0f}",
            f"{by[tokens, 'card'] / by[tokens, 'CPU']:.1f}",
        )
        for tokens in dict.fromkeys(tokens for tokens, _ in by)
    ]
    return [
        f"Text encoding by {one['by']}, texts a second:",
        _table(("tokens, about", "card", "CPU", "card / CPU"), rows),
    ]


def _builds(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    rows = [(r["factory"], one["on"], f"{r['seconds']:.1f}") for one in measured for r in one["results"]]
    return [
        f"Building {measured[0]['items']:,} × {measured[0]['dim']}:",
        _table(("index", "on", "seconds"), rows),
    ]


def _training(measured: Sequence[Mapping[str, Any]]) -> list[str]:
    first = measured[0]
    rows = [(one["on"], f"{one['seconds_per_epoch']:.2f}") for one in measured]
    head = (
        f"A learned block on {first['users']:,} users, {first['items']:,} items, {first['events']:,} events:"
    )
    return [head, _table(("on", "seconds an epoch"), rows)]


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def _table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(str(value) for value in line)} |" for line in lines)
