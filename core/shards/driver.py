"""The driver: it owns the queue, hands out tasks, takes lost ones back, and finds the image that kills its worker.

A task whose worker dies twice while it works on it is probed in halves, which write nothing, until single rows remain.
A row that is alone and kills its worker twice is listed as unreadable; then the task is run again without it. So each
shard is one file, equal to that of a run that never met such a row but for this row.
"""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import CapabilityError, ConfigError, DataError, VladaptError, printable
from ..runtime.process import keeps
from .executors.executor import Completed, Executor
from .manifest import Manifest
from .place import STATE, PlaceError, ShardPlace
from .run import DONE, ShardReport, Work, done_before
from .task import ShardTask, settings_hash

PLAN, POISON, ASIDE = f"{STATE}/plan.json", f"{STATE}/poison", f"{STATE}/aside"
DEATHS = 2
"""Of the worker of one task, after which it is the task."""
MOST_POISON = 16
"""Rows of one shard that kill their worker; beyond that it is not the rows."""
BEYOND_IMAGES = "its workers die, whichever images are left out; give them more memory"
HUNTS = 3
"""Of one shard, after which it is set aside."""
ASIDE_IN_A_ROW = 3
"""Shards set aside one after the other: something is wrong with all of them, or with a device."""
MARKERS_AT_ONCE, READERS = 512, 16
LISTED = 20
SUMMED = ("shards", "before", "rows", "rows_before", "unreadable")
WAIT_S = 1.0


@dataclass
class Summary:
    """What became of a job.

    Args:
        shards: done, now or before.
        before: how many of these before.
        rows: in the files of the shards.
        rows_before: how many of these before.
        unreadable: how many rows are listed as unreadable.
        examples: (id, reason) of the first of them.
        aside: number of a shard -> why it could not be made.
    """

    shards: int = 0
    before: int = 0
    rows: int = 0
    rows_before: int = 0
    unreadable: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)
    aside: dict[int, str] = field(default_factory=dict)

    def add(self, report: ShardReport) -> None:
        self.shards += 1
        self.before += report.before
        self.rows += report.rows
        self.rows_before += report.rows * report.before
        self.unreadable += len(report.unreadable)
        self.examples += report.unreadable[: LISTED - len(self.examples)]

    def __add__(self, other: Summary) -> Summary:
        """Of two parts of one job."""
        examples = [(id_, reason) for id_, reason in (*self.examples, *other.examples)][:LISTED]
        sums = {name: getattr(self, name) + getattr(other, name) for name in SUMMED}
        return Summary(**sums, examples=examples, aside={**self.aside, **other.aside})


