"""`curate caption`: a caption for each image, by a model that writes them, as shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..contracts.options import keywords, options_from
from ..contracts.shown import in_short
from ..curation.caption import CaptionStage, Writing
from ..runtime.progress import Reporter
from .options import CaptionOptions
from .shard_jobs import run_over_shards


@dataclass
class WrittenCaptions:
    """What was written.

    Attributes:
        folder: `part-*.parquet` with id, caption and captioner, as `write_kept` takes it; with a matcher also
            caption_itm, caption_itc and caption_scorer.
        captions: how many.
        unreadable, examples: images that cannot be read, and (id, reason) of the first.
        captioner: hash of the model.
    """

    __repr__ = in_short

    folder: str
    captions: int
    unreadable: int
    examples: list[tuple[str, str]]
    captioner: str


@keywords(CaptionOptions)
def caption_pairs(
    model: str,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    tolerate: float = 1.0,
    reporter: Reporter | None = None,
    **given: Any,
) -> WrittenCaptions:
    """Write a caption for each image. The same call goes on where it was stopped.

    Args:
        model: a folder as transformers saves one, or a model of the hub by its id.
        sources: tars, Parquet files, folders and images, or URLs of these.
        out: a folder, or a URL of one.
        tolerate: share of the images that may be unreadable.
        given: options of `CaptionOptions`; with another `batch_size` other captions are drawn.

    Raises:
        CapabilityError: a model that writes no captions. DataError: nothing readable, or more unreadable than are
        tolerated. ConfigError: an option is not usable.
    """
    asked, reporter = options_from(CaptionOptions, given, "curate caption"), reporter or Reporter(quiet=True)
    executor = asked.executor(asked.device, reporter.info)
    writing = Writing(**{each.name: getattr(asked, each.name) for each in fields(Writing)})
    stage = CaptionStage.of(model, writing, asked.device, asked.precision, asked.matcher)
    summary, folder = run_over_shards(
        stage, sources, out, asked, executor, asked.batch_size, tolerate, reporter, "Writing captions"
    )
    return WrittenCaptions(folder, summary.rows, summary.unreadable, summary.examples, stage.fingerprint)
