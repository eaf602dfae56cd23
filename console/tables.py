"""Tables as HTML; whatever stands in them is escaped."""

from collections.abc import Mapping, Sequence
from html import escape

from triptych_client.pb.v1 import triptych_pb2 as pb


def date_text(one: pb.ModelSummary | pb.ReportSummary) -> str:
    """Return when something was made, a dash where that is not known."""
    return f"{one.created.ToDatetime():%Y-%m-%d %H:%M} UTC" if one.HasField("created") else "–"


def facts_html(facts: Mapping[str, str]) -> str:
    """Return names and values as a table of two columns."""
    lines = (f'<tr><th scope="row">{escape(k)}</th><td>{escape(v)}</td></tr>' for k, v in facts.items())
    return f'<table class="t-table">{"".join(lines)}</table>'


def compared_html(names: Sequence[str], facts: Mapping[str, Sequence[str]], differs: str) -> str:
    """Return facts side by side, a column each; a row whose values are not all the same is marked.

    Args:
        names: of the columns.
        facts: a value for each column by the name of the row.
        differs: what the mark is called.
    """
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in ("", *names))
    lines = []
    for name, values in facts.items():
        apart = len(set(values)) > 1
        mark = f' <span class="t-mark" role="img" aria-label="{escape(differs)}">≠</span>' if apart else ""
        cells = "".join(f"<td>{escape(value)}</td>" for value in values)
        look = ' class="t-differs"' if apart else ""
        lines.append(f'<tr{look}><th scope="row">{escape(name)}{mark}</th>{cells}</tr>')
    table = f'<table class="t-table"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'
    return f'<div class="t-scroll" tabindex="0" role="group">{table}</div>'


def rows_html(
    names: Sequence[str], rows: Sequence[Sequence[str]], links: Mapping[str, str] | None = None
) -> str:
    """Return a table that scrolls sideways where it is too wide.

    Args:
        names: of the columns.
        rows: texts.
        links: where a text of the first column leads.
    """

    def first(text: str) -> str:
        where = (links or {}).get(text)
        return f'<a class="t-name" href="{escape(where)}">{escape(text)}</a>' if where else escape(text)

    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    cells = ([escape(one) if place else first(one) for place, one in enumerate(row)] for row in rows)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in cells)
    table = f'<table class="t-table"><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>'
    return f'<div class="t-scroll" tabindex="0" role="group">{table}</div>'
