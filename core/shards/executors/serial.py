"""This process, one task after the other."""

from __future__ import annotations

from typing import Any

from ..run import Work, run_shard
from ..task import ShardTask
from .executor import Completed, Executor, as_failure


class SerialExecutor(Executor):
    """Tasks are run where the driver waits for them; what kills them kills the driver."""

    def __init__(self) -> None:
        self._state: Any = None
        self._started = False
        self._waiting: list[ShardTask] = []

    def start(self, work: Work) -> None:
        self._work = work

    def room(self) -> int:
        return 1 - len(self._waiting)

    def submit(self, task: ShardTask) -> None:
        self._waiting.append(task)

    def completed(self, timeout: float) -> list[Completed]:
        if not self._waiting:
            return []
        task = self._waiting.pop()
        if not self._started:  # not before there is something to do
            self._state, self._started = self._work.stage.start(self._work.threads), True
        try:
            return [Completed(task, run_shard(self._work, self._state, task))]
        except Exception as error:
            return [Completed(task, error=as_failure(error))]

    def stop(self) -> None:
        self._state, self._waiting = None, []


EXECUTOR = SerialExecutor
