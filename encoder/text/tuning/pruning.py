"""Fewer layers of a transformer: which ones stay, and the model without the others."""

from typing import TYPE_CHECKING, Any

from encoder.text.source import UnsupportedTextModelError

if TYPE_CHECKING:
    from torch import nn


class LayerCountError(ValueError):
    """A model was to keep more layers than it can give, or none."""

    def __init__(self, source: str, layers: int, total: int) -> None:
        can = f"1..{total - 1}" if total > 1 else "no fewer"
        super().__init__(f"text model {source!r} has {total} layers and can keep {can}, not {layers}")
        self.layers = layers
        self.total = total


def evenly_spaced(layers: int, total: int) -> list[int]:
    """Return which layers stay, counted from 0: the middle one of each of `layers` equal stretches."""
    return [(2 * row + 1) * total // (2 * layers) for row in range(layers)]


def prune(source: str, model: Any, layers: int | None) -> list[int]:
    """Return which layers are left of a SentenceTransformer, counted from 0; the others are cut out of it.

    Args:
        source: where the model came from, for errors.
        model: is changed.
        layers: how many stay; None: half of them.

    Raises:
        LayerCountError: not at least one, or not fewer than there are.
        UnsupportedTextModelError: its layers are not kept in one list, as where they share weights.
    """
    transformer = model[0].auto_model
    stack = _stack(source, transformer)
    total = len(stack)
    wanted = total // 2 if layers is None else layers
    if not 1 <= wanted < total:
        raise LayerCountError(source, wanted, total)
    kept = evenly_spaced(wanted, total)
    for row in sorted(set(range(total)) - set(kept), reverse=True):
        del stack[row]
    for row, layer in enumerate(stack):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):  # by which decoders find their place in the cache
                module.layer_idx = row  # type: ignore[assignment]
    config = transformer.config
    config.num_hidden_layers = wanted
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[row] for row in kept]
    return kept


def _stack(source: str, transformer: Any) -> "nn.ModuleList":
    from torch import nn  # noqa: PLC0415  only while training

    total = getattr(transformer.config, "num_hidden_layers", None)
    lists = [one for one in transformer.modules() if isinstance(one, nn.ModuleList) and len(one) == total]
    if len(lists) != 1:
        kind = transformer.config.model_type
        raise UnsupportedTextModelError(source, f"{len(lists)} lists of {total} layers in {kind}, not one")
    return lists[0]
