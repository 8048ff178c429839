"""Processes of this machine, made by spawning. One that dies is replaced; what it was at goes back to the driver."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pickle import PicklingError
from typing import Any

import torch

from ...errors import CapabilityError, ConfigError
from ...runtime.process import cores
from ..run import Work, run_shard
from ..task import ShardTask
from .executor import Completed, Executor, as_failure

END_S = 5.0
UNREADY = 3
"""Workers in a row that die before they are ready, after which no more are made."""


@dataclass
class _Worker:
    process: Any
    connection: Connection
    device: str | None = None
    tasks: deque[ShardTask] = field(default_factory=deque)
    ready: bool = False


class PoolExecutor(Executor):
    """`processes` workers with an equal share of the cores each.

    Args:
        devices: GPUs, as CUDA_VISIBLE_DEVICES names them: each worker sees that one which fewest others have; none to
            leave it to the models.
    """

    def __init__(self, processes: int, devices: Sequence[str] = ()) -> None:
        if processes < 1:
            raise ConfigError(f"--processes {processes}: give 1 or more")
        self.processes, self.devices = processes, devices
        self._context = get_context("spawn")
        self._workers: list[_Worker] = []
        self._unready = 0

    def start(self, work: Work) -> None:
        self._work = work

    def room(self) -> int:
        held = sum(len(worker.tasks) for worker in self._workers)
        return self.processes * self.AHEAD - held

    def submit(self, task: ShardTask) -> None:
        if len(self._workers) < self.processes and all(worker.tasks for worker in self._workers):
            self._workers.append(self._spawned())
        worker = min(self._workers, key=lambda each: len(each.tasks))
        worker.tasks.append(task)
        with suppress(OSError):  # it has died; `completed` tells of it
            worker.connection.send(task)

    def completed(self, timeout: float) -> list[Completed]:
        ready = wait([worker.connection for worker in self._workers], timeout)
        ended: list[Completed] = []
        for worker in [each for each in self._workers if each.connection in ready]:
            try:
                outcome = worker.connection.recv()
            except (EOFError, OSError):
                ended += self._buried(worker)
                continue
            if not worker.ready:
                if outcome is not None:
                    raise outcome
                worker.ready, self._unready = True, 0
                continue
            ended.append(Completed(worker.tasks.popleft(), *outcome))
        return ended

    def stop(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        end = time.monotonic() + END_S
        for worker in self._workers:
            worker.process.join(max(0.0, end - time.monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        self._workers = []

    def _spawned(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        threads = max(1, cores() // self.processes)
        taken = [worker.device for worker in self._workers]
        device = min(self.devices, key=taken.count, default=None)
        process = self._context.Process(target=_serve, args=(theirs, self._work, threads, device), daemon=True)
        try:
            process.start()
        except (PicklingError, AttributeError, TypeError) as error:  # what it says depends on the version of Python
            raise ConfigError(
                f"--processes {self.processes}: stage '{self._work.stage.name}' cannot be sent to a worker ({error}); "
                "define it at the top of a module"
            ) from error
        theirs.close()
        return _Worker(process, ours, device)

    def _buried(self, worker: _Worker) -> list[Completed]:
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.join(END_S)
        self._unready += not worker.ready
        if self._unready >= UNREADY:
            raise CapabilityError(
                f"--processes {self.processes}: workers end before they are ready (exit code "
                f"{worker.process.exitcode}); give them more memory, or omit --processes to see why"
            )
        return [Completed(task, running=worker.ready and place == 0) for place, task in enumerate(worker.tasks)]


def _serve(connection: Connection, work: Work, threads: int, device: str | None) -> None:
    """A worker: tasks come in, what became of each goes out. Ctrl-C is the driver's to hear."""
    if device is not None:  # before anything asks for a GPU
        os.environ["CUDA_VISIBLE_DEVICES"] = device
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    with suppress(EOFError, OSError):  # the driver is gone
        try:
            state = work.stage.start(threads if work.threads is None else work.threads)
        except Exception as error:
            return connection.send(as_failure(error))
        connection.send(None)
        while True:
            task = connection.recv()
            try:
                connection.send((run_shard(work, state, task), None))
            except Exception as error:
                connection.send((None, as_failure(error)))


EXECUTOR = PoolExecutor
