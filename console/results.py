"""Results as HTML: a row each, with a bar split by view, and what it is owed to."""

from collections.abc import Mapping, Sequence
from html import escape
from urllib.parse import urlencode

from console.words import Words
from triptych_client.pb.v1 import triptych_pb2 as pb

SHARES = ("history", "text", "social", "query", "prior")


def share_names(say: Words) -> dict[str, str]:
    """Return what the shares are called."""
    names = (say("history"), say("text"), say("friends"), say("search text"), say("popularity"))
    return dict(zip(SHARES, names, strict=True))


def results_html(reply: pb.QueryResponse, titles: Mapping[str, str], say: Words) -> str:
    """Return a list of results, best first.  Whatever comes from the server is escaped."""
    found = list(reply.item_ids or reply.user_ids)
    if not found:
        return f'<p class="t-note">{escape(say("No results: nothing passes the filter."))}</p>'
    shares = _shares(reply, len(found))
    longest = max([sum(map(abs, row.values())) for row in shares] + [1e-9])
    rows = []
    for place, name in enumerate(found):
        score = f"{reply.scores[place]:.4f}" if reply.scores else ""
        why = _why(reply.explanations[place], titles, say) if reply.explanations else ""
        rows.append(
            f'<li class="t-result"><div class="t-head"><span class="t-rank">{place + 1}</span>'
            f"{_link(name, titles, users=bool(reply.user_ids))}"
            f'<span class="t-score">{score}</span></div>{_bar(shares[place], longest, say)}{why}</li>'
        )
    return f'<ol class="t-results">{"".join(rows)}</ol>'


def legend_html(say: Words) -> str:
    """Return what the colours of the bars mean."""
    parts = (f'<span class="t-key t-{key}">{escape(name)}</span>' for key, name in share_names(say).items())
    return f'<div class="t-legend">{"".join(parts)}</div>'


def summary_of(reply: pb.QueryResponse, say: Words) -> str:
    """Return which views a reply used and what answered."""
    views = {
        pb.VIEW_HISTORY: say("history"),
        pb.VIEW_TEXT: say("text"),
        pb.VIEW_SOCIAL: say("friends"),
    }
    used = ", ".join(views[view] for view in reply.views_used if view in views) or say("none")
    took = reply.timings.views_ms + reply.timings.encode_ms + reply.timings.search_ms
    said = say(
        "Views used: {views}. {count} results in {ms} ms.",
        views=used,
        count=len(reply.item_ids or reply.user_ids),
        ms=f"{took:.1f}",
    )
    if reply.fallback == pb.FALLBACK_POPULARITY:
        said += " " + say("Nothing is known of this subject, so these are the most popular items.")
    return said


def _shares(reply: pb.QueryResponse, count: int) -> list[dict[str, float]]:
    arrays = (
        reply.history_shares,
        reply.text_shares,
        reply.social_shares,
        reply.query_shares,
        reply.prior_shares,
    )
    named = [(key, array) for key, array in zip(SHARES, arrays, strict=True) if array]
    return [{key: array[place] for key, array in named} for place in range(count)]


def _bar(shares: Mapping[str, float], longest: float, say: Words) -> str:
    """Return a bar: a piece per view as long as its share, one that takes away hatched."""
    if not shares:
        return ""

    def part(value: float) -> str:
        return f"{100 * abs(value) / longest:.2f}%"

    names = share_names(say)
    said = ", ".join(f"{names[key]} {value:+.4f}" for key, value in shares.items())
    pieces = "".join(
        f'<span class="t-piece t-{key}{" t-minus" if value < 0 else ""}" style="width:{part(value)}"></span>'
        for key, value in shares.items()
    )
    return f'<div class="t-bar" role="img" aria-label="{escape(said)}" title="{escape(said)}">{pieces}</div>'


def _why(one: pb.Explanation, titles: Mapping[str, str], say: Words) -> str:
    parts = ((say("history"), one.events), (say("text"), one.texts), (say("friends"), one.friends))
    lines = [
        f"<li><b>{escape(view)}</b> {escape(titles.get(some.name, some.name))} "
        f"<code>{some.value:+.4f}</code></li>"
        for view, contributions in parts
        for some in contributions
    ]
    if not lines:
        return ""
    return f"<details><summary>{escape(say('why'))}</summary><ul>{''.join(lines)}</ul></details>"


def _link(name: str, titles: Mapping[str, str], *, users: bool) -> str:
    page = "/people?" + urlencode({"user": name}) if users else "/items?" + urlencode({"item": name})
    title = titles.get(name, "")
    small = f' <small class="t-id">{escape(name)}</small>' if title else ""
    link = f'<a class="t-name" href="{escape(page)}">{escape(title or name)}</a>'
    return f'<span class="t-what">{link}{small}</span>'


def names_in(reply: pb.QueryResponse) -> Sequence[str]:
    """Return the ids of items that a reply names, in its results and its explanations, each once."""
    events = [some.name for one in reply.explanations for some in one.events]
    return list(dict.fromkeys([*reply.item_ids, *events]))
