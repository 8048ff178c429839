"""`curate caption`: a caption for each image, by a model that writes them, as shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contracts.options import keywords, options_from
from ..contracts.shown import in_short
from ..curation.caption import CaptionStage, Writing
from ..runtime.progress import Reporter
from .options import ShardOptions
from .shard_jobs import run_over_shards

BATCH = 16


@dataclass
class _Captioned:
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


@keywords(ShardOptions)
def caption_pairs(
    model: str,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    writing: Writing | None = None,
    device: str = "auto",
    precision: str = "float32",
    matcher: str | None = None,
    batch_size: int = BATCH,
    tolerate: float = 1.0,
    reporter: Reporter | None = None,
    **given: Any,
) -> _Captioned:
    """Write a caption for each image. The same call goes on where it was stopped.

    Args:
        model: a folder as transformers saves one, or a model of the hub by its id.
        sources: tars, Parquet files, folders and images, or URLs of these.
        out: a folder, or a URL of one.
        writing: how captions are written.
        device, precision: of the model.
        matcher: a BLIP with a head for image-text matching, which tells how well each caption matches its image.
        batch_size: images at once; part of the plan, since what is drawn depends on it.
        tolerate: share of the images that may be unreadable.
        given: options of `ShardOptions`.

    Raises:
        CapabilityError: a model that writes no captions. DataError: nothing readable, or more unreadable than are
        tolerated. ConfigError: an option is not usable.
    """
    asked, reporter = options_from(ShardOptions, given, "caption_pairs"), reporter or Reporter(quiet=True)
    executor = asked.executor(device, reporter.info)
    stage = CaptionStage.of(model, writing, device, precision, matcher)
    summary, folder = run_over_shards(
        stage, sources, out, asked, executor, batch_size, tolerate, reporter, "Writing captions"
    )
    return _Captioned(folder, summary.rows, summary.unreadable, summary.examples, stage.fingerprint)
