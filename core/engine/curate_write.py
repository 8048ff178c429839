"""What is kept, written: a list, tars, DataComp's array of ids, and a card that tells how it was chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..contracts.shown import in_short
from ..curation import Kept, chain_of, last_of, record_of, write_list, write_tars, write_uids
from ..curation.lists import LIST, UIDS, add_captions
from ..curation.peers import is_clip_retrieval
from ..curation.tars import SAMPLES
from ..errors import ConfigError
from ..runtime.files import write_whole
from ..runtime.progress import Reporter
from ..runtime.remote import is_url
from ..shards import Place
from ..sharing.dataset_card import CuratedSet, dataset_card
from .shard_jobs import manifest_of

FORMS = ("list", "tars", "uids")
TARS, CARD = "tars", "README.md"


@dataclass
class WrittenPairs:
    """What was written.

    Attributes:
        decisions: of the last stage.
        kept, weight: pairs, and the sum of their weights.
        written: what -> file or folder.
    """

    __repr__ = in_short

    decisions: Path
    kept: int
    weight: float
    written: dict[str, Path] = field(default_factory=dict)


def write_kept(
    decisions: str | Path,
    out: str | Path,
    *,
    sources: Sequence[str | Path] = (),
    captions: str | Path | None = None,
    write: Sequence[str] = ("list",),
    samples: int = SAMPLES,
    name: str = "",
    licence: str | None = None,
    reporter: Reporter | None = None,
) -> WrittenPairs:
    """Write which pairs a stage and all that it stands on keep; weights of stages are multiplied.

    Args:
        decisions: folder that `curate` gave, or that was its `out`: then of the last stage in it.
        out: a folder.
        sources: where the pairs are; by default those of the decisions.
        captions: folder of `caption_pairs`; the list has them beside the texts of the pairs, tars do not.
        write: of `FORMS`; a list is written wherever there are sources.
        samples: of each tar.
        name, licence: of the set, for its card.

    Raises:
        DataError: a stage has not ended, a pair is in none of the sources, an id is none of DataComp's, or a file
        cannot be read or written. ConfigError: no such form, tars without sources, or `out` is a URL.
    """
    if unknown := set(write) - set(FORMS):
        raise ConfigError(f"--write {min(unknown)}: give some of {', '.join(FORMS)}")
    if is_url(str(out)):
        raise ConfigError(f"--out {out}: lists are written to a folder of this machine; give one")
    reporter, out, place = reporter or Reporter(quiet=True), Path(out), Place(str(Path(out).absolute()))
    place.check()
    last = last_of(Path(decisions))
    chain = chain_of(last)
    sources = list(sources) or list(record_of(last).get("sources") or ())
    if (bare := next((each for each in sources if is_clip_retrieval(Path(each))), None)) is not None:
        if set(write) != {"uids"}:
            raise ConfigError(f"{bare}: holds no images; give by --data where they are, or --write uids alone")
        sources = []
    if TARS in write and not sources:
        raise ConfigError("--write tars: the decisions were made of features alone; give the pairs by --data")
    kept = Kept.of([Place(str(folder)) for folder in chain])
    written: dict[str, Path] = {}
    if sources:
        write_list(kept, manifest_of(sources, place).sources, place)
        written["list"] = out / LIST
        if captions is not None:
            count = add_captions(written["list"], Path(captions))
            reporter.info(f"Captions by a model: {count:,} of {len(kept):,} pairs")
    elif captions is not None:
        raise ConfigError("--captions: goes into a list, for which there are no sources; give them by --data")
    if "uids" in write:
        write_uids(kept, place)
        written["uids"] = out / UIDS
    if TARS in write:
        with reporter.task("Writing tars", unit="tars") as progress:
            write_tars(written["list"], place.below(TARS), samples, progress=progress)
        written[TARS] = out / TARS
    card = dataset_card(CuratedSet(name or out.absolute().name, last, kept, licence, written))
    write_whole(out / CARD, card)
    written["card"] = out / CARD
    return WrittenPairs(last, len(kept), float(kept.weights.sum(dtype="float64")), written)
