"""Checks of an export before the long work of training: whether there is something to learn."""

import logging
from dataclasses import replace
from difflib import get_close_matches

from encoder.config import TowerConfig
from store.export import Export

log = logging.getLogger(__name__)


class NothingToLearnError(ValueError):
    """The export has no visible behaviour that counts, so there is nothing to learn item vectors from."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}, nothing to learn: {remedy}")
        self.reason = reason


class UnknownActionError(LookupError):
    """An action has a weight in the settings, but no behaviour has the action."""

    def __init__(self, action: str, known: list[str]) -> None:
        near = get_close_matches(action, known, 1, 0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"no behaviour has the action {action!r}: {hint}there are {', '.join(known)}")
        self.action = action


def check_actions(export: Export, config: TowerConfig) -> None:
    """Check that visible behaviours have a weight and that every weighted action occurs.

    Raises:
        NothingToLearnError: says why no behaviour counts, and what to do.
        UnknownActionError: names the action and the nearest one.
    """
    facts = export.actions()
    visible = [one for one in facts if not one.held_out]
    if not visible:
        rows = sum(one.rows for one in facts)
        if rows:
            raise NothingToLearnError(
                f"all {rows} behaviours of export {export.export_id} are held out",
                "leave some in split train",
            )
        raise NothingToLearnError(
            f"export {export.export_id} has no behaviours",
            "import a table behaviors with user_id and item_id, and see which rows an import refused",
        )
    known = sorted({one.action for one in facts})
    for action in config.actions:
        if action not in known:
            raise UnknownActionError(action, known)
    if not any(one.max_weight for one in visible):
        raise NothingToLearnError(
            "every behaviour weighs 0", "import weights above 0; without a column weight each row weighs 1"
        )
    if not any(one.max_weight * config.actions.get(one.action, 1.0) for one in visible):
        ignored = ", ".join(sorted(action for action, weight in config.actions.items() if not weight))
        raise NothingToLearnError(
            "every behaviour weighs 0", f"give one of these actions a weight above 0: {ignored}"
        )


def known_actions(export: Export, config: TowerConfig) -> TowerConfig:
    """Return settings that weight only actions that occur; the log names the others."""
    known = {one.action for one in export.actions()}
    if gone := sorted(config.actions.keys() - known):
        log.info("no behaviour has the action %s any more: its weight is kept and unused", ", ".join(gone))
    return replace(config, actions={name: by for name, by in config.actions.items() if name in known})


def warn_of_weights(export: Export) -> None:
    """Warn of rows that weigh more than an import accepts today; they count as its greatest weight."""
    rows, most = export.overweight()
    if rows:
        log.warning(
            "%d rows weigh more than %g, as an older store let them: they count as %g", rows, most, most
        )
