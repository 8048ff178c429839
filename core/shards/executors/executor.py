"""What runs shard tasks that a driver hands out one by one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from ...errors import VladaptError, one_line
from ..run import ShardReport, Work
from ..task import ShardTask


@dataclass(frozen=True)
class Completed:
    """What became of a task: a report, an error, or, without either, nothing: its worker was lost.

    Args:
        running: of a lost task, whether it was being worked on, and not only waiting at its worker.
    """

    task: ShardTask
    report: ShardReport | None = None
    error: VladaptError | None = None
    running: bool = True

    @property
    def lost(self) -> bool:
        return self.report is None and self.error is None


class Executor(ABC):
    """Workers, each with a state of its own (the model). The queue is the driver's: an executor holds only what is at
    a worker, at most `AHEAD` tasks each, and gives lost ones back.
    """

    AHEAD = 2

    @abstractmethod
    def start(self, work: Work) -> None:
        """Make the workers ready to `run_shard(work, state, task)`.

        Raises:
            CapabilityError, ConfigError: there can be none.
        """

    @abstractmethod
    def room(self) -> int:
        """How many tasks may be submitted now."""

    @abstractmethod
    def submit(self, task: ShardTask) -> None:
        """Hand a task to a worker that has room."""

    @abstractmethod
    def completed(self, timeout: float) -> list[Completed]:
        """What has ended since the last call; waits for something up to `timeout` seconds, and gives none after that.

        Raises:
            VladaptError: a stage could not be started, or no worker is left and none can be made.
        """

    @abstractmethod
    def stop(self) -> None:
        """End the workers, whatever they do; within a few seconds."""


def as_failure(error: Exception) -> VladaptError:
    """An error as it may be sent between processes."""
    return error if isinstance(error, VladaptError) else VladaptError(one_line(error))
