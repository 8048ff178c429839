"""`index`: images or texts through a backbone once, to be searched from disk; an index changed in its place.

In one process both go through the feature store, some thousands at a time: what was computed is kept if the work is
stopped, a second index of the same images runs no backbone, and memory does not grow with their number but for the
index itself. Shards, URLs, engines and ranks go by shard tasks (`index_shards.py`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbones.finders import searched
from ..backbones.heads import HeadBackbone, towers_in
from ..backbones.load import load_backbone
from ..backbones.stored import stored_spec
from ..contracts.backbone import Backbone
from ..contracts.domain import Domain
from ..contracts.items import DomainData, Item
from ..contracts.options import keywords, options_from
from ..contracts.pair_head import PairHead
from ..contracts.recipe import Recipe
from ..contracts.shown import in_short
from ..contracts.task import IMAGE_KEYS, refuse_unused
from ..data.verify import check_tolerated
from ..errors import ConfigError, DataError
from ..features.packaged import located_pairs
from ..features.pair_files import holds_pairs, load_pairs
from ..features.store import Extraction, FeatureStore
from ..retrieval.build import IndexBuilder, locked
from ..retrieval.changes import IndexChange
from ..retrieval.entries import Entry
from ..retrieval.image_reader import ImageReader
from ..retrieval.index import FAST, IMAGES, TEXTS, RetrievalIndex
from ..runs.folder import now, versions
from ..runs.sections import plural
from ..runtime.distributed import is_main, together, world_size
from ..runtime.progress import Reporter
from ..runtime.reading import text_lines
from .index_pairs import check_alone, check_pair_encoder
from .options import OF_SHARDS, IndexOptions, ShardOptions

if TYPE_CHECKING:
    from .index_shards import ImagesToShard

AT_ONCE, PARTED_AT_ONCE = 4096, 64
"""Images that are encoded before their rows are written, and samples of many parts."""
Writer = IndexBuilder | IndexChange


@dataclass
class Indexed:
    """What an index was made of.

    Attributes:
        index: its folder.
        holds: "images" or "texts".
        kind, dims, entries: of its rows; `entries` are all that it has now.
        segments: in how many parts they lie.
        added, deleted: entries that this command added and deleted.
        already_there: images or texts that the index had already, with `only_new`.
        skipped: (id, reason) of what was left out.
        encoded, from_store: images the backbone ran on, and images whose features were there already.
        query: words that can be searched for, where no others can.
    """

    __repr__ = in_short

    index: Path
    holds: str
    kind: str
    dims: int
    entries: int = 0
    segments: int = 1
    added: int = 0
    deleted: int = 0
    already_there: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    encoded: int = 0
    from_store: int = 0
    query: str = ""
    seconds: float = 0.0


@keywords(IndexOptions)
def index(
    recipe: Recipe,
    out: str | Path,
    *,
    images: Sequence[str | Path] = (),
    backbone: str | Backbone | None = None,
    domain: Domain | None = None,
    reporter: Reporter | None = None,
    **given: Any,
) -> Indexed:
    """Write an index of images, or of the lines of a text file; or change one in its place.

    Args:
        recipe: backbone, device, precision; the domain whose files the images are, where it names one.
        out: folder of the index. An index that is there already is replaced when the new one is whole.
        images: files and folders; or one file of image-text pairs, whose captions are shown with the images; or with a
            domain ["sample"], its own sample; or tars, Parquet files, and URLs of these and of folders.
        backbone: in place of the recipe's: a spec, or `Backbone.from_module`.
        given: options of `IndexOptions`.
        domain: a domain of your own that is not installed as a plug-in.

    Raises:
        ConfigError: neither or both of images and texts, or no such kind, or another process is changing the index.
        DataError: nothing readable, more unreadable than are tolerated, or `out` cannot be written. CapabilityError:
        faiss is not installed; what is added is of another backbone.
    """
    asked, recipe = options_from(IndexOptions, given, "index"), recipe.with_backbone(backbone)
    if changes := _changes(asked):
        if images or asked.texts is not None or asked.features is not None:
            raise ConfigError(f"{changes[0]}: changes the index at --out; omit the images, or the texts")
        refuse_unused(recipe, frozenset(), lambda key: f"{changes[0]} does not use it; omit it")
        return together(lambda: _changed(Path(out), asked))
    if bool(images or asked.features) == (asked.texts is not None):
        raise ConfigError("give either images (files or folders) or --texts FILE; an index holds one kind")
    if asked.shard is not None:
        raise ConfigError(
            f"--shard {asked.shard}: features are made in parts, an index is not; give it to `vladapt embed --as "
            "parquet`, and the features to --features"
        )
    if asked.texts is not None and asked.is_elsewhere:
        raise ConfigError(f"--texts {asked.texts}: is encoded by one process; omit --engine and --processes")
    if asked.texts is not None and asked.fast_decode:
        raise ConfigError(f"--fast-decode: is about images; omit it, or --texts {asked.texts}")
    if asked.texts is not None and (recipe.domain or domain):
        raise ConfigError(f"--domain {recipe.domain}: says how images are read; omit it with --texts")
    if asked.only_new and not asked.add:
        raise ConfigError("--only-new: is about an index that is there; give --add too, or omit it")
    refuse_unused(recipe, IMAGE_KEYS, lambda key: "index does not use it; omit it")
    if asked.features is not None and holds_pairs(asked.features):
        check_alone(recipe, images, asked, domain)
    reporter = reporter or Reporter(quiet=True)
    return together(lambda: _index(recipe, Path(out), list(images), asked, domain, reporter))


def _changes(asked: IndexOptions) -> list[str]:
    """The flags of what is done to an index without adding to it: one at most.

    Raises:
        ConfigError: several, or with others.
    """
    flags = {"--delete": asked.delete is not None, "--compact": asked.compact, "--verify": asked.verify}
    changes = [flag for flag, on in flags.items() if on]
    others = {"--add": asked.add, "--only-new": asked.only_new, "--kind": asked.kind is not None}
    others["--graph-threads"] = asked.graph_threads is not None and not asked.compact
    others |= {"--fast-decode": asked.fast_decode} | {
        f"--{name.replace('_', '-')}": getattr(asked, name) != getattr(ShardOptions, name) for name in sorted(OF_SHARDS)
    }
    more = changes[1:] + [flag for flag, on in others.items() if on]
    if changes and more:
        raise ConfigError(f"{more[0]}: cannot be given together with {changes[0]}; run one command after the other")
    return changes


def _changed(out: Path, asked: IndexOptions) -> Indexed:
    started, deleted = time.monotonic(), 0
    if is_main() and asked.verify:
        RetrievalIndex.open(out).verify()
    elif is_main():
        ids = [] if asked.delete is None else _ids_of(asked.delete)
        with IndexChange(out, _graph_threads(asked, RetrievalIndex.open(out).info.kind)) as change:
            deleted = change.delete(ids) if ids else 0
            if asked.compact:
                change.compact()
    opened = RetrievalIndex.open(out)
    made = Indexed(out, opened.info.holds, opened.info.kind, opened.info.dims, len(opened), deleted=deleted)
    made.segments, made.seconds = len(opened.segments), round(time.monotonic() - started, 3)
    return made


def _graph_threads(asked: IndexOptions, kind: str) -> int:
    """Of an index of a kind.

    Raises:
        ConfigError: it is no graph.
    """
    if asked.graph_threads is not None and kind != "hnsw":
        raise ConfigError(f"--graph-threads: is for --kind hnsw; omit it for {kind}")
    return asked.graph_threads or 1


def _ids_of(text: str) -> list[str]:
    """An id, or those of @FILE.

    Raises:
        DataError: the file cannot be read, or is empty.
    """
    if not text.startswith("@"):
        return [text]
    try:
        ids = [line.rstrip("\r\n") for line in text_lines(Path(text[1:]), "write one id per line") if line.strip()]
    except DataError as error:
        raise DataError(f"--delete @{error}") from error
    if not ids:
        raise DataError(f"--delete {text}: empty; write one id per line")
    return ids


def _index(recipe: Recipe, out: Path, images: list, asked: IndexOptions, domain, reporter: Reporter) -> Indexed:
    from .index_shards import images_to_shard, scratch_of

    started = time.monotonic()
    holds, old = TEXTS if asked.texts is not None else IMAGES, RetrievalIndex.open(out) if asked.add else None
    kind = asked.kind or "flat" if old is None else old.info.kind
    threads = _graph_threads(asked, kind)
    pairs = None if asked.features is None or not holds_pairs(asked.features) else load_pairs(asked.features)
    if pairs is not None and not recipe.gave("backbone"):
        recipe = recipe.with_(backbone=stored_spec(str(asked.features)))
    if old is not None:
        recipe = _as_indexed(recipe, old, holds, asked)
    reader = ImageReader() if holds == TEXTS or pairs is not None else _reader(recipe, domain, old)
    fast = asked.fast_decode if old is None else bool(old.info.backbone.get(FAST))
    backbone = _towers(recipe, reader, fast, old)
    if pairs is not None:
        check_pair_encoder(backbone, pairs, str(asked.features))
    made, before = Indexed(out, holds, kind, backbone.embed_dim), old if asked.only_new else None
    asked = replace(asked, fast_decode=fast)
    to_shard = None
    if holds == IMAGES and pairs is None:
        to_shard = images_to_shard(images, asked, reader, backbone, domain is None)
    writer: IndexBuilder | IndexChange | None = None
    scratch: Path | None = None
    with ExitStack() as stack:
        if is_main():
            if old is None:
                writer = IndexBuilder(out, dims=backbone.embed_dim, kind=kind, graph_threads=threads)
            else:
                writer = IndexChange(out, threads)
            stack.enter_context(writer)
            if isinstance(writer, IndexChange) and old is not None and writer.opened.info != old.info:
                raise ConfigError(f"{out}: another process has changed this index meanwhile; run the command again")
            if to_shard is not None and asked.features is None:
                scratch = scratch_of(out)
                scratch.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(scratch, out))
        if to_shard is not None:
            _add_shards(writer, to_shard, reader, backbone, recipe, asked, made, reporter, old)
        elif writer is not None and pairs is not None:
            data = pairs.data(located_pairs(str(asked.features)).absolute())
            _add_images(writer, reader, data, backbone, recipe, made, reporter, before)
            made.encoded, made.query = 0, pairs.captions[0]
        elif writer is not None and holds == IMAGES:
            whole = isinstance(backbone, HeadBackbone)  # it looks at samples whole
            data = reader.read(images) if whole else reader.to_index(images)
            _add_images(writer, reader, data, backbone, recipe, made, reporter, before)
        elif writer is not None:
            _add_texts(writer, Path(str(asked.texts)), backbone, made, reporter, before)
        made_of, entries = [str(path) for path in (images or [asked.texts or asked.features])], holds.removesuffix("s")
        if isinstance(writer, IndexBuilder):
            reporter.info(f"Building the index of {plural(made.added, entries)}")
            how = reader.facts(backbone) if holds == IMAGES else {}
            writer.finish(_facts(recipe, backbone, fast, made, how, made_of))
        elif writer is not None:
            reporter.info(f"Adding {plural(made.added, entries)} to the index")
            writer.append(made_of, made.skipped)
        if scratch is not None:
            shutil.rmtree(scratch, ignore_errors=True)
    if is_main():
        opened = RetrievalIndex.open(out)
        made.entries, made.segments = len(opened), len(opened.segments)
    made.seconds = round(time.monotonic() - started, 3)
    return made


def _reader(recipe: Recipe, domain, old: RetrievalIndex | None) -> ImageReader:
    """What reads images, as those of the index that is added to were read."""
    if old is not None:
        return old.reader(domain, recipe.reading)
    return ImageReader.of(domain or recipe.domain, recipe.task, recipe.reading)


def _towers(recipe: Recipe, reader: ImageReader, fast: bool, old: RetrievalIndex | None) -> Backbone:
    """The backbone by which is searched, the one of the index that is added to."""
    from .shard_rows import check_photographs

    if fast and reader.domain is not None:
        check_photographs(reader.domain)
    towers = load_backbone(recipe.backbone, recipe.device, recipe.image_size, reader.channels)
    if fast:
        towers.decode_fast()
    backbone = searched(towers)
    backbone.check_channels("`vladapt index`")
    if old is not None:
        old.check_backbone(backbone)
        old.check_transform(reader, backbone)
    return backbone


def _as_indexed(recipe: Recipe, old: RetrievalIndex, holds: str, asked: IndexOptions) -> Recipe:
    """The recipe of what is added: what it does not say is as in the index.

    Raises:
        ConfigError: it says something else.
    """
    info, reading = old.info, old.info.reading
    if holds != info.holds:
        raise ConfigError(f"--add: {old.path} holds {info.holds}, not {holds}; make another index of these")
    if asked.fast_decode and not info.backbone.get(FAST):
        raise ConfigError(f"--fast-decode: {old.path} was made without it; omit it, or make a new index")
    for flag, value, own in (
        ("--kind", asked.kind, info.kind),
        ("--domain", recipe.domain, reading.get("domain")),
        ("--task", recipe.task, reading.get("task")),
    ):
        if value and value != own:
            raise ConfigError(f"{flag} {value}: {old.path} was made with {own or 'none'}; omit it, or make a new index")
    if recipe.gave("backbone"):
        return recipe
    return recipe.with_(backbone=info.backbone.spec, image_size=info.backbone.image_size)


def _facts(
    recipe: Recipe, backbone: Backbone, fast: bool, made: Indexed, how: dict[str, Any], made_of: list[str]
) -> dict[str, Any]:
    return {
        "created": now(),
        "holds": made.holds,
        "backbone": {
            "spec": backbone.spec,
            "fingerprint": backbone.fingerprint,
            "licence": backbone.licence,
            "image_size": recipe.image_size,
            **({FAST: True} if fast else {}),
        },
        "made_of": made_of,
        "reading": how,
        "amp": recipe.amp,
        "skipped": made.skipped,
        "versions": versions(),
    }


def _add_shards(
    writer: Writer | None,
    to_shard: ImagesToShard,
    reader: ImageReader,
    backbone: Backbone,
    recipe: Recipe,
    asked: IndexOptions,
    made: Indexed,
    reporter: Reporter,
    old: RetrievalIndex | None,
) -> None:
    """Embed images as shard tasks, and write segments as such.

    Args:
        old: the index that is added to, or None.
    """
    from .index_shards import shard_features, write_segments

    if old is not None and old.segments[0].has_parts:
        raise DataError(f"{old.path}: was made by another method than what is added, which has no features of parts")
    before, quantiser = old if asked.only_new else None, {} if old is None else old.info.quantiser
    if before is not None and to_shard.data is not None:
        data, made.already_there = _only_new(to_shard.data, reader, before)
        to_shard = replace(to_shard, data=data)
    features = shard_features(recipe, made.index, to_shard, asked, reader, backbone, reporter)
    path, file = None if before is None else before.path, quantiser.get("file", "")
    segments = None if writer is None else writer.segments
    there = write_segments(segments, features, made.kind, asked, reporter, path, file)
    made.already_there, made.added = made.already_there + there, len(features.shards) - there
    made.skipped, made.encoded, made.from_store = features.skipped, features.encoded, features.before


def _only_new(data: DomainData, reader: ImageReader, before: RetrievalIndex) -> tuple[DomainData, int]:
    """The images that an index does not have, and how many it has."""
    entries = [Entry.of(reader.part_item(item, 0) or item) for item in data.items]
    there = before.already_there(entries)
    new = [item for item, entry in zip(data.items, entries) if entry.key not in there]
    return data.with_items(new), len(data.items) - len(new)


def _add_images(
    writer: Writer,
    reader: ImageReader,
    data: DomainData,
    backbone: Backbone,
    recipe: Recipe,
    made: Indexed,
    reporter: Reporter,
    before: RetrievalIndex | None,
) -> None:
    """Args:
    data: the images, or rows of features in their place, which are stored nowhere else.
    before: the index whose images are left out, or None.
    """
    head = backbone.head if isinstance(backbone, HeadBackbone) else None
    tolerate = recipe.tolerate if recipe.gave("tolerate") else 1.0
    data = replace(data, skipped=[(str(name), reason) for name, reason in data.skipped], tolerate=tolerate)
    made.skipped += data.skipped
    check_tolerated(data)
    named = data  # what the index has already was read
    if before is not None:
        data, made.already_there = _only_new(data, reader if head is None else ImageReader(), before)
    transform = reader.transform(backbone, data)
    parts = head is not None or (bool(data.items) and reader.part_item(data.items[0], 0) is not None)
    how: dict[str, Any] = {
        "at_once": PARTED_AT_ONCE if parts else AT_ONCE,
        "batch_size": recipe.batch_size,
        "workers": recipe.workers,
        "amp": recipe.amp,
        "parts": parts,
    }
    alone = None if world_size() == 1 else torch.get_num_threads()
    keep = data.has_images and (head is None or backbone.frozen)
    store, towers = FeatureStore(keep=keep, alone=alone), towers_in(backbone)
    with reporter.task("Encoding images") as progress:
        for extraction in store.some_at_once(data, data.items, towers, transform, progress=progress, **how):
            made.skipped += extraction.skipped
            check_tolerated(named, made.skipped)
            made.encoded, made.from_store = made.encoded + extraction.computed, made.from_store + extraction.cached
            rows, items, of_parts = _rows(extraction, reader) if head is None else _rows_by_head(extraction, head)
            made.added += len(items)
            if items:
                writer.add(rows.numpy(), [Entry.of(item) for item in items], of_parts)


def _rows_by_head(extraction: Extraction, head: PairHead) -> tuple[Tensor, list[Item], list[np.ndarray]]:
    """(M, E) unit rows, the samples, and features of their parts, where these are ranked again by these."""
    features = extraction.features.with_parts()
    rows = head.sample_vectors(features.parts, features.parts_mask)
    each = zip(features.parts, features.parts_mask) if head.pairwise else ()
    return rows, extraction.items, [parts[mask].numpy() for parts, mask in each]


def _rows(extraction: Extraction, reader: ImageReader) -> tuple[Tensor, list[Item], list[np.ndarray]]:
    """(M, D) unit rows, and what each is of: a sample, or one of its parts where these are found by themselves."""
    features = extraction.features
    if features.parts is None:
        return features.unit, extraction.items, []
    rows: list[Tensor] = []
    of_rows: list[Item] = []
    for place, item in enumerate(extraction.items):
        of_parts = features.parts[place, features.parts_mask[place]]  # (T, D)
        named = [reader.part_item(item, part) for part in range(len(of_parts))]
        items = [each for each in named if each is not None]
        whole = len(items) < len(named)
        rows.append(features.unit[place : place + 1] if whole else F.normalize(of_parts, dim=-1))
        of_rows += [item] if whole else items
    return torch.cat(rows), of_rows, []


def _add_texts(
    writer: Writer,
    file: Path,
    backbone: Backbone,
    made: Indexed,
    reporter: Reporter,
    before: RetrievalIndex | None,
) -> None:
    store, total, done = FeatureStore(), sum(map(len, numbered_lines(file))), 0
    if not total:
        raise DataError(f"--texts {file}: empty; write one text per line")
    of_file = f"{file.name} " if isinstance(writer, IndexChange) else ""  # lines of several files are told apart
    there: set[tuple[str, str]] = set()
    if before is not None:
        there = before.already_there(Entry("", captions=(text,)) for lines in numbered_lines(file) for _, text in lines)
    with reporter.task("Encoding texts", unit="texts") as progress:
        for lines in numbered_lines(file):
            entries = [Entry(f"{of_file}line {number}", captions=(text,)) for number, text in lines]
            new = [entry for entry in entries if entry.key not in there]
            made.added, made.already_there = made.added + len(new), made.already_there + len(entries) - len(new)
            done += len(lines)
            if new:
                texts = [entry.captions[0] for entry in new]
                of_texts = (
                    backbone.encode_text(texts).cpu() if backbone.of_parts else store.text_features(backbone, texts)
                )
                writer.add(F.normalize(of_texts, dim=-1).numpy(), new)
            progress(done, total)


def numbered_lines(file: Path, flag: str = "--texts", at_once: int = AT_ONCE) -> Iterator[list[tuple[int, str]]]:
    """(line number, text) of the lines that are not blank, some at a time.

    Args:
        flag: that names the file, for messages.

    Raises:
        DataError: the file cannot be read.
    """
    some: list[tuple[int, str]] = []
    try:
        for number, line in enumerate(text_lines(file, "write one text per line"), start=1):
            if line.strip():
                some.append((number, line.strip()))
            if len(some) == at_once:
                yield some
                some = []
    except DataError as error:
        raise DataError(f"{flag} {error}") from error
    if some:
        yield some
