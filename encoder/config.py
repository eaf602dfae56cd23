"""The settings of a user tower, saved with the model, and the names of the views."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

VIEWS = ("H", "T", "S")
VIEW_NAMES = {"H": "history", "T": "text", "S": "social"}

Weighting = Literal["log", "binary"]
Fusion = Literal["ridge", "maxvar"]


class UnknownViewError(ValueError):
    """A view is not one of H, T, S."""

    def __init__(self, view: str) -> None:
        super().__init__(f"view {view!r} is not one of {', '.join(VIEWS)}")
        self.view = view


class SettingsError(ValueError):
    """Settings of a tower are missing, unknown or out of range."""

    def __init__(self, reason: object) -> None:
        super().__init__(f"settings of a user tower: {reason}")


@dataclass(frozen=True)
class TowerConfig:
    """Hyper-parameters of the closed-form user tower.

    Attributes:
        dim: embedding dim D of the shared space.
        weighting: what a (user, item) count becomes: `log` log(1 + count), `binary` 1.
        user_exponent: power of the user degree that the spectral table divides by; 0.5 is symmetric.
        item_exponent: power of the item degree in the spectral table and, inverted, in the item vectors.
        damping: spectral filter s² / (s² + damping · s_max²) on the singular values s; 0 is a hard cut.
        fusion: `ridge` regresses T and S onto H; `maxvar` is regularised MAXVAR generalised CCA.
        ridge: λ of the alignment, per user in the views' unit scale.
        centred: whether T and H are centred before T is regressed onto H.
        gates: weight of each view, H first; shared out again over the views that a user has.
        actions: weight of an action in a history; 1 where not named, 0 leaves it out.
        half_life: events after which an older event counts half when a history is pooled; 0 is never.
    """

    dim: int = 128
    weighting: Weighting = "log"
    user_exponent: float = 0.5
    item_exponent: float = 0.5
    damping: float = 0.0
    fusion: Fusion = "ridge"
    ridge: float = 1.0
    centred: bool = False
    gates: tuple[float, float, float] = (1.0, 0.5, 0.5)
    actions: dict[str, float] = field(default_factory=dict)
    half_life: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "TowerConfig":
        """Make settings from the JSON values that `as_json` returned.

        Raises:
            SettingsError: a setting is missing, unknown or not of its kind.
        """
        check_names(cls, values)
        if not isinstance(values.get("gates"), list | tuple):
            raise SettingsError(f"gates {values.get('gates')!r} are not three numbers")
        return cls(**(values | {"gates": tuple(values["gates"])}))

    def __post_init__(self) -> None:
        numbers = {
            name: getattr(self, name)
            for name in ("dim", "ridge", "damping", "user_exponent", "item_exponent", "half_life")
        }
        check_numbers(numbers | dict(enumerate(self.gates)) | self.actions)
        if self.dim < 1:
            raise SettingsError(f"dim {self.dim} is not positive")
        if len(self.gates) != len(VIEWS) or not max(self.gates) > 0:
            raise SettingsError(f"gates {self.gates} are not three numbers that are not negative")
        if self.weighting not in get_args(Weighting) or self.fusion not in get_args(Fusion):
            raise SettingsError(f"weighting {self.weighting!r} or fusion {self.fusion!r} is unknown")


def check_names(kind: type, values: object) -> None:
    """Check that a JSON object names only fields of a settings class.  Raises: SettingsError."""
    if not isinstance(values, dict):
        raise SettingsError(f"{values!r} is no JSON object")
    known = [one.name for one in fields(kind)]
    for name in values:
        if name not in known:
            raise SettingsError(f"there is no {name!r}; there are {', '.join(known)}")


def check_numbers(values: Mapping[Any, object]) -> None:
    """Check that all are finite numbers that are not negative.  Raises: SettingsError, with the name."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise SettingsError(f"{name} is {value!r}, not a finite number that is not negative")


def parse_views(text: str) -> tuple[str, ...]:
    """Parse views from a text such as "H,T" or "HT"; they come in the order H, T, S.

    Raises:
        UnknownViewError: the text names something else, or nothing.
    """
    named = [part for part in text.replace(",", "").upper() if not part.isspace()]
    for view in named or [""]:
        if view not in VIEWS:
            raise UnknownViewError(view)
    return tuple(view for view in VIEWS if view in named)
