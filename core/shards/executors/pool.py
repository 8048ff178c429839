"""Processes of this machine, made by spawning. One that dies is replaced; what it was at goes back to the driver."""

from __future__ import annotations

import signal
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from ...errors import ConfigError
from ...runtime.process import cores
from ..run import Work, run_shard
from ..task import ShardTask
from .executor import Completed, Executor, as_failure

END_S = 5.0


@dataclass
class _Worker:
    process: Any
    connection: Connection
    tasks: deque[ShardTask] = field(default_factory=deque)


class PoolExecutor(Executor):
    """`processes` workers with an equal share of the cores each."""

    def __init__(self, processes: int):
        if processes < 1:
            raise ConfigError(f"--processes {processes}: give 1 or more")
        self.processes = processes
        self._context = get_context("spawn")
        self._workers: list[_Worker] = []
        self._work: Work | None = None

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
            report, error, ready_to_work = outcome
            if not ready_to_work:
                raise error
            ended.append(Completed(worker.tasks.popleft(), report, error))
        return ended

    def stop(self) -> None:
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(END_S)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()
        self._workers = []

    def _spawned(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        threads = max(1, cores() // self.processes)
        process = self._context.Process(target=_serve, args=(theirs, self._work, threads), daemon=True)
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def _buried(self, worker: _Worker) -> list[Completed]:
        self._workers.remove(worker)
        worker.connection.close()
        worker.process.join(END_S)
        return [Completed(task, running=place == 0) for place, task in enumerate(worker.tasks)]


def _serve(connection: Connection, work: Work, threads: int) -> None:
    """A worker: tasks come in, what became of each goes out. Ctrl-C is the driver's to hear."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    state, started = None, False
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):  # the driver is gone
            return
        if not started:
            try:
                state, started = work.stage.start(work.threads or threads), True
            except Exception as error:
                return connection.send((None, as_failure(error), False))
        try:
            outcome = run_shard(work, state, task), None, True
        except Exception as error:
            outcome = None, as_failure(error), True
        try:
            connection.send(outcome)
        except OSError:
            return


EXECUTOR = PoolExecutor
