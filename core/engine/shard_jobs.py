"""Jobs of shards, as commands and scripts run them: alone, by processes, by an engine, or by the ranks of torchrun."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..contracts.options import keywords, options_from
from ..errors import ConfigError, DataError
from ..features.store import FeatureStore
from ..runtime.distributed import all_gather_json, rank, together, world_size
from ..runtime.process import cores
from ..runtime.progress import Reporter
from ..runtime.remote import is_url
from ..shards import Executor, Job, Manifest, ShardPlace, Stage, Summary, drive, function_stage
from .options import ShardOptions

MOST_SKIPPED = 100
"""Of what is passed over in folders, that is told; all unreadable images are in the markers of their shards."""
BATCH = 64
"""Rows at once where nobody says otherwise: fixed, since it is part of the plan."""


@keywords(ShardOptions)
def run_stage(
    function: Any,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    batch_size: int = BATCH,
    tolerate: float = 1.0,
    reporter: Reporter | None = None,
    **given: Any,
) -> Summary:
    """Make something of each row of large sets, as shards: a function of your own, wherever it runs.

    The same call goes on where it was stopped. Each shard is one Parquet file with the column `id` and those of the
    function; `vladapt jobs OUT` tells how far it is.

    Args:
        function: rows of a batch -> a list per column, with one entry per row; `row.read()` is the encoded image,
            `row.text` its text, `row.id` its id. It stands in a module that workers can import. Or a `Stage`.
        sources: tars, Parquet files, folders and images, or URLs of these.
        out: a folder, or a URL of one.
        columns: column -> type, as pyarrow calls it: "int64", "float", "string", "list<float>".
        settings: JSON-able; all that changes what the function gives. Other settings are another folder in `out`.
        batch_size: rows per call.
        tolerate: share of the rows that may be unreadable.
        given: options of `ShardOptions`.

    Raises:
        DataError: nothing readable, more unreadable than are tolerated, shards that could not be made, or inputs that
            changed since the job began. ConfigError: an option is not usable.
    """
    asked, reporter = options_from(ShardOptions, given, "run_stage"), reporter or Reporter(quiet=True)
    executor = asked.executor("auto", reporter.info)
    stage = function if isinstance(function, Stage) else function_stage(function, columns or {}, settings)

    return run_over_shards(stage, sources, out, asked, executor, batch_size, tolerate, reporter, stage.name)[0]


def run_over_shards(
    stage: Stage,
    sources: Sequence[str | Path],
    out: str | Path,
    asked: ShardOptions,
    executor: Executor,
    batch_size: int,
    tolerate: float,
    reporter: Reporter,
    title: str,
) -> tuple[Summary, str]:
    """Run a stage on all ranks; returns what became of the shards of all of them, and the folder that they are in."""

    def on_this_rank() -> tuple[Summary, str]:
        place = place_of_shards(out)
        job = job_of(stage, manifest_of(sources, place), place, asked, batch_size)
        return run_job(job, executor, tolerate, reporter, title), job.work.place.root

    return together(on_this_rank)


def place_of_shards(out: str | Path) -> ShardPlace:
    """Where shards are to be written; checked.

    Raises:
        ConfigError: no place for shards. DataError: it cannot be made.
    """
    place = ShardPlace(str(out) if is_url(str(out)) else os.path.abspath(out))
    place.check()
    return place


def manifest_of(sources: Sequence[str | Path], place: ShardPlace) -> Manifest:
    """As `Manifest.of`, with counts of tars kept in the cache."""
    return Manifest.of(sources, place, FeatureStore.default_root().parent)


def job_of(
    stage: Stage,
    manifest: Manifest,
    place: ShardPlace,
    asked: ShardOptions,
    batch_size: int,
    threads: int | None = None,
) -> Job:
    """The job of this process: of the shards that are asked for, its rank's."""
    return Job.of(
        stage,
        manifest,
        place,
        shard_size=asked.shard_size,
        batch_size=batch_size,
        threads=_threads_of_rank() if threads is None else threads,
        part=_part(asked.shard),
    )


def run_job(job: Job, executor: Executor, tolerate: float, reporter: Reporter, title: str) -> Summary:
    """Run the shards of a job, and tell what became of those of all ranks.

    Raises:
        DataError: shards that could not be made, or more unreadable than are tolerated.
    """
    with reporter.task(title, unit="shards") as progress, reporter.watching("This shard"):
        own = drive(job, executor, progress)
    first, *others = [Summary(**each) for each in all_gather_json(vars(own))]
    summary = sum(others, first)
    _check(summary, tolerate, job.work.place)
    return summary


def _check(summary: Summary, tolerate: float, place: ShardPlace) -> None:
    if summary.aside:
        number, reason = next(iter(summary.aside.items()))
        raise DataError(
            f"shards that could not be made: {len(summary.aside)} (part-{int(number):08d}: {reason}); the others "
            f"are in {place}, and the same command tries these again"
        )
    share = summary.unreadable / max(1, summary.rows + summary.unreadable)
    if share > tolerate:
        id_, reason = summary.examples[0]
        raise DataError(
            f"images that cannot be read: {summary.unreadable:,}, {share:.1%} ({id_}: {reason}); more than --tolerate "
            f"{tolerate:g}; what can be read is in {place}"
        )


def _threads_of_rank() -> int | None:
    """An equal share of the cores for each rank of this machine; None where this process is alone."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))) if world_size() > 1 else None


def _part(shard: str | None) -> tuple[int, int]:
    """Which tasks this process takes: those of K/N, divided among the ranks."""
    match = re.fullmatch(r"(\d+)/(\d+)", shard or "0/1")
    if match is None or not int(match[1]) < int(match[2]):
        raise ConfigError(f"--shard {shard}: give K/N with K from 0 to N - 1, for instance 0/64")
    first, step = int(match[1]), int(match[2])
    return first + step * rank(), step * world_size()
