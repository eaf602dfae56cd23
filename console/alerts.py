"""Alerts as people read them: what is wrong, since when, and what to do."""

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape

from console.words import Words
from triptych_client.pb.v1 import triptych_pb2 as pb


def alerts_html(alerts: Sequence[pb.Alert], conditions: int, say: Words, now: datetime) -> str:
    """Return the alerts that hold, each with its severity in words, or that none does."""
    if not alerts:
        none = say("All is well: none of {count} conditions holds.", count=conditions)
        return f'<p class="t-well">{escape(none)}</p>'
    return f'<ul class="t-alerts">{"".join(_alert(one, say, now) for one in alerts)}</ul>'


def _alert(one: pb.Alert, say: Words, now: datetime) -> str:
    minutes = max(0, int((now - one.since.ToDatetime(UTC)).total_seconds() // 60))
    severity = say("critical") if one.severity == "critical" else say("warning")
    what = _summary(one, say)
    since = say("for {minutes} min", minutes=minutes)
    return (
        f'<li class="t-alert t-{escape(one.severity)}"><b>{escape(severity)}: {escape(what)}</b> '
        f'<span class="t-note">{escape(since)} · {escape(one.name)}</span><br>{escape(say(one.advice))}</li>'
    )


def _summary(one: pb.Alert, say: Words) -> str:
    """Return what is wrong: the server's sentence, or in another language what the alert is called there."""
    called = say(one.name)
    if called == one.name:
        return one.summary
    about = "，".join(one.labels[name] for name in sorted(one.labels))
    return f"{called}（{about}）" if about else called
