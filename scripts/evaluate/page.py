"""An evaluation report as one HTML file, which opens without a network: its charts, then its tables."""

from collections.abc import Iterator
from html import escape
from typing import Any

from scripts.evaluate.plots import (
    amounts_figure,
    by_view_figure,
    models_figure,
    new_items_figure,
    reliability_figure,
    robustness_figure,
    svg_of,
)

# For rich's `export_html`: its lines, without a page around them.
TABLES_FORMAT = '<pre class="tables">{code}</pre>'

_STYLE = """
:root { color-scheme: light dark; }
body { font-family: system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1.5rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.ids { color: #6b6b6b; margin: 0; overflow-wrap: anywhere; }
nav a { margin-right: 1rem; }
figure { margin: 0; background: #fff; border: 1px solid #d5d5d5; border-radius: .4rem; overflow-x: auto; }
figure svg { display: block; max-width: 100%; height: auto; }
pre.tables { overflow-x: auto; background: #fff; color: #1b1b1b; border: 1px solid #d5d5d5; padding: 1rem;
  font-family: ui-monospace, Menlo, "DejaVu Sans Mono", monospace; font-size: .8rem; }
"""


def page_html(report: dict[str, Any], tables: str) -> str:
    """Return the page; it names nothing that is not in it.

    Args:
        report: of `evaluate`.
        tables: as HTML.
    """
    title = f"{report['dataset']}, split {report['split']}, {report['users']:,} users"
    sections = list(charts(report))
    links = "".join(
        f'<a href="#c{place}">{escape(heading)}</a>' for place, (heading, _) in enumerate(sections)
    )
    drawn = "".join(
        f'<section id="c{place}"><h2>{escape(heading)}</h2><figure>{svg}</figure></section>'
        for place, (heading, svg) in enumerate(sections)
    )
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · Triptych</title><style>{_STYLE}</style></head><body>"
        f"<h1>{escape(title)}</h1>"
        f'<p class="ids">model {escape(report["model_id"])} · index {escape(report["index_id"])}</p>'
        f'<nav>{links}<a href="#tables">Tables</a></nav>'
        f'{drawn}<section id="tables"><h2>Tables</h2>{tables}</section></body></html>\n'
    )


def charts(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield heading and SVG of each chart that the report has figures for."""
    yield "Recall, beside others", svg_of(models_figure(report))
    yield "By view", svg_of(by_view_figure(report))
    yield "By history length, texts and friends", svg_of(amounts_figure(report))
    if report["new_items"]:
        yield "New items", svg_of(new_items_figure(report["new_items"]))
    if report.get("robustness") and report["robustness"]["by_view"]:
        yield "Robustness", svg_of(robustness_figure(report))
    heads = report.get("heads", {})
    if any("calibration" in one for one in heads.values()):
        yield "Calibration", svg_of(reliability_figure(heads))
