"""Training of a learned block: AdamW, early stopping on held-out rows, checkpoints, TensorBoard."""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from encoder.config import TowerConfig
from encoder.dataset import Dataset
from encoder.learned.batches import Steps
from encoder.learned.config import LearnConfig
from encoder.learned.run import CHECK_EVERY, Run, Score
from encoder.tower.tower import Block

log = logging.getLogger(__name__)

Report = Callable[[dict[str, float], int], None]


@dataclass(frozen=True)
class Learned:
    """A trained block, at its best epoch, and how it got there: (epoch, NDCG@20) of every check."""

    block: Block
    epoch: int
    ndcg: float | None
    checks: list[tuple[int, float]]
    seconds: float


def learn(
    data: Dataset,
    config: TowerConfig,
    options: LearnConfig,
    score: Score | None,
    folder: Path,
    report: Report | None = None,
) -> Learned:
    """Return a block trained on the visible rows of a data set.

    A run with the same data, settings and folder goes on from the last checkpoint there. Equal seeds give
    equal blocks on the same machine.

    Args:
        data: held-out rows of it are not looked at.
        config: how events are weighted.
        options: of training; negatives 0 means the full softmax up to FULL_SOFTMAX_ITEMS items.
        score: NDCG@20 of a block on held-out rows; None trains for all the epochs.
        folder: of checkpoints and TensorBoard's files.
        report: takes the figures of an epoch and its number, besides TensorBoard.
    """
    began = time.perf_counter()
    folder = folder / _key(data, config, options, scored=score is not None)
    options = options.for_users(int((np.diff(data.seen.indptr) > 0).sum()))
    steps = Steps(data, config, options)
    events = data.events(config)  # an item that only actions of weight 0 name was never learned
    popularity = np.bincount(events.indices, minlength=len(data.items)).astype(np.float32)
    run = Run(data, options, popularity, steps.targets, folder)
    if run.progress.epoch:
        log.info("training goes on after epoch %d (%s)", run.progress.epoch, folder.name)
    with (
        SummaryWriter(str(folder)) as writer,
        tqdm(
            total=options.epochs, initial=run.progress.epoch, desc="train", unit="epoch", disable=None
        ) as bar,
    ):
        while run.progress.epoch < options.epochs and not run.progress.finished:
            figures = {"loss": run.epoch(steps)}
            last = run.progress.epoch == options.epochs
            if run.progress.epoch % CHECK_EVERY == 0 or last:
                figures |= run.check(score, last=last)
            for name, value in figures.items():
                writer.add_scalar(name, value, run.progress.epoch)
            if report is not None:
                report(figures, run.progress.epoch)
            bar.set_postfix_str(f"NDCG@20 {run.progress.best_ndcg:.4f}" if score else "")
            bar.update()
    progress = run.progress
    ndcg = progress.best_ndcg if score else None
    reached = "" if ndcg is None else f", NDCG@20 {ndcg:.4f}"
    log.info("trained: epoch %d of %d%s", progress.best_epoch, progress.epoch, reached)
    return Learned(run.best(), progress.best_epoch, ndcg, progress.checks, time.perf_counter() - began)


def members(options: LearnConfig) -> list[LearnConfig]:
    """Return the settings of each member: the same but for the seed."""
    return [replace(options, seed=options.seed + 1_000 * i) for i in range(options.members)]


def _key(data: Dataset, config: TowerConfig, options: LearnConfig, *, scored: bool) -> str:
    """Return a name that only the same rows, held-out ones too, texts and settings give."""
    digest = hashlib.sha256(json.dumps([config.as_json(), options.as_json(), scored]).encode())
    rows, texts = data.history, data.texts
    arrays = [rows.users, rows.items, rows.weights, rows.ts, texts.users, texts.items, texts.vectors]
    arrays += [data.ties.indptr, data.ties.indices, data.ties.data, data.item_text]
    for name, held in sorted([*data.held_out.items(), ("", rows)]):
        digest.update("\0".join([name, *held.actions.names]).encode())
        arrays += [held.users, held.items, held.actions.codes]
    for array in arrays:
        digest.update(np.ascontiguousarray(array).data)  # the buffer itself, no copy
    return digest.hexdigest()[:16]
