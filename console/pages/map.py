"""The page Map: the items of the index that serves in two dimensions, and a person's vector among them."""

import json
import math
from collections.abc import Sequence
from html import escape
from typing import Any
from urllib.parse import urlencode

from nicegui import ui
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from console.backend import Backend
from console.failures import sentence_of
from console.forms import look_up_form
from console.frame import Visit, words_of
from console.words import Words
from triptych_client import CallError, MapOfItems
from triptych_client.pb.v1 import ingest_pb2 as ingest
from triptych_client.pb.v1 import triptych_pb2 as pb

POINTS_PATH, TITLE_PATH, SCRIPT_PATH = "/map/points", "/map/title", "/map/map.js"
_LONGEST = 1_000  # characters of a parameter


async def show_map(visit: Visit) -> None:
    """Draw the page.  Raises: CallError."""
    say, given = visit.say, visit.parameters
    ui.html(f"<h1>{escape(say('Map of the items'))}</h1>", sanitize=False)
    if not visit.can.read_people:
        visit.note(say("The map is told to tokens with the scope admin."))
        return
    colour, user_id = given.get("colour", "").strip(), given.get("user", "").strip()
    names = _attributes(await visit.backend.catalog())
    choices = {"": say("Kind")} | {name: name for name in names}
    look_up_form(
        "/map",
        {"user": (say("Person, by id"), user_id)},
        say("Show"),
        choices={"colour": (say("Coloured by"), colour, choices)},
    )
    found = await visit.backend.item_map(colour)
    person = None
    if user_id:
        encoded = await visit.backend.client.encode_user(user_id)
        person = placed(encoded, found, say)
        if person is None:
            visit.note(say("Nothing is known of {user}: the vector is zero.", user=user_id))
    hint = say("Drag to move, turn the wheel or press + and − to zoom, 0 shows all. A click opens the item.")
    label = escape(say("Items as points; the page Try lists them"))
    with ui.element("section").classes("t-card"):
        ui.html(
            f'<div class="t-map" data-points=""><canvas tabindex="0" role="img" aria-label="{label}">'
            '</canvas><div class="t-tip" hidden></div><div class="t-map-legend"></div>'
            f'<p class="t-map-status t-note" role="status">{escape(say("Loading …"))}</p></div>'
            f'<p class="t-note">{escape(hint)}</p>',
            sanitize=False,
        )
        if person is not None:
            visit.note(
                say(
                    "The thick arrow is where the person's vector points, the thin ones are its parts, which "
                    "add up to it. {share} of the vector lies in this plane.",
                    share=f"{person['share']:.1%}",
                )
            )
    words = {"others": say("others")}
    address = f"{POINTS_PATH.removeprefix('/')}?{urlencode({'colour': colour})}"
    ui.add_body_html(
        f'<script src="{SCRIPT_PATH.removeprefix("/")}"></script>'
        "<script>(function begin() {"
        'const root = document.querySelector(".t-map");'
        f"if (root) showMap(root, {_script(address)}, {_script(words)}, {_script(person)});"
        "else setTimeout(begin, 30); })();</script>"
    )


def placed(encoded: pb.EncodeUserResponse, found: MapOfItems, say: Words) -> dict[str, Any] | None:
    """Return where a person's vector and its parts point, as arrows; None where there is no vector.

    A person's vector says a direction: all is multiplied by one number, so the parts still add up to it. The
    longest arrow becomes as long as the points are far from their middle.
    """
    axes, whole = found.axes, encoded.vector.values
    size = sum(value * value for value in whole)
    if not size:
        return None

    def on_axes(vector: Sequence[float]) -> list[float]:
        return [sum(a * b for a, b in zip(axis, vector, strict=True)) for axis in (axes.first, axes.second)]

    vectors = {
        "history": (say("history"), encoded.history_part.values),
        "text": (say("text"), encoded.text_part.values),
        "social": (say("friends"), encoded.social_part.values),
        "whole": (say("the person"), whole),
    }
    arrows = {part: (name, on_axes(vector)) for part, (name, vector) in vectors.items() if vector}
    longest = max(math.hypot(*arrow) for _, arrow in arrows.values()) or 1.0
    scale = _spread(found.places) / longest
    return {
        "origin": [-mean for mean in axes.mean],
        "parts": list(arrows),
        "names": [name for name, _ in arrows.values()],
        "places": [
            [scale * one - mean for one, mean in zip(arrow, axes.mean, strict=True)]
            for _, arrow in arrows.values()
        ],
        "share": sum(one * one for one in arrows["whole"][1]) / size,
    }


def _spread(places: bytes) -> float:
    """Return the root mean square distance of points from their middle."""
    numbers = memoryview(places).cast("f")
    return math.sqrt(2 * sum(one * one for one in numbers) / len(numbers)) if len(numbers) else 1.0


async def map_points(request: Request, backend: Backend) -> Response:
    """Return the points as `packed_points` does, or why there are none."""
    say = words_of(request)
    try:
        found = await backend.item_map(request.query_params.get("colour", "")[:_LONGEST])
    except CallError as error:
        return PlainTextResponse(sentence_of(error, backend.config.address, say), 502)
    return Response(packed_points(found, say), media_type="application/octet-stream")


async def item_title(request: Request, backend: Backend) -> Response:
    """Return the title of an item, "" where it has none."""
    item_id = request.query_params.get("item", "")[:_LONGEST]
    try:
        titles = await backend.titles([item_id])
    except CallError:
        titles = {}
    return PlainTextResponse(titles.get(item_id, ""))


def packed_points(found: MapOfItems, say: Words) -> bytes:
    """Return the points of a map: the size of a JSON head, the head, places, groups, and ids a line each."""
    axes = found.axes
    shares = [f"{share:.0%}" for share in axes.explained]
    said = say("The axes hold {first} and {second} of the variance.", first=shares[0], second=shares[1])
    if axes.points < axes.items:
        said = say(
            "A sample of {points} of {items} items.", points=f"{axes.points:,}", items=f"{axes.items:,}"
        ) + (" " + said)
    else:
        said = say("{items} items.", items=f"{axes.items:,}") + " " + said
    ids = [item_id.replace("\n", " ") for item_id in found.item_ids]
    head = json.dumps(
        {"points": len(ids), "groups": list(axes.groups), "ranges": axes.ranges, "said": said}
    ).encode()
    head += b" " * (-len(head) % 4)
    return b"".join(
        (len(head).to_bytes(4, "little"), head, found.places, found.groups, "\n".join(ids).encode())
    )


def _attributes(catalog: ingest.ListAttributesResponse) -> list[str]:
    """Return the attributes that colours can tell apart."""
    return list(
        dict.fromkeys(
            one.name
            for one in catalog.attributes
            if one.type == ingest.ATTRIBUTE_TYPE_NUMBER or any(value.items > 1 for value in one.frequent)
        )
    )


def _script(value: object) -> str:
    """Return a value as it stands in a script, where no text of it ends that."""
    return json.dumps(value).replace("<", "\\u003c")
