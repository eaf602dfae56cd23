"""The diagrams of docs/images/, drawn as SVG from boxes on a grid and arrows between them."""

from dataclasses import dataclass
from enum import StrEnum
from xml.sax.saxutils import escape

_COLUMN, _ROW = 196, 92  # pixels between the middles of neighbours
_WIDTH, _LINE, _PADDING = 168, 15, 9  # of a box: its width, height of a line of text, space above and below
_MARGIN = 12
_STYLE = """text{font-family:system-ui,sans-serif;font-size:12px;fill:#1b2733;text-anchor:middle}
.name{font-weight:600}.step{fill:#e8eef7;stroke:#4a6fa5}.stored{fill:#f6efdf;stroke:#b08a3c}
.question{fill:#eef4ea;stroke:#5c8a4a}.arrow{stroke:#7a8699;stroke-width:1.4;fill:none}
.label{fill:#7a8699;font-size:11px}.head{fill:#7a8699}"""


class Shape(StrEnum):
    """What a box stands for."""

    STEP = "step"
    STORED = "stored"  # data at rest
    QUESTION = "question"


@dataclass(frozen=True)
class Box:
    """A box whose middle lies at a column and a row of the grid; the first line of its text is its name."""

    column: float
    row: float
    text: str
    shape: Shape = Shape.STEP

    @property
    def middle(self) -> tuple[float, float]:
        """Where its middle lies, in pixels, before the drawing is moved to its corner."""
        return self.column * _COLUMN, self.row * _ROW

    @property
    def height(self) -> float:
        """In pixels."""
        return len(self.text.split("\n")) * _LINE + 2 * _PADDING


@dataclass(frozen=True)
class Arrow:
    """An arrow between two boxes, by their keys."""

    start: str
    end: str
    label: str = ""
    dashed: bool = False


@dataclass(frozen=True)
class Diagram:
    """A picture: what it shows, for those who cannot see it, its boxes by key, and its arrows."""

    title: str
    boxes: dict[str, Box]
    arrows: tuple[Arrow, ...]


def svg(diagram: Diagram) -> str:
    """Return a diagram as an SVG document; the same diagram gives the same bytes."""
    boxes = diagram.boxes.values()
    left = min(one.middle[0] for one in boxes) - _WIDTH / 2 - _MARGIN
    top = min(one.middle[1] - one.height / 2 for one in boxes) - _MARGIN
    right = max(one.middle[0] for one in boxes) + _WIDTH / 2 + _MARGIN
    bottom = max(one.middle[1] + one.height / 2 for one in boxes) + _MARGIN
    size = f'width="{right - left:.0f}" height="{bottom - top:.0f}"'
    view = f'viewBox="{left:.0f} {top:.0f} {right - left:.0f} {bottom - top:.0f}"'
    arrows = [_arrow(diagram.boxes[one.start], diagram.boxes[one.end], one) for one in diagram.arrows]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} role="img">',
            f"<title>{escape(diagram.title)}</title>",
            f"<style>{_STYLE}</style>",
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            'orient="auto"><path class="head" d="M0 0 8 4 0 8z"/></marker></defs>',
            *arrows,
            *map(_box, boxes),
            "</svg>\n",
        ]
    )


def _box(box: Box) -> str:
    x, y = box.middle
    radius = {Shape.STEP: 4, Shape.STORED: 12, Shape.QUESTION: 22}[box.shape]
    lines = box.text.split("\n")
    first = y - (len(lines) - 1) * _LINE / 2 + 4
    text = "".join(
        f'<text class="{"detail" if n else "name"}" x="{x:.0f}" y="{first + n * _LINE:.1f}">'
        f"{escape(line)}</text>"
        for n, line in enumerate(lines)
    )
    corner = f'x="{x - _WIDTH / 2:.0f}" y="{y - box.height / 2:.1f}"'
    size = f'width="{_WIDTH}" height="{box.height:.0f}"'
    return f'<rect class="{box.shape}" {corner} {size} rx="{radius}"/>{text}'


def _arrow(start: Box, end: Box, arrow: Arrow) -> str:
    (x1, y1), (x2, y2) = _edge(start, end), _edge(end, start)
    dashes = ' stroke-dasharray="5 4"' if arrow.dashed else ""
    path = f'<path class="arrow" marker-end="url(#head)"{dashes} d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}"/>'
    if not arrow.label:
        return path
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    beside = ' style="text-anchor:start"' if abs(y2 - y1) > abs(x2 - x1) else ""
    x, y = (x + 6, y + 4) if beside else (x, y - 5)
    return f'{path}<text class="label"{beside} x="{x:.1f}" y="{y:.1f}">{escape(arrow.label)}</text>'


def _edge(inside: Box, towards: Box) -> tuple[float, float]:
    """Return where the line between the middles of two boxes leaves the first."""
    (x, y), (other_x, other_y) = inside.middle, towards.middle
    dx, dy = other_x - x, other_y - y
    reach = min(
        _WIDTH / 2 / abs(dx) if dx else float("inf"),
        inside.height / 2 / abs(dy) if dy else float("inf"),
    )
    return x + dx * reach, y + dy * reach
