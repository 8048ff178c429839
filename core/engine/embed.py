"""`embed`: features of a data set or of loose images, in the layout that `--features` reads."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine import Config
from safetensors.torch import save_file

from ..contracts.domain import DomainData
from ..contracts.errors import CapabilityError, ConfigError
from ..contracts.features import FeatureSet
from ..contracts.text import TextClassifier
from ..data.unlabelled import readable
from ..training.distributed import is_main
from .outputs import all_or_none
from .prepare import Prepared, named_domain, prepare
from .progress import Reporter
from .ranks import together
from .recipe import data_options

SUFFIXES = (".safetensors", ".npz")


@dataclass
class Embedded:
    """What was written: the file, how many images, how wide, what was left out."""

    file: Path
    images: int
    dim: int
    skipped: list[tuple[str, str]]
    encoded: int
    from_store: int


def embed(
    recipe: Config,
    out: str | Path,
    *,
    images: Sequence[str | Path] = (),
    parts: bool = False,
    reporter: Reporter | None = None,
) -> Embedded:
    """Write features of the recipe's data set (with labels, splits and text features), or of loose images.

    Args:
        recipe: data, domain and backbone.
        out: a .safetensors or .npz file.
        images: files or folders without labels; then the recipe's data is not read.
        parts: whether the features of each sample's parts (frames, slices, windows) are written too.

    Raises:
        ConfigError: another file ending. DataError: nothing readable. CapabilityError: no sample has parts.
    """
    out = Path(out)
    if out.suffix not in SUFFIXES:
        raise ConfigError(f"--out {out}: features are written as .safetensors or .npz")
    reporter = reporter or Reporter(quiet=True)
    return together(lambda: _embed(recipe, out, images, parts, reporter))


def _embed(recipe: Config, out: Path, images: Sequence[str | Path], parts: bool, reporter: Reporter) -> Embedded:
    prepared = _unlabelled(recipe, images, reporter) if images else prepare(recipe, reporter)
    features = prepared.features(prepared.data.items, "images", parts=parts)
    if parts and features.parts is None:
        raise CapabilityError("--parts: no sample here has parts (frames, slices, windows); omit --parts")
    by_id = {item.id: item for item in prepared.data.items}
    splits = [by_id[i].split for i in features.ids]
    classifier = None if images else prepared.classifier
    if is_main():
        _write(out, features, classifier, splits)
    skipped = [*prepared.data.skipped, *prepared.skipped]
    return Embedded(out, len(features), features.dim, skipped, prepared.counts.computed, prepared.counts.cached)


def _unlabelled(recipe: Config, images, reporter: Reporter) -> Prepared:
    from ..backbones.load import load_backbone
    from ..features.store import FeatureStore

    domain = named_domain(recipe)
    data: DomainData = readable(domain.read_images(list(images), **data_options(recipe)))
    backbone = load_backbone(recipe.backbone, device=recipe.device, image_size=recipe.image_size)
    return Prepared(recipe, domain, domain.check_task(recipe.task), data, backbone, FeatureStore(), reporter)


def _write(out: Path, features: FeatureSet, classifier: TextClassifier | None, splits: list[str]) -> None:
    tensors: dict[str, torch.Tensor] = {"image_features": features.features.cpu().contiguous()}
    words: dict[str, Any] = {"ids": list(features.ids or ()), "backbone": features.backbone}
    if features.parts is not None:
        tensors["image_parts"] = features.parts.cpu().contiguous()
        tensors["parts_mask"] = features.parts_mask.cpu().contiguous()
    if features.labels is not None:
        tensors["labels"] = features.labels.cpu().contiguous()
    if classifier is not None:
        tensors["text_features"] = classifier.weights.cpu().contiguous()
        tensors["logit_scale"] = torch.tensor(classifier.logit_scale)
        words.update(class_names=list(classifier.class_names), split=splits)
    partial = out.with_name(f".{secrets.token_hex(4)}.{out.name}")
    with all_or_none(out.parent, [partial.name]):
        if out.suffix == ".npz":
            with partial.open("wb") as f:
                np.savez(f, **{k: v.numpy() for k, v in tensors.items()}, **{k: np.array(v) for k, v in words.items()})
        else:
            metadata = {key: value if isinstance(value, str) else json.dumps(value) for key, value in words.items()}
            save_file(tensors, str(partial), metadata=metadata)
        os.replace(partial, out)
