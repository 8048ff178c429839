"""`embed --as parquet`: features as shards, for sets that no single file and no single machine holds.

A row of a shard is an image: its id, a list of numbers per encoder, and the hash of the encoder. Images of tars,
Parquet files, URLs and plain folders are read as they come; those of a domain with files of its own, and labelled sets,
as the domain reads them, which each worker then does for itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ..backbones.finders import searched
from ..backbones.load import load_backbone
from ..contracts.backbone import Backbone
from ..contracts.domain import Domain
from ..contracts.families import OFFERED
from ..contracts.features import PROJECTED
from ..contracts.images import CropTransform
from ..contracts.items import DomainData, Item
from ..contracts.recipe import Recipe
from ..contracts.task import Task
from ..curation.stored import ENCODER_SPEC
from ..errors import CapabilityError, ConfigError
from ..features.extract import BatchSizeTuner, DecodeJob, Encoded, averaged, encoder, extract
from ..features.on_cores import OnCores
from ..features.table import transform_spec, view_seed
from ..recipes.resolve import task_on_images
from ..retrieval import Entry, ImageReader
from ..retrieval.sharded import ENTRY, entry_line
from ..runtime.progress import Reporter
from ..shards import Manifest, ShardPlace, Stage, Summary, Unreadable
from ..shards.place import STATE
from ..shards.sources import ShardRow
from ..tasks.classification.task import prepared_images
from .options import EmbedOptions
from .shard_jobs import BATCH, job_of, manifest_of, place_of_shards, run_job
from .shard_rows import RowReader, check_photographs, domain_of, images_listed, is_read_by, manifest_of_items

if TYPE_CHECKING:
    import pyarrow

CLASSES = f"{STATE}/classes.safetensors"
"""Of a labelled set: names and text features of its classes."""


@dataclass(frozen=True)
class ShardEncoder:
    """One backbone, as the plan names it.

    Args:
        spec: how it is loaded.
        fingerprint: its hash.
        width: D.
        suffix: of its columns, "" where there is one encoder.
    """

    spec: str
    fingerprint: str
    width: int
    suffix: str = ""


@dataclass(frozen=True)
class EmbedStage(Stage):
    """Images, and the texts that they come with, through one or more backbones in one pass.

    Args:
        recipe: domain, task, reading, device, precision and image size.
        encoders: which.
        transforms: how each looks at an image, as text.
        captions: whether texts are encoded.
        images: whether there are images.
        dtype: "float16" or "float32".
        labels: type of the column of labels, "" where there are none.
        listed: paths or, for the recipe's own data, nothing, that a domain reads in files of its own; None where
            images are read as they come.
        classes: digest of the names and text features of the classes, "" where there are none.
        index: how an index reads its images: each row then says what it is of (`ENTRY`); None without an index.
        fast_decode: whether the decoder may reduce photographs.
        view: number of the augmented view that is encoded in place of the image; None: the image.
    """

    recipe: Recipe
    encoders: tuple[ShardEncoder, ...]
    transforms: tuple[str, ...]
    captions: bool = False
    images: bool = True
    dtype: str = "float16"
    labels: str = ""
    listed: tuple[str, ...] | None = None
    classes: str = ""
    index: ImageReader | None = None
    fast_decode: bool = False
    view: int | None = None
    name: str = field(default="embed", init=False)

    @property
    def settings(self) -> Mapping[str, Any]:
        reader = self.index
        how: dict[str, Any] = {
            "domain": self.recipe.domain,
            "task": self.recipe.task,
            "reading": dict(self.recipe.reading),
        }
        if reader is not None:
            domain = None if reader.domain is None else reader.domain.name
            how = {"domain": domain, "task": reader.task, "reading": dict(reader.options), ENTRY: True}
        return {
            **how,
            "encoders": [[each.fingerprint, each.suffix] for each in self.encoders],
            "transforms": list(self.transforms) if self.images else [],
            "amp": self.recipe.amp,
            "images": self.images,
            "captions": self.captions,
            "dtype": self.dtype,
            "labels": self.labels,
            "classes": self.classes,
            **({} if self.view is None else {"view": self.view}),
        }

    @property
    def columns(self) -> tuple[str, ...]:
        if self.listed is None:
            return ()
        return ("decode", *((ENTRY,) if self.index else ()), *(("labels", "split", "groups") if self.labels else ()))

    @property
    def schema(self) -> pyarrow.Schema:
        import pyarrow as pa

        numbers = pa.list_(pa.float16() if self.dtype == "float16" else pa.float32())
        fields = [pa.field("id", pa.string())]
        for each in self.encoders:
            kinds = ["image_features"] * self.images + ["caption_features"] * self.captions
            fields += [pa.field(f"{kind}{each.suffix}", numbers) for kind in kinds]
            spec = {ENCODER_SPEC: each.spec.encode()}
            fields.append(pa.field(f"encoder{each.suffix}", pa.string(), metadata=spec))
        if self.index is not None:
            fields.append(pa.field(ENTRY, pa.string()))
        if self.labels:
            kind = pa.list_(pa.float32()) if self.labels == "several" else pa.int64()
            fields += [pa.field("labels", kind), pa.field("split", pa.string()), pa.field("groups", pa.string())]
        return pa.schema(fields)

    def start(self, threads: int | None) -> _Towers:
        task = task_on_images(self.recipe)
        backbones = [loaded(each.spec, self.recipe, domain_of(task), self.fast_decode) for each in self.encoders]
        backbones = backbones if self.index is None else list(map(searched, backbones))
        for each, backbone in zip(self.encoders, backbones):
            if backbone.fingerprint != each.fingerprint:
                raise ConfigError(f"backbone {each.spec}: has changed since the plan was made; start again")
        return _Towers(self, task, backbones, threads)

    def run(self, state: _Towers, rows: Iterator[ShardRow], batch_size: int) -> Iterator[Any]:
        return state.images(rows, batch_size) if self.images else state.texts(rows, batch_size)


class _Towers:
    """What a worker holds: the models, and how an image becomes pixels for each."""

    def __init__(self, stage: EmbedStage, task: Task, backbones: list[Backbone], threads: int | None):
        self.stage, self.backbones, self.threads = stage, backbones, threads
        data = _listed(stage, task) if stage.listed is not None else None
        domain = domain_of(task, data)
        self.transforms: list[Any]
        if stage.index is None:
            augmented = stage.view is not None
            self.transforms = [_transform(domain, backbone, augmented, task.name) for backbone in backbones]
        else:
            self.transforms = [stage.index.transform(backbone, data) for backbone in backbones]
        self.encoders = [self._on_cores(encoder(each, PROJECTED, stage.recipe.amp), each) for each in backbones]
        self.readers = [self._on_cores(_reader(each), each) for each in backbones]
        self.reader = RowReader(domain, stage.recipe.reading, data, backbones[0].least_side)

    def _on_cores(self, encode: Callable[[Any], Tensor], backbone: Backbone) -> Callable[[Any], Tensor]:
        """The same numbers from any number of cores."""
        if backbone.device.type != "cpu":
            return encode
        _ = backbone.model  # built once, before several threads ask for it
        return OnCores(encode, self.threads or torch.get_num_threads())

    def images(self, rows: Iterator[ShardRow], batch_size: int) -> Iterator[Any]:
        held: dict[bytes, ShardRow] = {}
        pixels: dict[bytes, list[Tensor]] = {}  # what the further backbones see of an image under way

        def jobs() -> Iterator[DecodeJob]:
            for number, row in enumerate(rows):
                key = number.to_bytes(8, "big")
                held[key] = row
                yield DecodeJob(Item(row.id, Path(row.path)), (key,), (None,))

        def render(job: DecodeJob) -> list[Tensor]:
            row, view = held[job.keys[0]], self.stage.view
            decoded = self.reader.load(row)
            drawn = {} if view is None else {"seed": view_seed(0, row.id, view)}
            first, *further = [transform(decoded, **drawn) for transform in self.transforms]
            if further:
                pixels[job.keys[0]] = further
            return [first]

        tuner = BatchSizeTuner(batch_size)
        pin = self.backbones[0].device.type == "cuda"
        results = extract(jobs(), render, self.encoders[0], tuner, self.threads, pin)
        with closing(results):
            for result in averaged(results):
                if isinstance(result, Encoded):
                    keys = result.keys
                    seen = [pixels.pop(key) for key in keys] if len(self.backbones) > 1 else []
                    features = [result.rows]
                    features += [
                        _encoded(encode, [each[place] for each in seen], batch_size)
                        for place, encode in enumerate(self.encoders[1:])
                    ]
                    yield from self._tables([held.pop(key) for key in keys], features)
                else:
                    for key in result.keys:
                        pixels.pop(key, None)
                        yield Unreadable(held.pop(key).id, result.reason)

    def texts(self, rows: Iterator[ShardRow], batch_size: int) -> Iterator[Any]:
        while batch := list(islice(rows, batch_size)):
            yield from self._tables(batch, [])

    def _tables(self, rows: list[ShardRow], features: list[np.ndarray]) -> Iterator[Any]:
        """A table of the rows whose numbers are all finite, and what is wrong with the others."""
        texts = [row.text or "" for row in rows]
        captions = [read(texts).cpu().numpy() for read in self.readers] if self.stage.captions else []
        with np.errstate(over="ignore"):  # what is too large for float16 is infinite in it
            features, captions = ([each.astype(self.stage.dtype) for each in some] for some in (features, captions))
        fine = np.ones(len(rows), bool)
        for numbers in (*features, *captions):
            fine &= np.isfinite(numbers).all(axis=1)
        if fine.any():
            yield self._table(rows, features, captions, fine)
        for row, good in zip(rows, fine):
            if not good:
                yield Unreadable(row.id, f"the backbone gives NaN or infinity for it, as {self.stage.dtype}")

    def _table(self, rows: list[ShardRow], features: list, captions: list, fine: np.ndarray) -> pyarrow.Table:
        import pyarrow as pa

        stage, rows = self.stage, [row for row, good in zip(rows, fine) if good]
        made: dict[str, Any] = {"id": [row.id for row in rows]}
        for place, each in enumerate(stage.encoders):
            if stage.images:
                made[f"image_features{each.suffix}"] = _lists(features[place][fine])
            if stage.captions:
                there = [row.text is not None for row in rows]
                made[f"caption_features{each.suffix}"] = _lists(captions[place][fine], there)
            made[f"encoder{each.suffix}"] = [each.fingerprint] * len(rows)
        if stage.index is not None:
            made[ENTRY] = [row.columns[ENTRY] if stage.listed is not None else entry_line(_entry(row)) for row in rows]
        if stage.labels:
            made |= {name: [row.columns[name] for row in rows] for name in ("split", "groups")}
            made["labels"] = [json.loads(row.columns["labels"]) for row in rows]
        return pa.table(made, stage.schema)


def _entry(row: ShardRow) -> Entry:
    """What an index says of an image: one in a tar or a table is known by its id."""
    return Entry(row.id, row.path or row.id, captions=() if row.text is None else (row.text,))


def _reader(backbone: Backbone) -> Callable[[Sequence[str]], Tensor]:
    """N texts -> (N, D), not normalised."""

    def read(texts: Sequence[str]) -> Tensor:
        with torch.inference_mode():
            return backbone.encode_text(list(texts), normalize=False).float()

    return read


def _encoded(encode: Callable[[Tensor], Tensor], pixels: list[Tensor], batch_size: int) -> np.ndarray:
    """(N, D) features of N images by a further backbone; of one with parts, (T, 3, S, S), their mean."""
    if all(each.ndim == 3 for each in pixels):
        return encode(torch.stack(pixels)).cpu().numpy()
    rows = []
    for each in pixels:
        parts = each[None] if each.ndim == 3 else each
        features = torch.cat([encode(some).cpu() for some in parts.split(batch_size)])
        rows.append(features.double().mean(dim=0).float().numpy())
    return np.stack(rows)


def _lists(rows: np.ndarray, there: Sequence[bool] | None = None) -> pyarrow.Array:
    import pyarrow as pa

    count, width = rows.shape
    mask = None if there is None or all(there) else pa.array([not each for each in there])
    offsets = pa.array(np.arange(0, (count + 1) * width, width, dtype=np.int32))
    return pa.ListArray.from_arrays(offsets, pa.array(rows.reshape(-1)), mask=mask)


def embed_shards(
    recipe: Recipe, out: str, images: Sequence[str | Path], asked: EmbedOptions, reporter: Reporter
) -> tuple[Summary, ShardPlace, EmbedStage, list[tuple[str, str]]]:
    """Write features as shards, under torchrun with the other ranks.

    Args:
        images: files, folders and URLs; none for the recipe's own data set.
        asked: options of `EmbedOptions`.

    Returns:
        What became of them, the folder, what was made, and (name, reason) of what was passed over in folders.

    Raises:
        DataError: nothing readable, more unreadable than are tolerated, or shards that could not be made.
        ConfigError, CapabilityError: what is asked for does not go together.
    """
    for name in ("parts", "patch_tokens"):
        if getattr(asked, name):
            raise ConfigError(f"--{name.replace('_', '-')}: is not written as parquet; omit it, or give a .safetensors")
    executor = asked.executor(recipe.device, reporter.info)
    place, task = place_of_shards(out), task_on_images(recipe)
    stage, manifest, classes = _planned(recipe, task, place, images, asked, reporter)
    if asked.is_elsewhere and any(each.spec in OFFERED for each in stage.encoders):
        raise CapabilityError("a backbone made of a module lives in this process; omit --processes and --engine")
    job = job_of(stage, manifest, place, asked, recipe.batch_size or BATCH, recipe.workers)
    if classes is not None:
        job.work.place.create(CLASSES, classes)
    summary = run_job(job, executor, recipe.tolerate, reporter, "Embedding")
    return summary, job.work.place, stage, list(manifest.skipped)


def _planned(
    recipe: Recipe, task: Task, place: ShardPlace, images: Sequence[str | Path], asked: EmbedOptions, reporter: Reporter
) -> tuple[EmbedStage, Manifest, bytes | None]:
    specs = [recipe.backbone] if os.path.exists(recipe.backbone) else recipe.backbone.split(",")
    if asked.fast_decode:
        check_photographs(domain_of(task))
        if len(specs) > 1:
            raise ConfigError("--fast-decode: images are reduced for one backbone; give one, or omit it")
    backbones = [loaded(spec.strip(), recipe, domain_of(task), asked.fast_decode) for spec in specs]
    for backbone in backbones:
        backbone.check_channels("`vladapt embed`")
        if backbone.of_parts:
            raise CapabilityError(
                f"backbone '{backbone.spec}' reads the parts of a sample together; give the backbone that it stands on"
            )
        if asked.captions and not backbone.has_text:
            raise CapabilityError(f"--captions: backbone '{backbone.spec}' reads no texts; omit --captions")
    encoders = _named(backbones)
    listed, labels, classes = None, "", None
    if images and not is_read_by(domain_of(task), images):
        manifest = manifest_of(images, place)
        data = None
    else:
        data, labels, classes = _data(recipe, task, images, backbones[0], reporter)
        listed = tuple(map(str, images))
        further = {"labels": lambda item: json.dumps(item.class_label())} if labels else {}
        manifest = manifest_of_items(data, place, further)
    domain = domain_of(task, data)
    augmented = asked.view is not None
    transforms = tuple(transform_spec(_transform(domain, backbone, augmented, task.name)) for backbone in backbones)
    with_images = any(source.has_images for source in manifest.sources)
    if not with_images and not asked.captions:
        raise ConfigError("no source has images; give --captions to encode texts")
    digest = hashlib.sha256(classes).hexdigest() if classes else ""
    stage = EmbedStage(
        recipe,
        encoders,
        transforms,
        asked.captions,
        with_images,
        asked.dtype,
        labels,
        listed,
        digest,
        fast_decode=asked.fast_decode,
        view=asked.view,
    )
    return stage, manifest, classes


def loaded(spec: str, recipe: Recipe, domain: Domain, fast_decode: bool) -> Backbone:
    backbone = load_backbone(spec, recipe.device, recipe.image_size, domain.channels(recipe.reading))
    if fast_decode:
        backbone.decode_fast()
    return backbone


def _transform(domain: Domain, backbone: Backbone, augmented: bool, task: str) -> Any:
    """How an image becomes pixels; augmented as `pretrain` does."""
    transform = domain.transforms(backbone, augmented, task)
    return CropTransform.unflipped(transform) if augmented else transform


def _named(backbones: list[Backbone]) -> tuple[ShardEncoder, ...]:
    if len({backbone.fingerprint for backbone in backbones}) < len(backbones):
        raise ConfigError("--backbone: the same model is given twice; give each once")
    suffixes = [""] * len(backbones)
    if len(backbones) > 1:
        words = ["_" + re.sub(r"\W+", "_", backbone.spec).strip("_").lower() for backbone in backbones]
        suffixes = [w if words.count(w) == 1 else f"{w}_{b.fingerprint[:8]}" for w, b in zip(words, backbones)]
    return tuple(ShardEncoder(b.spec, b.fingerprint, b.embed_dim, s) for b, s in zip(backbones, suffixes))


def _data(
    recipe: Recipe, task: Task, images: Sequence[str | Path], backbone: Backbone, reporter: Reporter
) -> tuple[DomainData, str, bytes | None]:
    """Samples; of a labelled set also the kind of their labels, and what is to be known of the classes."""
    if images:
        return images_listed(domain_of(task), images, recipe.reading), "", None
    prepared = prepared_images(recipe.with_(backbone=backbone.spec), reporter, task)
    items = prepared.data.items
    if not prepared.class_names or any(item.class_label() is None for item in items):
        return prepared.data, "", None
    classifier = prepared.classifier
    tensors = {"text_features": classifier.weights.cpu(), "logit_scale": torch.tensor(classifier.logit_scale)}
    names = {"class_names": json.dumps(list(classifier.class_names))}
    kind = "several" if prepared.data.kind == "multilabel" else "one"
    return prepared.data, kind, save({name: each.contiguous() for name, each in tensors.items()}, names)


def _listed(stage: EmbedStage, task: Task) -> DomainData:
    """The data again, in a worker, for what decodes them."""
    if stage.index is not None:
        return stage.index.to_index(stage.listed)
    if stage.listed:
        return images_listed(domain_of(task), stage.listed, stage.recipe.reading)
    from ..recipes.asked_for import read_data

    return read_data(stage.recipe, domain_of(task), task.name)
