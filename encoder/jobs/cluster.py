"""Work on a Ray cluster: tasks of one processor each, which leave what is large in files that all see."""

import logging
import os
from collections.abc import Callable, Collection
from concurrent.futures import Future
from importlib.util import find_spec
from typing import Any, TypeVar

from encoder.jobs.jobs import Jobs, PartOutcome, Room, attempt
from encoder.jobs.threads import ONE_THREAD

_CLIENT = "ray://"
_DENIED = "AuthenticationError"
_WAITING = 2  # parts per processor that Ray knows of, so that none waits for the next one
_RETRIES = 3

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")

log = logging.getLogger(__name__)


class RayMissingError(LookupError):
    """Ray is not installed."""

    def __init__(self) -> None:
        super().__init__("--ray needs Ray, of the extra ray: pip install 'triptych[ray]'")


class NoClusterError(ConnectionError):
    """No Ray cluster answers at an address."""

    def __init__(self, address: str, reason: str) -> None:
        super().__init__(
            f"no Ray cluster answers at {address!r} ({reason}): start one with `ray start --head`, or name "
            "its address, such as --ray 10.0.0.5:6379"
        )
        self.address = address


class RayCluster(Jobs):
    """Works on a Ray cluster. Ray itself begins the tasks of a lost worker or node again, elsewhere."""

    def __init__(self, address: str) -> None:
        """Connect to a cluster.

        Args:
            address: host and port, or "auto" for the one that RAY_ADDRESS names or this machine is part of.

        Raises:
            RayMissingError: Ray is not installed.
            NoClusterError: no cluster answers there.
        """
        if address.startswith(_CLIENT):
            raise NoClusterError(address, "that is a client server, which our files do not reach")
        if find_spec("ray") is None:
            raise RayMissingError
        os.environ.setdefault(
            "RAY_USAGE_STATS_ENABLED", "0"
        )  # before it is loaded: nothing is told to anybody
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
        import ray  # noqa: PLC0415  takes seconds

        self._ray: Any = ray
        self.lost = (ray.exceptions.RayError,)
        try:
            ray.init(
                address=address,
                configure_logging=False,
                log_to_driver=False,
                runtime_env={"env_vars": ONE_THREAD},
            )
        except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            raise NoClusterError(address, _reason(error)) from error
        self.workers = max(1, int(ray.cluster_resources().get("CPU", 0)))
        self.at_once = _WAITING * self.workers
        self._attempt: Any = ray.remote(num_cpus=1, max_retries=_RETRIES, retry_exceptions=False)(attempt)
        self._tasks: dict[Future[Any], Any] = {}
        log.info("ray: %d processors of %d machines", self.workers, sum(one["Alive"] for one in ray.nodes()))

    def submit(self, function: Callable[[_Part], _Result], part: _Part) -> "Future[PartOutcome[_Result]]":
        """Hand a part to the cluster."""
        for done in [one for one in self._tasks if one.done()]:
            del self._tasks[done]
        return self._followed(self._attempt.remote(function, part))

    def room(self, cards: int = 0) -> Room:
        """Return a process for each machine, this one among them, with the threads that the smallest allows.

        The threads of a process share its weights and gradients, which processes would have to exchange.
        Where this process sees a card, only the machines that have one count.
        """
        others = self._others(with_cards=cards > 0)
        machines = [*others, *(one for one in self._machines() if one["NodeID"] == self._here())]
        threads = min((int(one["Resources"]["CPU"]) for one in machines), default=1)
        address = self._ray.util.get_node_ip_address()
        return Room(1 + len(others), threads, address, with_cards=cards > 0)

    def begin_together(
        self, function: Callable[[int], _Result], room: Room
    ) -> "list[Future[PartOutcome[_Result]]]":
        """Begin a call on each of the other machines, which is not begun again where it is lost."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: PLC0415  Ray

        futures = []
        others = self._others(with_cards=room.with_cards)
        for number, machine in zip(range(1, room.processes), others, strict=False):
            attempt_there = self._attempt.options(
                num_cpus=room.threads,
                num_gpus=int(room.with_cards),
                max_retries=0,
                scheduling_strategy=NodeAffinitySchedulingStrategy(machine["NodeID"], soft=False),
            )
            futures.append(self._followed(attempt_there.remote(function, number)))
        return futures

    def _machines(self) -> list[dict[str, Any]]:
        """Return the machines that have processors to give."""
        return [one for one in self._ray.nodes() if one["Alive"] and one["Resources"].get("CPU", 0) >= 1]

    def _here(self) -> str:
        """Return the id of the machine that this process is on."""
        here: str = self._ray.get_runtime_context().get_node_id()
        return here

    def _others(self, *, with_cards: bool) -> list[dict[str, Any]]:
        """Return the other machines in the order of their ids, those with cards alone where that is asked."""
        here = self._here()
        others = [one for one in self._machines() if one["NodeID"] != here]
        if with_cards:
            others = [one for one in others if one["Resources"].get("GPU", 0) >= 1]
        return sorted(others, key=lambda one: str(one["NodeID"]))

    def _followed(self, task: Any) -> "Future[PartOutcome[Any]]":
        """Return the future of a task, which can be abandoned by it."""
        future: Future[PartOutcome[Any]] = task.future()
        self._tasks[future] = task
        return future

    def abandon(self, futures: "Collection[Future[Any]]") -> None:
        """End the tasks of some parts."""
        for future in futures:
            if (task := self._tasks.pop(future, None)) is not None:
                self._ray.cancel(task, force=True)

    def close(self) -> None:
        """Leave the cluster, which ends what still runs of ours."""
        self._ray.shutdown()


def _reason(error: BaseException) -> str:
    """Return why Ray did not connect, in a line; that a token is missing stands in the text of a cause."""
    cause: BaseException | None = error
    while cause is not None:
        if _DENIED in str(cause) or type(cause).__name__ == _DENIED:
            return "it asks for a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what the cluster has"
        cause = cause.__cause__
    return str(error).strip().splitlines()[0]
