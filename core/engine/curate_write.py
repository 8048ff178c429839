"""What is kept, written: a list, tars, DataComp's array of ids, and a card that tells how it was chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..contracts.options import options_from
from ..contracts.shown import in_short
from ..curation import KeptPairs, chain_of, last_of, record_of, write_list, write_tars, write_uids
from ..curation.lists import LIST, UIDS, captions_in, check_uids
from ..curation.peers import is_clip_retrieval
from ..errors import ConfigError, DataError
from ..runtime.files import write_whole
from ..runtime.progress import Reporter
from ..runtime.reading import read_bytes
from ..runtime.remote import is_url
from ..shards import Manifest, ShardPlace
from ..sharing.card import check_licence
from ..sharing.dataset_card import CuratedSet, dataset_card
from .options import WriteOptions
from .shard_jobs import manifest_of

TARS, CARD = "tars", "README.md"
MARK = "<!-- Written by vladapt curate write, which replaces it. -->\n"


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
    reporter: Reporter | None = None,
    **given: Any,
) -> WrittenPairs:
    """Write which pairs a stage and all that it stands on keep; weights of stages are multiplied.

    Args:
        decisions: folder that `curate` gave, or that was its `out`: then of the last stage in it.
        out: a folder.
        sources: where the pairs are; by default those of the decisions.
        given: options of `WriteOptions`; a list is written wherever there are sources.

    Raises:
        DataError: a stage has not ended, the sources have changed since, a pair is in none of them, an id is none of
        DataComp's, a README.md of the user's is there, or a file cannot be read or written.
        ConfigError: no such form, tars without sources, tars of other pairs, or `out` is a URL.
    """
    asked = options_from(WriteOptions, given, "curate write")
    check_licence("--licence", asked.licence)
    if is_url(str(out)):
        raise ConfigError(f"--out {out}: lists are written to a folder of this machine; give one")
    reporter, out, place = reporter or Reporter(quiet=True), Path(out), ShardPlace(str(Path(out).absolute()))
    last = last_of(Path(decisions))
    place.check()
    _check_card(out / CARD)
    files = [] if asked.captions is None else captions_in(Path(asked.captions))
    manifest = _manifest(last, sources, place, asked.write, bool(files))
    pairs = KeptPairs.of([ShardPlace(str(folder)) for folder in chain_of(last)])
    if "uids" in asked.write:
        check_uids(pairs)
    written: dict[str, Path] = {}
    if manifest is not None:
        count = write_list(pairs, manifest.sources, place, captions=files)
        written["list"] = out / LIST
        if files:
            reporter.info(f"Captions by a model: {count:,} of {len(pairs):,} pairs")
    if "uids" in asked.write:
        write_uids(pairs, place)
        written["uids"] = out / UIDS
    if TARS in asked.write:
        with reporter.task("Writing tars", unit="tars") as progress:
            write_tars(written["list"], place.below(TARS), asked.samples, progress=progress)
        written[TARS] = out / TARS
    card = dataset_card(CuratedSet(asked.name or out.absolute().name, last, pairs, asked.licence, written))
    write_whole(out / CARD, card + MARK)
    written["card"] = out / CARD
    return WrittenPairs(last, len(pairs), float(pairs.weights.sum(dtype="float64")), written)


def _manifest(
    last: Path, sources: Sequence[str | Path], place: ShardPlace, write: Sequence[str], captions: bool
) -> Manifest | None:
    """Where the pairs are; None where ids alone can be written.

    Args:
        sources: that the user gives; by default those of the decisions.
        captions: whether there are some by a model.

    Raises:
        ConfigError: what is asked for needs images that are nowhere. DataError: the sources have changed.
    """
    record = record_of(last)
    named = list(sources) or list(record.get("sources") or ())
    if (bare := next((each for each in named if is_clip_retrieval(Path(each))), None)) is not None:
        if set(write) != {"uids"}:
            raise ConfigError(f"{bare}: holds no images; give by --data where they are, or --write uids alone")
        named = []
    if TARS in write and not named:
        raise ConfigError("--write tars: the decisions were made of features alone; give the pairs by --data")
    if captions and not named:
        raise ConfigError("--captions: goes into a list, for which there are no sources; give them by --data")
    if not named:
        return None
    manifest = manifest_of(named, place)
    if not sources:
        _check_unchanged(manifest, record)
    return manifest


def _check_card(path: Path) -> None:
    """Raise the DataError of a README.md that is not a card of ours."""
    if path.exists() and not (path.is_file() and read_bytes(path, "move it").endswith(MARK.encode())):
        raise DataError(f"{path}: is not a card by `vladapt curate write`; move it, or give another --out")


def _check_unchanged(manifest: Manifest, record: Mapping[str, Any]) -> None:
    """Raise the DataError of other files under the names of the sources."""
    if record.get("inputs", manifest.digest) != manifest.digest:
        raise DataError(
            "the sources have changed since the decisions; run the stages again, or name the sources by --data if the "
            "pairs are still the same"
        )
