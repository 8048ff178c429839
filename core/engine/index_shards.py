"""`index` from shards: images are embedded as shard tasks, then segments are written as shard tasks, side by side; the
head, which makes an index of them, is written once.

Features that `embed --as parquet` wrote of the same images by the same encoder are used as they are.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..backbones.heads import HeadBackbone
from ..contracts.backbone import Backbone
from ..contracts.families import OFFERED
from ..contracts.items import DomainData
from ..contracts.recipe import SAMPLE, Recipe
from ..data.file_hashes import FileHashes
from ..data.pairs.shard_index import shard_index
from ..errors import CapabilityError, DataError
from ..features.table import transform_spec
from ..retrieval.entries import Entry
from ..retrieval.head import WORK
from ..retrieval.image_reader import ImageReader, is_pair_file
from ..retrieval.sharded import ENTRY, FeatureShards, SegmentStage, entry_line, take_segments, trained_file
from ..retrieval.writing import SegmentsWriter
from ..runtime.distributed import all_gather_json, world_size
from ..runtime.progress import Reporter
from ..runtime.remote import is_url
from ..shards import ShardPlace
from ..shards.driver import PLAN
from ..shards.manifest import names_shards
from ..shards.run import DONE, done_before
from .embed_shards import EmbedStage, ShardEncoder
from .options import IndexOptions
from .shard_jobs import BATCH, MOST_SKIPPED, job_of, manifest_of, place_of_shards, run_job
from .shard_rows import is_read_by, manifest_of_items

READERS = 16


@dataclass
class ShardedFeatures:
    """What segments are made of.

    Args:
        shards: the files.
        skipped: (id, reason) of the first of what could not be read.
        encoded, before: rows that were made now, and before.
    """

    shards: FeatureShards
    skipped: list[tuple[str, str]]
    encoded: int
    before: int


@dataclass(frozen=True)
class ImagesToShard:
    """Images that are embedded as shard tasks.

    Args:
        paths: files, folders and URLs; none for all features of `--features`.
        data: as the reader lists them; None where images are read as they come.
    """

    paths: tuple[str, ...]
    data: DomainData | None = None


def images_to_shard(
    images: Sequence[str | Path], asked: IndexOptions, reader: ImageReader, backbone: Backbone, installed: bool
) -> ImagesToShard | None:
    """Images that are to be embedded as shard tasks: where shards, URLs or an engine are given, and under torchrun.
    None where this process, or its first rank, embeds them by itself.

    Args:
        installed: whether workers can load the domain by its name.

    Raises:
        DataError: a path does not exist. CapabilityError: shards or an engine are given, and shards cannot be.
    """
    paths, why = tuple(map(str, images)), ""
    as_they_come = _as_they_come(paths, reader)
    chosen = (
        asked.is_elsewhere
        or asked.fast_decode
        or asked.features is not None
        or (as_they_come and any(map(_is_shard, paths)))
    )
    if not chosen and world_size() == 1:
        return None
    data = None if as_they_come else reader.to_index(paths)
    if data is not None and asked.fast_decode:
        raise CapabilityError("--fast-decode: is for photographs in files, tars and tables; omit it")
    if isinstance(backbone, HeadBackbone):
        why = f"backbone '{backbone.spec}' looks at samples whole"
    elif data is not None and data.items and reader.part_item(data.items[0], 0) is not None:
        why = "frames are found by themselves"
    elif not installed or (asked.is_elsewhere and backbone.spec in OFFERED):
        why = "the domain or the backbone is known to this process alone"
    if why and chosen:
        raise CapabilityError(f"index from shards: {why}; give files and folders, without --engine and --processes")
    return None if why else ImagesToShard(paths, data)


def _as_they_come(paths: Sequence[str], reader: ImageReader) -> bool:
    if reader.domain is None:
        return not is_pair_file(paths) or is_url(paths[0]) or _has_images_alone(paths[0])
    return list(paths) != [SAMPLE] and not is_read_by(reader.domain, paths)


def _has_images_alone(path: str) -> bool:
    """Whether it is a tar in which images lack captions: read as pairs, these would be left out."""
    if not path.lower().endswith(".tar") or not os.path.isfile(path):
        return False
    return bool(shard_index(Path(path), Path(FileHashes().root)).skipped)


def _is_shard(path: str) -> bool:
    return is_url(path) or names_shards(path)


def shard_features(
    recipe: Recipe,
    out: Path,
    images: ImagesToShard,
    asked: IndexOptions,
    reader: ImageReader,
    backbone: Backbone,
    reporter: Reporter,
) -> ShardedFeatures:
    """Features of images as shards: those that stand, or made now, under torchrun with the other ranks.

    Args:
        out: the index.
        reader: how images are read.

    Raises:
        DataError: nothing readable, more unreadable than are tolerated, or shards that could not be made.
        CapabilityError: the features that stand are of another encoder.
    """
    data = images.data
    if reader.domain is not None:
        options = {**recipe.data, **reader.options}
        recipe = recipe.with_(domain=reader.domain.name, task=reader.task, data=options)
    transform = transform_spec(reader.transform(backbone, data))
    place = place_of_shards(asked.features or str(scratch_of(out)))
    if not images.paths:
        if (standing := _standing(place, None, backbone, transform)) is None:
            raise DataError(f"--features {place}: no whole features of images in it; give the images too")
        return standing
    if data is None:
        manifest, listed = manifest_of(images.paths, place), None
    else:
        manifest = manifest_of_items(data, place, {ENTRY: lambda item: entry_line(Entry.of(item))})
        listed = images.paths
    if asked.features is not None and (standing := _standing(place, manifest.digest, backbone, transform)) is not None:
        return standing
    encoder = ShardEncoder(backbone.spec, backbone.fingerprint, backbone.embed_dim)
    stage = EmbedStage(
        recipe, (encoder,), (transform,), dtype="float32", listed=listed, index=reader, fast_decode=asked.fast_decode
    )
    below = place if asked.features else place.below(manifest.digest[:16])  # what a killed command left is of its own
    job = job_of(stage, manifest, below, asked, recipe.batch_size or BATCH, recipe.workers)
    tolerate = recipe.tolerate if recipe.gave("tolerate") else 1.0
    executor = asked.executor(recipe.device, reporter.info)
    done = run_job(job, executor, tolerate, reporter, "Encoding images")
    shards = _shards_of(job.work.place, "image_features", True, backbone.embed_dim)
    skipped = [*manifest.skipped[:MOST_SKIPPED], *done.examples]
    return ShardedFeatures(shards, skipped, done.rows - done.rows_before, done.rows_before)


def scratch_of(out: Path) -> Path:
    """Where features lie that nobody asked for, until the index is there; one command at a time makes it."""
    return out.absolute().with_name(f".{out.name}.features")


def write_segments(
    writer: SegmentsWriter | None,
    features: ShardedFeatures,
    kind: str,
    asked: IndexOptions,
    reporter: Reporter,
    before: Path | None = None,
    quantiser: str = "",
) -> int:
    """Write the segments of an index, under torchrun with the other ranks. Returns how many entries were there already.

    Args:
        writer: of the index, on the first rank; it takes the segments.
        kind: of the index.
        before: an index whose entries are left out, or None.
        quantiser: file of that of an index that is added to, or "".
    """
    plan = None
    if writer is not None:
        quantiser = trained_file(writer, features.shards) or quantiser
        plan = [str(writer.folder.absolute()), writer.number, quantiser]
    folder, number, quantiser = all_gather_json(plan)[0]
    left_out = "" if before is None else str(before.absolute())
    stage = SegmentStage(folder, kind, features.shards, number, quantiser, left_out, asked.graph_threads or 1)
    place = place_of_shards(Path(folder) / WORK)
    job = job_of(stage, stage.listed(place), place, replace(asked, shard_size=1), 1)
    run_job(job, asked.executor("cpu", reporter.info), 0.0, reporter, "Writing segments")
    if writer is None:
        return 0
    there = take_segments(writer, job.work.place)
    shutil.rmtree(place.root)
    return there


def _standing(place: ShardPlace, digest: str | None, backbone: Backbone, transform: str) -> ShardedFeatures | None:
    """Features that are there, whole, of these inputs by this encoder.

    Args:
        digest: of the inputs; None for any.

    Raises:
        CapabilityError: there are some of these inputs, and all are of other encoders.
    """
    others: list[str] = []
    for below in [place, *(place.below(name) for name in place.folders())]:
        facts = _plan_in(below)
        if facts is None or digest not in (None, facts["inputs"]):
            continue
        settings = facts["settings"]
        suffixes = dict(settings["encoders"])
        if backbone.fingerprint not in suffixes:
            others += suffixes
            continue
        if settings["transforms"][list(suffixes).index(backbone.fingerprint)] != transform:
            continue
        column = f"image_features{suffixes[backbone.fingerprint]}"
        shards = _shards_of(below, column, bool(settings.get(ENTRY)), backbone.embed_dim)
        if len(shards.files) == facts["shards"]:
            return ShardedFeatures(shards, [], 0, len(shards))
    if others:
        raise CapabilityError(
            f"{place}: features of encoder {others[0][:12]}, not of '{backbone.spec}' ({backbone.fingerprint[:12]}); "
            "give that backbone, or another --features"
        )
    return None


def _plan_in(place: ShardPlace) -> dict[str, Any] | None:
    """What the plan of features of images says; None where there is none."""
    content = place.read(PLAN)
    try:
        facts = {} if content is None else json.loads(content)
        return facts if facts.get("stage") == "embed" and facts["settings"]["images"] else None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{place}/{PLAN}: damaged; remove {place}, and give the images") from None


def _shards_of(place: ShardPlace, column: str, has_entries: bool, dims: int) -> FeatureShards:
    """The shards that are done; their markers are read by threads, since an object store takes its time."""
    names = sorted(place.listed(DONE))
    with ThreadPoolExecutor(READERS) as threads:
        reports = list(threads.map(lambda name: done_before(place, name), names))
    files = [(place.path(f"{name}.parquet"), each.rows) for name, each in zip(names, reports) if each is not None]
    return FeatureShards(tuple(files), column, has_entries, dims)