@dataclass(frozen=True)
class Job:
    """Work on a manifest: what is asked for, wherever it runs.

    Args:
        work: of the folder of these settings.
        manifest: the inputs.
        shard_size: rows of a task.
        part: (k, n): only tasks k, k + n, k + 2 n, ...
    """

    work: Work
    manifest: Manifest
    shard_size: int
    part: tuple[int, int] = (0, 1)

    @classmethod
    def of(
        cls,
        stage: Any,
        manifest: Manifest,
        out: ShardPlace,
        *,
        shard_size: int,
        batch_size: int,
        threads: int | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> Job:
        """The job whose results lie in the folder of `out` named by its settings.

        Raises:
            ConfigError: a size below 1, or no such part. DataError: the folder holds results of other inputs.
        """
        for name, value in (("shard-size", shard_size), ("batch-size", batch_size)):
            if value < 1:
                raise ConfigError(f"--{name} {value}: give 1 or more")
        if not 0 <= part[0] < part[1]:
            raise ConfigError(f"--shard {part[0]}/{part[1]}: give K/N with K from 0 to N - 1, for instance 0/64")
        settings = {"stage": stage.name, "settings": stage.settings, "shard_size": shard_size, "batch_size": batch_size}
        place = out.below(settings_hash(settings))
        job = cls(Work(stage, place, batch_size, threads), manifest, shard_size, part)
        job._register(settings)
        return job

    def _register(self, settings: Mapping[str, Any]) -> None:
        place, manifest = self.work.place, self.manifest
        if place.exists(PLAN):
            self._check_inputs()
            return
        manifest.check_ids()
        facts = {
            **settings,
            "inputs": manifest.digest,
            "sources": len(manifest.sources),
            "rows": manifest.rows,
            "shards": manifest.count_tasks(self.shard_size),
        }
        if not place.create(PLAN, (json.dumps(facts, indent=2, sort_keys=True) + "\n").encode()):
            self._check_inputs()  # of another driver, who began at the same time

    def _check_inputs(self) -> None:
        place = self.work.place
        try:
            before = json.loads(place.read(PLAN) or b"")["inputs"]
        except (ValueError, KeyError, TypeError):
            raise DataError(f"{place}/{PLAN}: damaged; remove {place} and start again") from None
        if before != self.manifest.digest:
            raise DataError(
                f"{place}: made of other inputs than there are now (files were added, removed or changed); restore "
                "them, or give another --out"
            )


def drive(job: Job, executor: Executor, progress: Callable[[int, int], None] = lambda done, total: None) -> Summary:
    """Run the tasks of a job that are not done, and tell what became of all.

    What is stopped, by Ctrl-C, SIGTERM or an error, keeps the shards that are done; the same job goes on from there.

    Args:
        progress: called as progress(done, total) with numbers of shards.

    Raises:
        VladaptError: the stage cannot be started, or no worker is left. PlaceError: nothing can be written any more.
    """
    job.work.place.remove_stale()
    return _Driver(job, executor, progress).run()


class _Driver:
    def __init__(self, job: Job, executor: Executor, progress: Callable[[int, int], None]):
        self.job, self.executor, self.progress = job, executor, progress
        self.place = job.work.place
        self.summary = Summary()
        self.total = job.manifest.count_tasks(job.shard_size, job.part)
        self.done = _done(self.place)
        self.poison = _poison(self.place)
        self.tasks = job.manifest.plan(job.shard_size, job.part)
        self.returned: deque[ShardTask] = deque()
        self.deaths: Counter[tuple] = Counter()
        self.hunts: dict[int, _Hunt] = {}
        self.times_hunted: Counter[int] = Counter()
        self.in_flight = self.aside_in_a_row = 0

    def run(self) -> Summary:
        self.progress(0, self.total)
        try:
            self.executor.start(self.job.work)
            while True:
                while self.executor.room() > 0 and (task := self._next()) is not None:
                    self.executor.submit(task)
                    self.in_flight += 1
                if not self.in_flight:
                    return self.summary
                for outcome in self.executor.completed(WAIT_S):
                    self.in_flight -= 1
                    self._take(outcome)
        finally:
            self.executor.stop()

    def _next(self) -> ShardTask | None:
        """A task that was given back, or the next of the plan that is not done."""
        if self.returned:
            return self.returned.popleft()
        done: list[ShardTask] = []
        for task in self.tasks:
            if task.name not in self.done:
                self._add_done(done)
                return replace(task, skip=self.poison.get(task.name, frozenset()))
            done.append(task)
            if len(done) == MARKERS_AT_ONCE:
                self._add_done(done)
                done = []
        self._add_done(done)
        return self.returned.popleft() if self.returned else None

    def _add_done(self, tasks: list[ShardTask]) -> None:
        """Those that were done before; their markers are read by threads, since an object store takes its time."""
        if not tasks:
            return
        with ThreadPoolExecutor(READERS) as threads:
            reports = list(threads.map(lambda task: done_before(self.place, task.name), tasks))
        for task, report in zip(tasks, reports):
            if report is None:  # its marker was cut off, and there is no file
                self.returned.append(replace(task, skip=self.poison.get(task.name, frozenset())))
            else:
                self._add(report, task)

    def _take(self, outcome: Completed) -> None:
        task = outcome.task
        if outcome.lost:
            self._lost(task, outcome.running)
        elif outcome.error is not None:
            self._failed(task, outcome.error)
        elif task.probe is not None:
            self._hunted(task, died=False)
        elif outcome.report is not None:
            self._add(outcome.report, task)

    def _add(self, report: ShardReport, task: ShardTask) -> None:
        self.summary.add(report)
        self.aside_in_a_row = 0
        keeps("finished shards", self.place)
        if not report.before:
            self.place.remove(f"{ASIDE}/{task.name}")
        self.progress(self.summary.shards + len(self.summary.aside), self.total)

    def _failed(self, task: ShardTask, error: VladaptError) -> None:
        if isinstance(error, (PlaceError, ConfigError, CapabilityError)):
            raise error
        if task.probe is not None:  # it did not kill its worker, which is what was asked
            return self._hunted(task, died=False)
        return self._set_aside(task, str(error), error)

    def _lost(self, task: ShardTask, running: bool) -> None:
        if running:
            self.deaths[_run_of(task)] += 1
        if task.probe is not None:
            alone = task.probe[1] - task.probe[0] == 1
            if running and (not alone or self.deaths[_run_of(task)] >= DEATHS):
                return self._hunted(task, died=True)
        elif self.deaths[_run_of(task)] >= DEATHS:
            self.times_hunted[task.number] += 1
            if self.times_hunted[task.number] > HUNTS:
                return self._set_aside(task, BEYOND_IMAGES)
            hunt = self.hunts[task.number] = _Hunt(task)
            return self._ask(hunt, 0, len(task))
        return self.returned.appendleft(task)

    def _ask(self, hunt: _Hunt, first: int, last: int) -> None:
        middle = (first + last) // 2
        for low, high in ((first, middle), (middle, last)) if last - first > 1 else ((first, last),):
            if low < high:
                hunt.waiting += 1
                self.returned.append(replace(hunt.task, probe=(low, high)))

    def _hunted(self, probe: ShardTask, died: bool) -> None:
        hunt = self.hunts[probe.number]
        hunt.waiting -= 1
        first, last = probe.probe or (0, 0)
        if died and last - first == 1:
            hunt.poison.add(first)
        elif died and len(hunt.poison) <= MOST_POISON:
            self._ask(hunt, first, last)
        if hunt.waiting:
            return
        if len(hunt.poison) > MOST_POISON:
            del self.hunts[probe.number]
            return self._set_aside(hunt.task, BEYOND_IMAGES)
        task = replace(hunt.task, skip=hunt.task.skip | hunt.poison)
        del self.hunts[probe.number]
        if hunt.poison:
            content = json.dumps(sorted(task.skip)).encode()
            self.place.create(f"{POISON}/{task.name}.{len(task.skip)}", content)
        self.deaths.pop(_run_of(task), None)
        self.returned.append(task)

    def _set_aside(self, task: ShardTask, reason: str, error: VladaptError | None = None) -> None:
        self.summary.aside[task.number] = reason
        self.place.create(f"{ASIDE}/{task.name}", json.dumps({"reason": printable(reason)}).encode())
        self.aside_in_a_row += 1
        if self.aside_in_a_row >= min(ASIDE_IN_A_ROW, self.total):
            raise error or DataError(f"{task.name}: {reason}")
        self.progress(self.summary.shards + len(self.summary.aside), self.total)


def _done(place: ShardPlace) -> set[str]:
    """Names of the shards whose files are there; of others the marker is removed, since they are made again."""
    marked = set(place.listed(DONE))  # before the files, each of which is there before its marker
    there = {name.removesuffix(".parquet") for name in place.listed("") if name.endswith(".parquet")}
    for name in marked - there:
        place.remove(f"{DONE}/{name}")
    return marked & there


def _run_of(task: ShardTask) -> tuple:
    return task.number, task.skip, task.probe


@dataclass
class _Hunt:
    """For the rows that kill the worker of a task.

    Args:
        waiting: probes that have not ended.
        poison: positions that were found.
    """

    task: ShardTask
    waiting: int = 0
    poison: set[int] = field(default_factory=set)


def _poison(place: ShardPlace) -> dict[str, frozenset[int]]:
    """Name of a task -> positions of its rows that killed their workers in an earlier run."""
    rows: dict[str, frozenset[int]] = {}
    for name in place.listed(POISON):
        try:
            positions = frozenset(map(int, json.loads(place.read(f"{POISON}/{name}") or b"[]")))
        except (ValueError, TypeError):
            raise DataError(
                f"{place}/{POISON}/{name}: damaged; remove it, and its images are looked for again"
            ) from None
        task = name.partition(".")[0]
        rows[task] = rows.get(task, frozenset()) | positions
    return rows
