"""`curate score`: how well image and text of each pair match, told by a model that reads pixels, as shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..contracts.options import keywords, options_from
from ..contracts.shown import in_short
from ..curation.match import MatchStage
from ..runtime.progress import Reporter
from .options import ScoreOptions
from .shard_jobs import run_over_shards


@dataclass
class Scored:
    """What was written.

    Attributes:
        folder: `part-*.parquet` with id, itm, itc and scorer, as `columns` of `curate` takes it.
        pairs: how many; those without a text have no score.
        unreadable, examples: pairs that cannot be read, and (id, reason) of the first.
        scorer: hash of the model.
    """

    __repr__ = in_short

    folder: str
    pairs: int
    unreadable: int
    examples: list[tuple[str, str]]
    scorer: str


@keywords(ScoreOptions)
def score_pairs(
    model: str,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    tolerate: float = 1.0,
    reporter: Reporter | None = None,
    **given: Any,
) -> Scored:
    """Tell how well the image and the text of each pair match. The same call goes on where it was stopped.

    Args:
        model: a folder as transformers saves a BLIP with a head for image-text matching, or one of the hub by its id.
        sources: tars, Parquet files, folders and images, or URLs of these.
        out: a folder, or a URL of one.
        tolerate: share of the pairs that may be unreadable.
        given: options of `ScoreOptions`.

    Raises:
        CapabilityError: a model without such a head. DataError: nothing readable, or more unreadable than are
        tolerated. ConfigError: an option is not usable.
    """
    asked, reporter = options_from(ScoreOptions, given, "curate score"), reporter or Reporter(quiet=True)
    executor = asked.executor(asked.device, reporter.info)
    stage = MatchStage.of(model, asked.tokens, asked.device, asked.precision)
    summary, folder = run_over_shards(
        stage, sources, out, asked, executor, asked.batch_size, tolerate, reporter, "Matching images and texts"
    )
    return Scored(folder, summary.rows, summary.unreadable, summary.examples, stage.fingerprint)
