"""An evaluation report as one HTML file, which opens without a network: its charts, then its tables."""

from html import escape
from typing import Any

from charts import chart_html, chart_style, in_english, report_charts

# For rich's `export_html`: its lines, without a page around them.
TABLES_FORMAT = '<pre class="tables">{code}</pre>'

_DARK = "@media (prefers-color-scheme: dark) {{ .c-chart {{ {} }} }}"
_STYLE = """
:root { color-scheme: light dark; }
body { font-family: system-ui, sans-serif; margin: 0 auto; max-width: 72rem; padding: 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.ids { color: #6b6b6b; margin: 0; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: .2rem 1rem; }
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
    charts = list(report_charts([report], in_english))
    links = "".join(f'<a href="#{escape(chart.key)}">{escape(chart.heading)}</a>' for chart in charts)
    drawn = "".join(chart_html(chart, in_english) for chart in charts)
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} · Triptych</title><style>{_STYLE}{chart_style(_DARK)}</style></head><body>"
        f"<h1>{escape(title)}</h1>"
        f'<p class="ids">model {escape(report["model_id"])} · index {escape(report["index_id"])}</p>'
        f'<nav>{links}<a href="#tables">Tables</a></nav>'
        f'{drawn}<section id="tables"><h2>Tables</h2>{tables}</section></body></html>\n'
    )
