"""A Ray cluster: actors that each hold a model, wherever a core or a share of a GPU is free.

Ray places actors and carries tasks; the queue stays with the driver. An actor is not started again (`max_restarts=0`):
with Ray's own restarts a job stalls when a node is lost and none joins (docs/measurements/scale.md, "Engines, tried").
Only an actor that has answered gets tasks, since one that waits for a slot would keep them. New ones are asked for
while tasks wait and slots are free, so nodes that come later take part.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ...errors import CapabilityError, ConfigError, VladaptError, one_line
from ...runtime.files import claimed, is_abandoned
from ...runtime.process import installed_version
from ...runtime.remote import is_url
from ..place import STATE, ShardPlace
from ..ray_connection import LOOPBACK, connect, head_of
from ..run import ShardReport, Work, run_shard
from ..task import ShardTask
from .executor import Completed, Executor, as_failure

SEEN = "seen-"
"""What names of marks begin with."""
EVERY_S = 1.0
"""Between two looks at what is free."""
SLOT_S = 30.0
"""Without a slot, after which that is told."""
STARTS = 3
"""Actors that may die one after the other before any has answered."""
NODE_LOSSES = 3
"""Of one task, that are no fault of it."""


class RayExecutor(Executor):
    """One actor per share of a GPU where the cluster has GPUs, else one per core.

    Args:
        address: "auto" or HOST:PORT; None is that of RAY_ADDRESS, or a Ray of this machine alone.
        processes: actors at most; None for as many as there is room for.
        worker_cpus: cores of an actor; by default 1, or its share of the node whose GPU it uses.
        worker_gpus: GPUs of an actor, such as 0.5; by default 1, or none where the cluster has none.
        say: tells the user one line.
    """

    def __init__(
        self,
        address: str | None = None,
        processes: int | None = None,
        worker_cpus: float | None = None,
        worker_gpus: float | None = None,
        say: Callable[[str], None] = lambda line: None,
    ):
        for flag, value in (("processes", processes), ("worker-cpus", worker_cpus)):
            if value is not None and value <= 0:
                raise ConfigError(f"--{flag} {value}: give a number above 0")
        if worker_gpus is not None and (worker_gpus < 0 or (worker_gpus > 1 and worker_gpus % 1)):
            raise ConfigError(f"--worker-gpus {worker_gpus}: give a share such as 0.5, or a whole number")
        self.address, self.processes, self.say = address or "", processes, say
        self.asked = (worker_cpus, worker_gpus)
        self.need: dict[str, float] = {}  # of each actor: kind -> amount
        self._waiting: deque[ShardTask] = deque()
        self._actors: dict[Any, _Actor] = {}
        self._starting: dict[Any, tuple] = {}  # reference of its answer -> actor, reference that is there with a slot
        self._node_losses: dict[int, int] = {}
        self._deaths, self._looked, self._said = 0, 0.0, False
        self._mark, self._own = "", False

    def start(self, work: Work) -> None:
        self._ray, self._own = connect(self.address, self.processes, self.asked[0])
        self._work, self._since = work, time.monotonic()
        try:
            self._prepare(work)
        except BaseException:
            self.stop()
            raise

    def _prepare(self, work: Work) -> None:
        self._head = head_of(self._ray)
        self.need = needed(*self.asked, [node["Resources"] for node in self._nodes()])
        if not is_url(work.place.root):
            self._mark, self._claim = _marked(work.place)
        self._class = self._ray.remote(RayWorker).options(
            max_restarts=0, max_task_retries=0, num_cpus=self.need["CPU"], num_gpus=self.need["GPU"]
        )

    def room(self) -> int:
        """Beside the tasks of the actors there are, those of one more: they wait here for whoever has room first."""
        held = len(self._waiting) + sum(len(actor.tasks) for actor in self._actors.values())
        return self.AHEAD * (len(self._actors) + 1) - held

    def submit(self, task: ShardTask) -> None:
        self._waiting.append(task)
        self._assign()

    def completed(self, timeout: float) -> list[Completed]:
        self._hire()
        self._assign()
        references = [*self._starting, *(reference for actor in self._actors.values() for reference in actor.tasks)]
        if not references:
            time.sleep(min(timeout, EVERY_S))
            return []
        wait = self._ray.wait
        if not wait(references, timeout=timeout)[0]:
            return []
        ready = set(wait(references, num_returns=len(references), timeout=0)[0])
        for reference in [each for each in self._starting if each in ready]:
            handle, slot = self._starting.pop(reference)
            self._answered(handle, slot, reference)
        return [ended for handle in list(self._actors) for ended in self._ended(handle, ready)]

    def stop(self) -> None:
        if not hasattr(self, "_ray"):
            return
        for handle in [*self._actors, *(handle for handle, _ in self._starting.values())]:
            self._ray.kill(handle)
        self._actors, self._starting, self._waiting = {}, {}, deque()
        if self._mark:
            self._work.place.remove(self._mark)
            self._claim.close()
        if self._own:
            self._ray.shutdown()

    def _nodes(self) -> list[dict]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _hire(self) -> None:
        """Ask for actors while tasks wait and there is room for them; one is asked for in any case, so that whoever
        adds nodes to the cluster knows of it."""
        now = time.monotonic()
        if now - self._looked < EVERY_S:
            return
        self._looked = now
        self._check_head()
        if not self._waiting:
            return
        free = self._ray.available_resources()
        slots = int(min(free.get(kind, 0) / need for kind, need in self.need.items() if need))
        most = self.processes or float("inf")
        while len(self._actors) + len(self._starting) < most and (
            len(self._starting) < slots or not (self._actors or self._starting)
        ):
            handle = self._class.remote(self._work, max(1, int(self.need["CPU"])))
            slot = handle.node.remote()
            answer = handle.start.remote(self._mark, os.getcwd(), installed_version("vladapt"))
            self._starting[answer] = handle, slot
        if self._actors or self._ray.wait([slot for _, slot in self._starting.values()], timeout=0)[0]:
            self._since = now
        elif now - self._since > SLOT_S:
            self._tell_of_slots(free)

    def _tell_of_slots(self, free: dict[str, float]) -> None:
        nodes = [node["Resources"] for node in self._nodes()]
        if not any(all(node.get(kind, 0) >= need for kind, need in self.need.items()) for node in nodes):
            raise CapabilityError(
                f"--engine ray: no node of the cluster can hold a worker, which needs {shown_share(self.need)}; the "
                f"nodes have {', '.join(sorted({shown_share(node) for node in nodes}))}; lower "
                "--worker-cpus or --worker-gpus, or add a node"
            )
        if not self._said and self._head[0] != LOOPBACK:  # a Ray of our own has slots, and only starts slowly
            self._said = True
            self.say(
                f"No worker has started after {SLOT_S:.0f} s: each needs {shown_share(self.need)}, and of the cluster "
                f"{shown_share(free)} is free. Waiting for other jobs to end or nodes to come; Ctrl-C loses nothing"
            )

    def _check_head(self) -> None:
        """Ray itself would wait for a minute and then end this process."""
        try:
            socket.create_connection(self._head, timeout=10).close()
        except OSError:
            raise VladaptError(
                f"the Ray cluster at {self._head[0]}:{self._head[1]} is gone; finished shards stay: start it and run "
                "the same command again"
            ) from None

    def _assign(self) -> None:
        while self._waiting and self._actors:
            handle, actor = min(self._actors.items(), key=lambda each: len(each[1].tasks))
            if len(actor.tasks) >= self.AHEAD:
                return
            task = self._waiting.popleft()
            actor.tasks[handle.run.remote(task)] = task

    def _answered(self, handle: Any, slot: Any, reference: Any) -> None:
        try:
            node, error = self._ray.get([slot, reference])
        except self._ray.exceptions.RayError as error:
            self._deaths += 1
            if self._deaths >= STARTS and not self._actors:
                raise VladaptError(
                    f"--engine ray: {self._deaths} workers died before they were ready ({one_line(error)}); give them "
                    "more memory, and install the same vladapt on every node"
                ) from error
            return
        if error is not None:
            raise error
        self._deaths = 0
        self._actors[handle] = _Actor(node)

    def _ended(self, handle: Any, ready: set) -> list[Completed]:
        """What an actor has done, in order; if it is lost, all that it had."""
        actor = self._actors[handle]
        ended: list[Completed] = []
        for reference in list(actor.tasks):
            if reference not in ready:
                break
            try:
                report, error = self._ray.get(reference)
            except self._ray.exceptions.RayError as loss:
                return ended + self._lost(handle, loss)
            ended.append(Completed(actor.tasks.pop(reference), report, error))
        return ended

    def _lost(self, handle: Any, error: Exception) -> list[Completed]:
        """Its tasks go back. The first was being worked on; that its node was lost, or its connection, is no fault of
        it: of a process that died alone the node tells."""
        actor = self._actors.pop(handle)
        self._ray.kill(handle)
        first, *others = actor.tasks.values()
        running = True
        cut_off = isinstance(error, self._ray.exceptions.ActorUnavailableError)
        if cut_off or actor.node not in {node["NodeID"] for node in self._nodes()}:
            self._node_losses[first.number] = self._node_losses.get(first.number, 0) + 1
            running = self._node_losses[first.number] > NODE_LOSSES
        return [Completed(first, running=running), *(Completed(task, running=False) for task in others)]


class _Actor:
    """Where it is, and its tasks in flight: reference -> task, in the order in which they are run."""

    def __init__(self, node: str):
        self.node = node
        self.tasks: dict[Any, ShardTask] = {}


class RayWorker:
    """What runs in an actor. What goes wrong is returned, not raised: Ray would wrap it.

    Args:
        threads: to decode with.
    """

    def __init__(self, work: Work, threads: int):
        self.work, self.threads = work, threads
        self.state: Any = None
        self.checked: set[str] = set()

    def node(self) -> str:
        """Its id, as soon as there is a slot."""
        import ray

        return ray.get_runtime_context().get_node_id()

    def start(self, mark: str, folder: str, version: str | None) -> VladaptError | None:
        """Build what the stage holds; why no task can be run here, or None.

        Args:
            mark: a file of the driver in the folder of results, "" where that is no folder.
            folder: that paths are relative to.
            version: of the driver's vladapt.
        """
        try:
            self._check_node(mark, folder, version)
            self.state = self.work.stage.start(self.work.threads or self.threads)
        except Exception as error:
            return VladaptError(str(as_failure(error)))
        return None

    def _check_node(self, mark: str, folder: str, version: str | None) -> None:
        own = installed_version("vladapt")
        if own != version:
            raise VladaptError(f"node {socket.gethostname()} has vladapt {own}, the driver {version}; install the same")
        with suppress(OSError):  # then relative paths are not seen here, which is told
            os.chdir(folder)
        if mark and not self.work.place.exists(mark):
            raise unseen(str(self.work.place))

    def run(self, task: ShardTask) -> tuple[ShardReport | None, VladaptError | None]:
        try:
            self._check_paths(task)
            return run_shard(self.work, self.state, task), None
        except Exception as error:
            return None, as_failure(error)

    def _check_paths(self, task: ShardTask) -> None:
        """That this node sees the folders of inputs, by the first row of each: or each image would be unreadable."""
        for span in task.spans:
            if span.source.name in self.checked:
                continue
            if not is_url(span.source.name):
                if not os.path.exists(span.source.name):
                    raise unseen(span.source.name)
                path = next((row.path for row in span.source.read(span.start, span.stop)), "")
                folder = "" if is_url(path) else os.path.dirname(path)
                if folder and not os.path.isdir(folder):
                    raise unseen(folder)
            self.checked.add(span.source.name)


def _marked(place: ShardPlace) -> tuple[str, IO[bytes]]:
    """A file by which a node sees that a folder is that of the driver, claimed while this process lives; those of
    drivers that were killed are removed."""
    for name in place.listed(STATE):
        if name.startswith(SEEN) and is_abandoned(Path(place.path(f"{STATE}/{name}"))):
            place.remove(f"{STATE}/{name}")
    mark = f"{STATE}/{SEEN}{secrets.token_hex(8)}"
    place.create(mark, b"")
    with place.reached():
        return mark, claimed(Path(place.path(mark)))


def unseen(path: str) -> VladaptError:
    """No DataError: that would be of the shard, and all others of this node would fare alike."""
    return VladaptError(
        f"{path}: node {socket.gethostname()} does not see it; give a path that all nodes share, or s3:// or gs://"
    )


def needed(cpus: float | None, gpus: float | None, nodes: list[dict[str, float]]) -> dict[str, float]:
    """Kind -> how much of it one actor holds.

    Args:
        nodes: resources of each.
    """
    with_gpus = [node for node in nodes if node.get("GPU")]
    if gpus is None:
        gpus = 1.0 if with_gpus else 0.0
    if cpus is None:
        shares = [node.get("CPU", 0) / node["GPU"] * gpus for node in with_gpus] if gpus else []
        cpus = max(1, int(min(shares, default=1)))
    return {"CPU": cpus, "GPU": gpus}


def shown_share(resources: dict[str, float]) -> str:
    """Such as "4 CPUs and 0.5 GPU"."""
    amounts = {kind: resources.get(kind, 0) for kind in ("CPU", "GPU")}
    words = [f"{amount:g} {kind}{'s' * (amount > 1)}" for kind, amount in amounts.items() if amount]
    return " and ".join(words) or "nothing"


EXECUTOR = RayExecutor
