"""A learned block trained by several processes, which all make the same steps.

Every rank draws the same steps and the same masks for the whole batch, and computes the loss of its own
users; the gradients are added. `group` is that exchange. Rank 0 is the process that also scores, keeps
checkpoints and decides when to stop: `leader` begins the others, which run `worker`, and notices when one is
lost. `workers` holds who they are and where they find the data; it loads no torch.
"""

from encoder.learned.parallel.workers import TrainingWorkers

__all__ = ["TrainingWorkers"]
