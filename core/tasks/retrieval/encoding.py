"""Images and captions of pairs through both towers, each image and each distinct text once."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...backbones.heads import HeadBackbone
from ...contracts.adapter import Adapter
from ...contracts.backbone import Backbone
from ...contracts.items import Decoded, DomainData, Item
from ...contracts.options import TOLERATED
from ...contracts.pair_head import PairParts
from ...data.verify import check_skipped
from ...errors import DataError
from ...features.extract import (
    AMP,
    CPU_SIZES,
    GPU_SIZES,
    BatchSizeTuner,
    DecodeJob,
    UnreadableKeys,
    averaged,
    check_amp,
    extract,
    in_eval_mode,
    plain_encoder,
)
from ...features.store import Extraction, FeatureStore
from ...retrieval.image_reader import pair_item
from ...runtime.distributed import all_gather_json, all_gather_rows, rank, run_on_all, world_size
from ...runtime.progress import Reporter

TEXTS_AT_ONCE = 256
SAMPLES_AT_ONCE = 256
"""Whose parts are held at a time."""


class Pairs(Protocol):
    """What is evaluated: a PairSet, or anything like it."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int) -> Any:
        """A Pair; of it `id`, `source`, `captions` and `image` are used. Rows of one image are one image."""

    def load_image(self, row: int) -> Decoded:
        """Its pixels; raises DataError where they cannot be read."""


@dataclass(frozen=True)
class PairScores:
    """Similarities of N images and M texts, each pair of which was looked at together. They lie on disk.

    Args:
        table: (N', U) of all images with the distinct texts.
        images: (N,) int64 rows of those that could be read.
        texts: (M,) int64 columns.
    """

    table: Tensor
    images: Tensor
    texts: Tensor

    @staticmethod
    def empty_table(rows: int, columns: int) -> Tensor:
        """(rows, columns) float32 in a file that goes with the last who uses it."""
        with tempfile.TemporaryFile() as file:
            return torch.from_numpy(np.memmap(file, np.float32, "w+", shape=(rows, columns)))

    def of_images(self, places: Tensor) -> Tensor:
        """(n,) of N -> (n, M)."""
        return self.table[self.images[places]][:, self.texts]

    def of_texts(self, places: Tensor) -> Tensor:
        """(m,) of M -> (m, N)."""
        return self.table.index_select(1, self.texts[places])[self.images].T.contiguous()


@dataclass
class EncodedPairs:
    """Features of the images that could be read, and of their captions.

    Attributes:
        images: (N, D) unit, on the CPU.
        texts: (M, D) unit; equal texts have equal rows.
        image_of_text: (M,) int64.
        ids: N.
        labels: (N,) int64 where every image has a class, else None.
        groups: N keys of images that belong together, None where an image belongs to none.
        captions: M, the texts.
        skipped: (id, reason) of images left out, with their captions.
        scores: of a head that looks at an image and a text together; None where products of features are similarities.
    """

    images: Tensor
    texts: Tensor
    image_of_text: Tensor
    ids: tuple[str, ...]
    labels: Tensor | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    groups: tuple[str | None, ...] = ()
    captions: tuple[str, ...] = ()
    scores: PairScores | None = None

    def part(self, chosen: Sequence[bool]) -> EncodedPairs:
        """Some of the images, N flags, with their texts."""
        of_images = torch.tensor(chosen)
        of_texts = of_images[self.image_of_text]
        rows, columns = of_images.nonzero().flatten(), of_texts.nonzero().flatten()
        place, scores = of_images.cumsum(dim=0) - 1, self.scores
        if scores is not None:
            scores = replace(scores, images=scores.images[rows], texts=scores.texts[columns])
        return EncodedPairs(
            images=self.images[rows],
            texts=self.texts[columns],
            image_of_text=place[self.image_of_text[columns]],
            ids=tuple(self.ids[row] for row in rows.tolist()),
            labels=None if self.labels is None else self.labels[rows],
            skipped=self.skipped,
            groups=tuple(self.groups[row] for row in rows.tolist()),
            captions=tuple(self.captions[column] for column in columns.tolist()),
            scores=scores,
        )


