"""`curate STAGE`: which pairs of image and text to keep, by one curator, as shards of decisions."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from ... import __version__
from ..contracts.curator import TEXT, Curator, PairTable
from ..contracts.options import keywords, options_from
from ..contracts.shown import in_short
from ..curation import (
    HAS,
    DecisionStage,
    PairFacts,
    PairFeatures,
    PeerFiles,
    StoredColumns,
    build_table,
    decided,
    positions_kept,
    survey_pairs,
    tally,
    write_record,
)
from ..curation.decide import resolved
from ..curation.facts import FEATURES, MEASURED
from ..curation.peers import DATACOMP
from ..curation.table import FORMAT
from ..data.file_hashes import FileHashes
from ..errors import ConfigError, DataError, did_you_mean
from ..registry import build_curator, curator_class
from ..registry.catalogue import curators
from ..runtime.distributed import world_size
from ..runtime.files import replacing
from ..runtime.process import keeps, need_package
from ..runtime.progress import Reporter
from ..runtime.remote import is_url
from ..shards import Job, Manifest, ShardPlace
from ..shards.sources import version_of_source
from ..shards.task import settings_hash
from .options import CurateOptions
from .shard_jobs import BATCH, manifest_of, place_of_shards, run_job

TABLES, SURVEYS, PEERS = "tables", "surveys", "peers"
DECIDED_AT_ONCE, DECIDED_A_SHARD = 16_384, 262_144
PLACES = {"PATH", "FILE", "DIR"}
"""What options call values that are files or folders, whatever these are named."""
READ_WHOLE = 64 << 20
"""Bytes of a file of options that is known by its content; larger ones are known by size and time."""


@dataclass
class Curated:
    """What was decided.

    Attributes:
        folder: the decisions, as `--after` takes them.
        curator: by which.
        pairs: that were still there; `kept` of them are kept.
        dropped: rule -> how many pairs.
        weight: sum of the weights of what is kept.
        rewritten: pairs that are kept with another text.
        notes: what the curator has to say.
        without_features: pairs that are left out because they have none.
        unreadable, examples: pairs that cannot be read, and (id, reason) of the first.
    """

    __repr__ = in_short

    folder: Path
    curator: str
    pairs: int
    kept: int
    dropped: dict[str, int]
    weight: float
    rewritten: int = 0
    notes: tuple[str, ...] = ()
    without_features: int = 0
    unreadable: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)


@keywords(CurateOptions)
def curate(
    curator: str,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    options: Mapping[str, Any] | None = None,
    stage: str = "",
    reads: Collection[str] = (),
    may_read: Collection[str] = (),
    reporter: Reporter | None = None,
    **given: Any,
) -> Curated:
    """Decide which pairs to keep. The same call goes on where it was stopped, and does nothing twice.

    Args:
        curator: its name; `vladapt list curators`.
        sources: tars, Parquet files, folders and images, or URLs of these; none where features are all that is needed.
        out: a folder: a table of the pairs is kept in it, and the decisions of each curator that was asked.
        options: of the curator.
        stage: the command, to which the curator must belong.
        reads, may_read: columns that others will need of the same table, or look at.
        given: options of `CurateOptions`.

    Raises:
        UnknownNameError: no curator, or no option of it, has that name. ConfigError: an option is not usable.
        DataError: nothing readable, a column that is missing, an id that occurs twice, features of two encoders.
    """
    asked, reporter = options_from(CurateOptions, given, "curate"), reporter or Reporter(quiet=True)
    _check_stage(curator, stage)
    built = build_curator(curator, **(options or {}))
    check_ready(out)
    if world_size() > 1:
        raise ConfigError("curate: runs in one process; omit torchrun, and give --engine ray or --processes")
    for folder in asked.after or ():
        decided(folder)
    needed = NeededColumns.of([built], asked.columns or (), reads, may_read)
    place = place_of_shards(out)
    reading = _Reading(built, place, asked, reporter)
    table, name = _table(reading, needed, sources)
    table.need(*built.reads)
    rows, without = _still_there(table, built.reads, asked.after or ())
    folder = Path(place.root) / TABLES / name
    positions, digest = _written(rows, len(table), folder)
    before = sorted({Path(each).resolve().name for each in asked.after or ()})
    facts = (name, digest, __version__, *before, *_contents(built))  # another version may decide otherwise
    made = DecisionStage(curator, dict(options or {}), str(folder), positions, facts)
    folder, notes = _decide(made, len(rows), place, asked, reporter)
    outcome = {**vars(tally(folder)), "unreadable": reading.unreadable, "examples": reading.examples}
    curated = Curated(folder, curator, notes=notes, without_features=without, **outcome)
    write_record(folder, _record(curated, built, sources, asked, Path(made.table), reading.inputs))
    return curated


@dataclass(frozen=True)
class NeededColumns:
    """Columns that a table of pairs must have.

    Args:
        reads, may_read: those that are needed, and those that are taken where they are.
        further: those that no source has.
    """

    reads: frozenset[str]
    may_read: frozenset[str]
    further: tuple[StoredColumns, ...]

    @classmethod
    def of(
        cls,
        curators: Sequence[Curator],
        folders: Sequence[str],
        reads: Collection[str] = (),
        may_read: Collection[str] = (),
    ) -> NeededColumns:
        """Those of some curators, and others.

        Args:
            folders: of `PairColumns`.
        """
        reads = frozenset(reads).union(*(each.reads for each in curators))
        may_read = frozenset(may_read).union(*(each.may_read for each in curators))
        return cls(reads, may_read, tuple(map(StoredColumns.of, folders)))

    @property
    def names(self) -> frozenset[str]:
        """Of the further columns."""
        return frozenset[str]().union(*(each.names for each in self.further))

    def facts(self, manifest: Manifest) -> PairFacts:
        """The stage that reads the others from the sources."""
        return PairFacts.of(manifest, self.reads - self.names, self.may_read - self.names)

    def check(self, curators: Sequence[Curator], columns: Collection[str]) -> None:
        """Raise what curators lack, a column, a package or a file, before pairs are read.

        Args:
            columns: of the sources.
        """
        for curator in curators:
            curator.check({TEXT, *FEATURES, *columns, *self.names})


@dataclass
class _Reading:
    """How pairs are read, and what became of them.

    Args:
        built: for which curator.
        inputs: digest of what they are, of those that are read from shards.
    """

    built: Curator
    place: ShardPlace
    asked: CurateOptions
    reporter: Reporter
    unreadable: int = 0
    examples: list[tuple[str, str]] = field(default_factory=list)
    inputs: str = ""

    def facts(self, stage: PairFacts, manifest: Manifest) -> Path:
        """What a stage reads of the pairs: the folder of its shards."""
        job = Job.of(stage, manifest, self.place, shard_size=self.asked.shard_size, batch_size=BATCH)
        executor = self.asked.executor("cpu", self.reporter.info)
        summary = run_job(job, executor, self.asked.tolerate, self.reporter, "Reading pairs")
        self.unreadable, self.examples = summary.unreadable, [*manifest.skipped[:20], *summary.examples]
        return Path(job.work.place.root)


def check_ready(out: str | Path) -> None:
    """Raise the CapabilityError of what is not installed, and the ConfigError of a URL, before anything is computed."""
    need_package("curation", "duckdb", "curation")
    if is_url(str(out)):
        raise ConfigError(f"--out {out}: decisions are written to a folder of this machine; give one")


def _check_stage(name: str, stage: str) -> None:
    if not stage or (name in curators() and curator_class(name).stage == stage):
        return
    fit = [each for each in curators() if curator_class(each).stage == stage]
    if name in curators():
        other = curator_class(name).stage
        raise ConfigError(f"--method {name}: is for `vladapt curate {other}`; here there are {', '.join(fit)}")
    raise ConfigError(f"--method {name}: no curator has that name; {did_you_mean(name, fit)}")


def _table(reading: _Reading, needed: NeededColumns, sources: Sequence[str | Path]) -> tuple[PairTable, str]:
    """The table of all pairs, and the name of its folder."""
    asked, facts, made_of, features = reading.asked, list[str](), list[str](), None
    backbone, encoder = asked.encoder_names
    peers = PeerFiles.among(sources, encoder or backbone)
    if peers and len(peers) < len(sources):
        raise ConfigError(f"{peers[0].folder}: is of {peers[0].kind}, other sources are not; curate them one by one")
    if peers:
        needed = _with_measured(reading, needed, peers)
        facts, features = _from_peers(reading, needed, peers)
        made_of = facts
    elif sources:
        manifest = manifest_of(sources, reading.place)
        stage = needed.facts(manifest)
        needed.check([reading.built], stage.written)
        folder, reading.inputs = reading.facts(stage, manifest), manifest.digest
        facts, made_of = sorted(map(str, folder.glob("part-*.parquet"))), [folder.name, manifest.digest]
    else:
        needed.check([reading.built], ())
    if asked.features is not None:
        features = PairFeatures.of(asked.features, backbone, encoder)
    if not facts and features is None:
        raise ConfigError("give the pairs (tars, Parquet files, folders), or --features")
    further = [each.digest for each in needed.further]
    name = settings_hash({"table": [FORMAT, *made_of, features and features.digest, *further]})
    folder = Path(reading.place.root) / TABLES / name
    table = build_table(folder, facts, features, reading.reporter.info, needed.further)
    keeps("the table of pairs", reading.place.root)
    return table, name


def _with_measured(reading: _Reading, needed: NeededColumns, peers: Sequence[PeerFiles]) -> NeededColumns:
    """With what img2dataset did not write, such as perceptual hashes, measured of the images in its tars."""
    needed.check([reading.built], {name for each in peers for name in each.columns})
    tars = [str(tar) for each in peers for tar in each.tars]
    measured = set(MEASURED) & needed.reads - needed.names
    missing = {name for name in measured if not all(each.has(name) for each in peers)}
    if not tars or not missing:
        return needed
    manifest = manifest_of(tars, reading.place)
    folder = reading.facts(PairFacts.of(manifest, missing), manifest)
    return replace(needed, further=(*needed.further, StoredColumns.of(folder, of_all=True)))


def _from_peers(
    reading: _Reading, needed: NeededColumns, peers: Sequence[PeerFiles]
) -> tuple[list[str], PairFeatures | None]:
    """Files of facts of the pairs in folders of other tools, and the features that they bring.

    Raises:
        ConfigError: several folders with features.
    """
    facts: list[str] = []
    folders: list[str] = []
    for each in peers:
        there = {*needed.reads, *needed.may_read & set(each.columns)} - {TEXT, *FEATURES, *needed.names}
        written = Path(reading.place.root) / PEERS
        files, folder = each.write(written, sorted(there), bool(needed.reads & set(FEATURES)))
        facts += files
        folders += [str(folder)] if folder is not None and reading.asked.features is None else []
    if len(folders) > 1:
        raise ConfigError(f"{len(folders)} folders with features; curate them one by one, or give --features")
    backbone, encoder = reading.asked.encoder_names
    of_several = backbone if peers[0].kind == DATACOMP else ""
    return facts, PairFeatures.of(folders[0], of_several, encoder) if folders else None


def _still_there(table: PairTable, reads: Sequence[str], after: Sequence[str]) -> tuple[np.ndarray, int]:
    """Positions of the pairs to be judged, and how many lack features."""
    keep = np.ones(len(table), bool)
    if after:
        keep[:] = False
        keep[positions_kept(table, after)] = True
        if not keep.any():
            raise DataError(f"{after[-1]}: kept nothing; relax a rule of the stages before")
    there = np.ones(len(table), bool)
    for name in set(reads) & set(FEATURES):
        there &= table.numbers(f"{HAS}{name}")
    return np.flatnonzero(keep & there), int((keep & ~there).sum())


def _decide(
    made: DecisionStage, count: int, place: ShardPlace, asked: CurateOptions, reporter: Reporter
) -> tuple[Path, tuple[str, ...]]:
    """Survey and decisions of so many pairs. Returns the folder of these, and what the curator has to say."""
    made = replace(made, survey=str(Path(place.root) / SURVEYS / made.hash))
    with reporter.task(f"Looking at all pairs ({made.curator})", unit="pairs") as progress:
        # curators count their own steps: pairs, passes, clusters
        survey = survey_pairs(made, Path(made.survey), lambda done, total: progress(done * count // total, count))
    keeps("the survey of all pairs", place.root)
    job = _job(made, place)
    run_job(job, asked.executor("cpu", reporter.info), 1.0, reporter, f"Deciding ({made.curator})")
    return Path(job.work.place.root), survey.notes


def _written(rows: np.ndarray, count: int, table: Path) -> tuple[str, str]:
    """(file of positions, hash of them); "" where all are there."""
    if len(rows) == count:
        return "", ""
    digest = hashlib.sha256(rows.tobytes()).hexdigest()[:16]
    path = table.with_name(f"{table.name}-{digest}.npy")
    if not path.exists():
        with replacing(path) as partial, partial.open("wb") as file:
            np.save(file, rows)
    return str(path), digest


def _contents(curator: Curator) -> list[str]:
    """Hashes of the files and folders that options name: other contents are other decisions."""
    made = []
    for option in fields(curator):
        value = getattr(curator, option.name)
        metavar = getattr(option.metadata.get("option"), "metavar", "")
        for each in value if isinstance(value, (list, tuple)) else [value]:
            text = each if isinstance(each, str) else ""
            is_place = metavar in PLACES or os.sep in text or os.path.splitext(text)[1]
            if text and is_place and os.path.exists(text):
                made.append(settings_hash({option.name: _digests(Path(text))}))
    return made


def _digests(path: Path) -> list[tuple[str, str]]:
    """Of the files of a folder, by their paths in it, or of one file; of large ones the size and the time."""
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    small = (each.stat().st_size <= READ_WHOLE for each in files)
    return [
        (each.relative_to(path).as_posix(), FileHashes.of_file(each) if read else version_of_source(str(each)))
        for each, read in zip(files, small)
    ]


def _job(stage: DecisionStage, place: ShardPlace) -> Job:
    """The job of decisions; what a curator gives besides is told by its decisions of the first pairs."""
    state = stage.start(None)
    first = state.decide(slice(0, min(len(state.pairs), DECIDED_AT_ONCE)))
    return Job.of(
        replace(stage, scores=tuple(sorted(first.scores)), captions=first.captions is not None),
        stage.manifest(),
        place,
        shard_size=DECIDED_A_SHARD,
        batch_size=DECIDED_AT_ONCE,
    )


def _record(
    curated: Curated,
    curator: Curator,
    sources: Sequence[str | Path],
    asked: CurateOptions,
    table: Path,
    inputs: str,
) -> dict[str, Any]:
    """What ran, resolved, as JSON."""
    facts = {name: value for name, value in vars(curated).items() if name not in ("folder", "examples")}
    return {
        **facts,
        "stage": curator.stage,
        "table": str(table),
        "notes": list(curated.notes),
        "options": resolved(curator),
        "sources": [str(each) for each in sources],
        "folder": os.getcwd(),
        **({"inputs": inputs} if inputs else {}),
        "features": asked.features and _absolute(asked.features),
        "columns": [_absolute(each) for each in asked.columns or ()],
        "after": [_absolute(each) for each in asked.after or ()],
    }


def _absolute(place: str | Path) -> str:
    """As it is called from everywhere."""
    return str(place) if is_url(str(place)) else os.path.abspath(place)
