"""The settings of a learned block; saved with the model."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from encoder.config import SettingsError, check_names, check_numbers

CHECKPOINT_FILE = "checkpoint.safetensors"
_BATCH = 256  # users per step that the learning rate is meant for
_STEPS = 60  # of an epoch, at most, unless the batch is given


@dataclass(frozen=True)
class LearnConfig:
    """Hyper-parameters of a learned block of the tower.

    Attributes:
        dim: its coordinates; one more carries the items' bias.
        epochs: at most; fewer where NDCG@20 on held-out rows stops growing.
        batch: users per step; 0 is 256, and more where an epoch would have more than 60 steps.
        learning_rate, weight_decay: of AdamW; the rate is for 256 users per step and grows with them.
        hold_out: share of the event groups that are targets in an epoch, and hidden from every view.
        event_dropout: share of a history's items, and of a friend's, that a step leaves out.
        cut: share of the users with two views or more whose views an epoch cuts short instead: histories to a
            number of items, texts and friends to a number of them, each log-uniform up to what there is. Who
            has one view has nothing to weigh it against.
        foreign: share of (user, view) of the same users that an epoch replaces by what is not their own: a
            history by as many items, half of them by popularity and half uniform, texts and friends by those
            of others.
        view_dropout: share of (user, view) that a step masks, so that any subset of views works.
        noise: share of the coordinates of a text vector that a step sets to 0.
        id_dropout: share of item ids that a step ignores, so that the text of an item suffices to rank it.
        history_loss: weight of H alone ranking the whole of a history, held out or not (denoising).
        view_loss: weight of each view alone ranking the targets.
        alignment: α, weight of the alignment objective Σ_i m_i |V − W_i V_i|².
        adversarial: length of the worst-case perturbation of the parts; 0 is none.
        averaging: decay per step of the running mean of the weights, which is what is kept; 0 is none.
        negatives: items drawn per step for the sampled softmax; 0 is the full softmax.
        members: blocks trained from different seeds.
        patience: checks without a better NDCG@20 before it stops.
        seed: of every random draw.

    Source:
        Liang et al. 2018, "Variational autoencoders for collaborative filtering" (Mult-DAE: dropout on the
        normalised history, multinomial likelihood); Miyato et al. 2017 (adversarial perturbation);
        Polyak and Juditsky 1992 (averaging of weights).
    """

    dim: int = 256
    epochs: int = 200
    batch: int = 0
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    hold_out: float = 0.3
    event_dropout: float = 0.5
    cut: float = 0.25
    foreign: float = 0.05
    view_dropout: float = 0.2
    noise: float = 0.2
    id_dropout: float = 0.1
    history_loss: float = 0.5
    view_loss: float = 0.3
    alignment: float = 0.0
    adversarial: float = 0.0
    averaging: float = 0.98
    negatives: int = 0
    members: int = 1
    patience: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        check_numbers(asdict(self))
        for name in ("dim", "epochs", "members", "patience"):
            if getattr(self, name) < 1:
                raise SettingsError(f"{name} {getattr(self, name)} is not at least 1")
        for name in (
            "hold_out",
            "event_dropout",
            "cut",
            "foreign",
            "view_dropout",
            "noise",
            "id_dropout",
            "averaging",
        ):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"{name} {getattr(self, name)} is not in [0, 1)")
        if not self.learning_rate > 0 or not self.hold_out > 0:
            raise SettingsError("learning_rate and hold_out must be above 0")

    def for_users(self, users: int) -> "LearnConfig":
        """Fill in the users per step, and scale the learning rate with them.

        Source:
            Goyal et al. 2017, "Accurate, large minibatch SGD": the rate is linear in the batch.
        """
        batch = self.batch or _BATCH * max(1, -(-users // (_STEPS * _BATCH)))
        return replace(self, batch=batch, learning_rate=self.learning_rate * batch / _BATCH)

    def as_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "LearnConfig":
        """Make settings from the JSON values that `as_json` returned.

        Raises:
            SettingsError: a setting is missing, unknown or not of its kind.
        """
        check_names(cls, values)
        return cls(**values)