@dataclass(frozen=True)
class PairEncoding:
    """How the towers are run; see `evaluate_retrieval`."""

    transform: Callable[[Decoded], Tensor]
    batch_size: int | None
    workers: int | None
    amp: str | None
    reporter: Reporter
    store: FeatureStore | None
    tolerate: float = TOLERATED

    def image_rows(self, backbone: Backbone, pairs: Pairs) -> tuple[Tensor, list[int], list[tuple[str, str]]]:
        """The distinct images of pairs through the image tower, captions or none; under torchrun split by rank.
        The store is not used.

        Returns:
            (n, D) features, not brought to length 1, on the CPU; which of the distinct images they are of; and (id,
            reason) of those that cannot be read.

        Raises:
            DataError: too many images cannot be read. ConfigError: an unknown amp.
        """
        check_amp(self.amp)
        listed = distinct_images(pairs)
        with _frozen(backbone):
            rows, failed = _encoded_images(backbone, pairs, listed, self)
        skipped = [(listed[place][1].id, reason) for place, reason in sorted(failed.items())]
        check_skipped(skipped, len(listed), self.tolerate)
        readable = [place for place in range(len(listed)) if place not in failed]
        return rows[readable], readable, skipped


def features_of(backbone: Backbone, pairs: Pairs, options: PairEncoding) -> EncodedPairs:
    """Both sides of the pairs. Towers are in eval mode meanwhile; under torchrun the work is split by rank.

    Raises:
        DataError: no pairs, no captions, or too many images cannot be read. ConfigError: an unknown amp.
    """
    check_amp(options.amp)
    listed, table = distinct_images(pairs), None
    distinct = {text: place for place, text in enumerate(dict.fromkeys(t for _, pair in listed for t in pair.captions))}
    if isinstance(backbone, HeadBackbone):
        images, table, skipped = _images_by_head(backbone, pairs, listed, list(distinct), options)
    elif options.store is not None:
        images, skipped = _stored_images(backbone, pairs, listed, options)
    else:
        with _frozen(backbone):
            images, skipped = _encoded_images(backbone, pairs, listed, options)
            images = F.normalize(images, dim=-1)
    ids = [pair.id for _, pair in listed]
    reasons = [(ids[place], reason) for place, reason in sorted(skipped.items())]
    check_skipped(reasons, len(ids), options.tolerate)
    readable = [place for place in range(len(ids)) if place not in skipped]
    captions = [(new, text) for new, place in enumerate(readable) for text in listed[place][1].captions]
    if not captions:
        raise DataError("no image has a caption, so there is nothing to retrieve; give captions")
    columns = torch.tensor([distinct[text] for _, text in captions])
    return EncodedPairs(
        images=images[readable],
        texts=_text_rows(backbone, [text for _, text in captions], options),
        image_of_text=torch.tensor([image for image, _ in captions]),
        ids=tuple(ids[place] for place in readable),
        labels=_labels([listed[place][1] for place in readable]),
        skipped=reasons,
        groups=tuple(getattr(listed[place][1], "group", None) for place in readable),
        captions=tuple(text for _, text in captions),
        scores=None if table is None else PairScores(table, torch.tensor(readable), columns),
    )


def parts_of_pairs(adapter: Adapter, backbone: Backbone, pairs: Pairs, options: PairEncoding) -> PairParts:
    """Features of the parts of the distinct images of pairs, by the store.

    Args:
        adapter: that asks for them.

    Raises:
        CapabilityError: images have no parts. DataError: over 5 % of the images cannot be read.
    """
    listed = distinct_images(pairs)
    extraction = _stored(backbone, pairs, listed, options, parts=True)
    check_skipped(extraction.skipped, len(listed), options.tolerate)
    adapter.check_parts(extraction.features)
    features, row_of = extraction.features.with_parts(), {item.id: row for row, item in enumerate(extraction.items)}
    image_of = {pair.id: pair.image for _, pair in listed}
    return PairParts(
        features.parts, features.parts_mask, {image_of[name]: row for name, row in row_of.items()}, extraction.skipped
    )


