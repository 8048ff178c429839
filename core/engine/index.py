"""`index`: images or texts through a backbone once, to be searched from disk.

Both go through the feature store, some thousands at a time: what was computed is kept if the work is stopped, a second
index of the same images runs no backbone, and memory does not grow with their number but for the index itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..backbones.finders import searched
from ..backbones.heads import HeadBackbone, towers_in
from ..backbones.load import load_backbone
from ..contracts.backbone import Backbone
from ..contracts.domain import Domain
from ..contracts.items import Item
from ..contracts.options import keywords, options_from
from ..contracts.pair_head import PairHead
from ..contracts.recipe import Recipe
from ..contracts.shown import in_short
from ..contracts.task import IMAGE_KEYS, refuse_unused
from ..data.verify import check_tolerated
from ..errors import ConfigError, DataError
from ..features.store import Extraction, FeatureStore
from ..retrieval.build import IndexBuilder
from ..retrieval.entries import Entry
from ..retrieval.image_reader import ImageReader
from ..runs.folder import now, versions
from ..runtime.distributed import is_main, together
from ..runtime.progress import Reporter
from ..runtime.reading import text_lines
from .options import IndexOptions

AT_ONCE, PARTED_AT_ONCE = 4096, 64
"""Images that are encoded before their rows are written, and samples of many parts."""
IMAGES, TEXTS = "images", "texts"


@dataclass
class Indexed:
    """What an index was made of.

    Attributes:
        index: its folder.
        holds: "images" or "texts".
        kind, dims, entries: of its rows.
        skipped: (id, reason) of what was left out.
        encoded, from_store: images the backbone ran on, and images whose features were there already.
    """

    __repr__ = in_short

    index: Path
    holds: str
    kind: str
    dims: int
    entries: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    encoded: int = 0
    from_store: int = 0
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
    """Write an index of images, or of the lines of a text file.

    Args:
        recipe: backbone, device, precision; the domain whose files the images are, where it names one.
        out: folder of the index. An index that is there already is replaced when the new one is whole.
        images: files and folders; or one file of image-text pairs, whose captions are shown with the images; or with a
            domain ["sample"], its own sample.
        backbone: in place of the recipe's: a spec, or `Backbone.from_module`.
        given: options of `IndexOptions`.
        domain: a domain of your own that is not installed as a plug-in.

    Raises:
        ConfigError: neither or both of images and texts, or no such kind. DataError: nothing readable, more
        unreadable than are tolerated, or `out` cannot be written. CapabilityError: faiss is not installed.
    """
    asked, recipe = options_from(IndexOptions, given, "index"), recipe.with_backbone(backbone)
    if bool(images) == (asked.texts is not None):
        raise ConfigError("give either images (files or folders) or --texts FILE; an index holds one kind")
    if asked.texts is not None and (recipe.domain or domain):
        raise ConfigError(f"--domain {recipe.domain}: says how images are read; omit it with --texts")
    refuse_unused(recipe, IMAGE_KEYS, lambda key: "index does not use it; omit it")
    reporter = reporter or Reporter(quiet=True)
    return together(lambda: _index(recipe, Path(out), list(images), asked, domain, reporter))


def _index(recipe: Recipe, out: Path, images: list, asked: IndexOptions, domain, reporter: Reporter) -> Indexed:
    started = time.monotonic()
    reader = ImageReader.of(domain or recipe.domain, recipe.task, recipe.reading) if images else ImageReader()
    backbone = searched(load_backbone(recipe.backbone, recipe.device, recipe.image_size, reader.channels))
    backbone.check_channels("`vladapt index`")
    made = Indexed(out, IMAGES if images else TEXTS, asked.kind, backbone.embed_dim)
    builder = IndexBuilder(out, dims=backbone.embed_dim, kind=asked.kind) if is_main() else None
    try:
        if images:
            how: dict[str, Any] = reader.facts(backbone)
            _add_images(builder, reader, images, backbone, recipe, made, reporter)
        else:
            how = {}
            _add_texts(builder, Path(asked.texts), backbone, made, reporter)
        if builder is not None:
            given = [str(path) for path in (images or [asked.texts])]
            reporter.info(f"Building the index of {made.entries:,} {made.holds}")
            builder.finish(_facts(recipe, backbone, made, how, given))
    finally:
        if builder is not None:
            builder.discard()
    made.seconds = round(time.monotonic() - started, 3)
    return made


def _facts(recipe: Recipe, backbone: Backbone, made: Indexed, how: dict[str, Any], given: list[str]) -> dict[str, Any]:
    return {
        "created": now(),
        "holds": made.holds,
        "backbone": {
            "spec": backbone.spec,
            "fingerprint": backbone.fingerprint,
            "licence": backbone.licence,
            "image_size": recipe.image_size,
        },
        "made_of": given,
        "reading": how,
        "amp": recipe.amp,
        "skipped": made.skipped,
        "versions": versions(),
    }


def _add_images(builder, reader: ImageReader, images, backbone: Backbone, recipe, made: Indexed, reporter) -> None:
    head = backbone.head if isinstance(backbone, HeadBackbone) else None
    data = reader.to_index(images) if head is None else reader.read(images)  # it looks at samples whole
    tolerate = recipe.tolerate if recipe.gave("tolerate") else 1.0
    data = replace(data, skipped=[(str(name), reason) for name, reason in data.skipped], tolerate=tolerate)
    made.skipped += data.skipped
    check_tolerated(data)
    transform = reader.transform(backbone, data)
    parts = head is not None or (bool(data.items) and reader.part_item(data.items[0], 0) is not None)
    how: dict[str, Any] = {
        "at_once": PARTED_AT_ONCE if parts else AT_ONCE,
        "batch_size": recipe.batch_size,
        "workers": recipe.workers,
        "amp": recipe.amp,
        "parts": parts,
    }
    store, towers = FeatureStore(keep=head is None or backbone.frozen), towers_in(backbone)
    with reporter.task("Encoding images") as progress:
        for extraction in store.some_at_once(data, data.items, towers, transform, progress=progress, **how):
            made.skipped += extraction.skipped
            check_tolerated(data, made.skipped)
            made.encoded, made.from_store = made.encoded + extraction.computed, made.from_store + extraction.cached
            rows, found, of_parts = _found(extraction, reader) if head is None else _found_by_head(extraction, head)
            made.entries += len(found)
            if builder is not None and found:
                builder.add(rows.numpy(), [Entry.of(item) for item in found], of_parts)


def _found_by_head(extraction: Extraction, head: PairHead) -> tuple[Tensor, list[Item], list[np.ndarray]]:
    """(M, E) unit rows, the samples, and features of their parts, where these are ranked again by these."""
    features = extraction.features.with_parts()
    rows = head.sample_vectors(features.parts, features.parts_mask)
    each = zip(features.parts, features.parts_mask) if head.pairwise else ()
    return rows, extraction.items, [parts[mask].numpy() for parts, mask in each]


def _found(extraction: Extraction, reader: ImageReader) -> tuple[Tensor, list[Item], list[np.ndarray]]:
    """(M, D) unit rows, and what each is of: a sample, or one of its parts where these are found by themselves."""
    features = extraction.features
    if features.parts is None:
        return features.unit, extraction.items, []
    rows, found = [], []
    for place, item in enumerate(extraction.items):
        of_parts = features.parts[place, features.parts_mask[place]]  # (T, D)
        items = [reader.part_item(item, part) for part in range(len(of_parts))]
        whole = None in items
        rows.append(features.unit[place : place + 1] if whole else F.normalize(of_parts, dim=-1))
        found += [item] if whole else items
    return torch.cat(rows), found, []


def _add_texts(builder, file: Path, backbone: Backbone, made: Indexed, reporter: Reporter) -> None:
    store, total = FeatureStore(), sum(map(len, _lines(file)))
    if not total:
        raise DataError(f"--texts {file}: empty; write one text per line")
    with reporter.task("Encoding texts", unit="texts") as progress:
        for lines in _lines(file):
            texts = [text for _, text in lines]
            made_of = backbone.encode_text(texts).cpu() if backbone.of_parts else store.text_features(backbone, texts)
            rows = F.normalize(made_of, dim=-1)
            made.entries += len(lines)
            if builder is not None:
                builder.add(rows.numpy(), [Entry(f"line {number}", captions=(text,)) for number, text in lines])
            progress(made.entries, total)


def _lines(file: Path) -> Iterator[list[tuple[int, str]]]:
    """(line number, text) of the lines that are not blank, some at a time."""
    some: list[tuple[int, str]] = []
    try:
        for number, line in enumerate(text_lines(file, "write one text per line"), start=1):
            if line.strip():
                some.append((number, line.strip()))
            if len(some) == AT_ONCE:
                yield some
                some = []
    except DataError as error:
        raise DataError(f"--texts {error}") from error
    if some:
        yield some