def _labels(pairs: list[Any]) -> Tensor | None:
    labels = [getattr(pair, "label", None) for pair in pairs]
    return None if any(label is None for label in labels) else torch.tensor(labels)


def distinct_images(pairs: Pairs) -> list[tuple[int, Any]]:
    """(row, pair) of the first row of each image."""
    first_of: dict[int, tuple[int, Any]] = {}
    for row in range(len(pairs)):
        pair = pairs[row]
        first_of.setdefault(pair.image, (row, pair))
    return list(first_of.values())


def _encoded_images(backbone: Backbone, pairs: Pairs, listed, options: PairEncoding) -> tuple[Tensor, dict[int, str]]:
    """(N, D) rows, not brought to length 1, and place -> why an image could not be read; its row is zero."""
    of_rank = list(range(rank(), len(listed), world_size()))
    jobs = [DecodeJob(pair_item(listed[place][1]), (place.to_bytes(8, "big"),), (None,)) for place in of_rank]
    tuner = BatchSizeTuner(options.batch_size, CPU_SIZES if backbone.device.type == "cpu" else GPU_SIZES)

    def render(job: DecodeJob) -> list[Tensor]:
        return [options.transform(pairs.load_image(listed[_place(job.keys[0])][0]))]

    def on_this_rank() -> tuple[Tensor, dict[int, str]]:
        rows, failed, done = torch.zeros(len(of_rank), backbone.embed_dim), {}, 0
        encode, pin = plain_encoder(backbone, options.amp), backbone.device.type == "cuda"
        with (
            options.reporter.task("Encoding images") as progress,
            closing(extract(jobs, render, encode, tuner, options.workers, pin)) as results,
        ):
            for result in averaged(results):
                places = [_place(key) for key in result.keys]
                if isinstance(result, UnreadableKeys):
                    failed.update(dict.fromkeys(places, result.reason))
                else:
                    rows[[place // world_size() for place in places]] = torch.from_numpy(result.rows)
                done += len(places)
                progress(done, len(of_rank))
        return rows, failed

    rows, failed = run_on_all(on_this_rank)
    reasons = {place: reason for failures in all_gather_json(list(failed.items())) for place, reason in failures}
    return _from_all_ranks(rows, len(listed)), reasons


def _stored_images(backbone: Backbone, pairs: Pairs, listed, options: PairEncoding) -> tuple[Tensor, dict[int, str]]:
    """The same by the feature store."""
    place_of = {pair.id: place for place, (_, pair) in enumerate(listed)}
    extraction = _stored(backbone, pairs, listed, options)
    rows = torch.zeros(len(listed), backbone.embed_dim)
    rows[[place_of[item.id] for item in extraction.items]] = extraction.features.unit
    return rows, {place_of[name]: reason for name, reason in extraction.skipped}


def _stored(backbone: Backbone, pairs: Pairs, listed, options: PairEncoding, parts: bool = False) -> Extraction:
    """What the feature store gives of some distinct images."""
    row_of = {pair.id: row for row, pair in listed}
    items = [pair_item(pair) for _, pair in listed]
    items = [item if item.source.is_file() else _with_digest(item, pairs, row) for item, (row, _) in zip(items, listed)]
    data = DomainData(items, (), lambda item: pairs.load_image(row_of[item.id]), kind="captions")
    store = options.store or FeatureStore()
    how = {"batch_size": options.batch_size, "workers": options.workers, "amp": options.amp, "parts": parts}
    with options.reporter.task("Encoding images") as progress:
        return store.get_or_compute(data, items, backbone, options.transform, progress=progress, **how)


def _images_by_head(
    backbone: HeadBackbone, pairs: Pairs, listed, texts: list[str], options: PairEncoding
) -> tuple[Tensor, Tensor | None, dict[int, str]]:
    """As `_encoded_images` by the vectors of a head, some images at a time; and its scores with all texts (N, U), where
    it looks at an image and a text together."""
    head, base, failed = backbone.head, backbone.base, {}
    vectors = torch.zeros(len(listed), backbone.embed_dim)
    table = PairScores.empty_table(len(listed), len(texts)) if head.pairwise and texts else None
    options = replace(options, store=options.store if backbone.frozen else FeatureStore(keep=False))
    for start in range(0, len(listed), SAMPLES_AT_ONCE):
        some = listed[start : start + SAMPLES_AT_ONCE]
        place_of = {pair.id: start + place for place, (_, pair) in enumerate(some)}
        extraction = _stored(base, pairs, some, options, parts=True)
        failed.update({place_of[name]: reason for name, reason in extraction.skipped})
        if not extraction.items:
            continue
        places, features = [place_of[item.id] for item in extraction.items], extraction.features.with_parts()
        vectors[places] = head.sample_vectors(features.parts, features.parts_mask)
        if table is not None:
            table[places] = head.pair_scores(base, features.parts, features.parts_mask, texts)
    return vectors, table, failed


def _text_rows(backbone: Backbone, texts: list[str], options: PairEncoding) -> Tensor:
    """(M, D) unit rows. Equal texts share one: encoded in two batches they might differ in the last bit."""
    distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    if options.store is not None and not isinstance(backbone, HeadBackbone):
        rows = options.store.text_features(backbone, list(distinct))
    else:
        with _frozen(backbone):
            rows = _encoded_texts(backbone, list(distinct), options)
    return F.normalize(rows, dim=-1)[[distinct[text] for text in texts]]


def encoded_texts(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """(N, D) unit rows on the CPU, of texts that are no captions; every rank encodes all."""
    chunks = [texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE)]
    with _frozen(backbone):
        return torch.cat([backbone.encode_text(some).float().cpu() for some in chunks])


def _encoded_texts(backbone: Backbone, texts: list[str], options: PairEncoding) -> Tensor:
    of_rank = texts[rank() :: world_size()]

    def on_this_rank() -> Tensor:
        parts = [torch.zeros(0, backbone.embed_dim)]
        with options.reporter.task("Encoding texts", unit="texts") as progress:
            for start in range(0, len(of_rank), TEXTS_AT_ONCE):
                some = of_rank[start : start + TEXTS_AT_ONCE]
                with torch.autocast(backbone.device.type, dtype=AMP[options.amp], enabled=options.amp is not None):
                    parts.append(backbone.encode_text(some, normalize=False).float().cpu())
                progress(start + len(some), len(of_rank))
        return torch.cat(parts)

    return _from_all_ranks(run_on_all(on_this_rank), len(texts))


def _from_all_ranks(rows: Tensor, total: int) -> Tensor:
    """(n, D) of each rank, which has every world-th row of the whole -> (total, D)."""
    if world_size() == 1:
        return rows
    order = torch.cat([torch.arange(start, total, world_size()) for start in range(world_size())])
    whole = torch.empty(total, rows.shape[1])
    whole[order] = all_gather_rows(rows)
    return whole


def _with_digest(item: Item, pairs: Any, row: int) -> Item:
    """An image that is not a file (a drawing) is known by its pixels; one that is missing stays so, and is listed."""
    try:
        pixels = pairs.load_image(row)
    except DataError:
        return item  # the store meets it again, and says why it cannot be used
    return item.with_(decode={"digest": hashlib.sha256(pixels.tobytes()).hexdigest()})


@contextmanager
def _frozen(backbone: Backbone) -> Iterator[None]:
    """No gradients, eval mode. Not inference mode: what a tower keeps of a pass must serve it when it trains on."""
    with torch.inference_mode(False), torch.no_grad(), in_eval_mode(backbone.model):
        yield


def _place(key: bytes) -> int:
    return int.from_bytes(key, "big")
