"""`predict`: classes of new images, by a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine import Config

from ..backbones.load import load_backbone
from ..contracts.adapter import Adapter
from ..contracts.backbone import Backbone
from ..contracts.domain import Domain, DomainData
from ..contracts.errors import CapabilityError, DataError
from ..features.store import FeatureStore
from ..registry import load_adapter
from ..runs.folder import Run
from .evaluate import batched_logits, domain_of
from .fit_retrieval import TASK
from .progress import Reporter
from .recipe import data_options


@dataclass
class OwnedPredictions:
    """What a domain that owns its task says of some images: its own rows, one an image."""

    own_rows: list[dict[str, Any]]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def rows(self, top: int = 3) -> list[dict[str, Any]]:
        """The domain's rows, each with its `id`."""
        return self.own_rows


@dataclass
class Predictions:
    """What a run says of some images.

    Attributes:
        class_names: the C names.
        ids: N image ids.
        probabilities: (N, C), rows summing to 1, or one probability a label.
        multilabel: whether several labels may hold of one image.
        skipped: (id, reason) of images that could not be read.
    """

    class_names: tuple[str, ...]
    ids: list[str]
    probabilities: torch.Tensor
    multilabel: bool
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def rows(self, top: int = 3) -> list[dict[str, Any]]:
        """One dict an image: id, label (or labels above one half), confidence, and the `top` classes."""
        rows = []
        for i, p in zip(self.ids, self.probabilities):
            best = p.topk(min(top, len(p)))
            ranked = [
                {"class": self.class_names[c], "probability": float(v)} for v, c in zip(best.values, best.indices)
            ]
            row: dict[str, Any] = {"id": i}
            if self.multilabel:
                row["labels"] = [name for name, value in zip(self.class_names, p.tolist()) if value >= 0.5]
            else:
                row["label"] = ranked[0]["class"]
                row["confidence"] = ranked[0]["probability"]
            rows.append({**row, "top": ranked})
        return rows


def predict(
    run: str | Path,
    images: Sequence[str | Path],
    *,
    domain: Domain | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    workers: int | None = None,
    reporter: Reporter | None = None,
) -> Predictions | OwnedPredictions:
    """Classify files, or all files of folders.

    Args:
        run: a run folder.
        images: files or folders, of any kind the run's domain reads.
        domain: a domain of your own that is not installed as a plug-in; by default the run's, by name.
        device: "auto", "cpu", "cuda", ...
        batch_size: images at once; by default measured.
        workers: decoding threads.

    Raises:
        DataError: the run or all images cannot be read. CapabilityError: the run was made from a features file.
    """
    opened = Run.open(run)
    if opened.info["task"] == TASK and not opened.info.get("owned"):
        raise CapabilityError(
            f"{opened.path}: its model names no classes; find images with it: "
            f"vladapt index IMAGES --backbone {opened.path} --out INDEX"
        )
    if opened.info["backbone"] is None:
        raise CapabilityError(
            f"{opened.path}: made from a features file, so there is no backbone to encode images with"
        )
    recipe = Config(opened.info["recipe"])
    domain = domain or domain_of(opened)
    if opened.info.get("owned"):
        return predict_owned(opened, domain, list(images), device)
    backbone = load_backbone(opened.info["backbone"]["spec"], device=device, image_size=recipe.image_size)
    adapter = load_adapter(opened.adapter_path, backbone).to(backbone.device)
    data = readable(domain.read_images(list(images), **data_options(recipe)))
    rendered = domain.transforms(backbone, False, opened.info["task"])
    logits, ids, skipped = _logits(adapter, data, backbone, rendered, recipe.get("amp"), batch_size, workers, reporter)
    multilabel = adapter.multilabel_
    probabilities = logits.sigmoid() if multilabel else logits.softmax(dim=1)
    return Predictions(adapter.class_names_, ids, probabilities.cpu(), multilabel, [*data.skipped, *skipped])


def predict_owned(run: Run, domain: Domain, images: list, device: str) -> OwnedPredictions:
    """Predictions of a task that the domain owns, by its own rule."""
    from .owned import load_owned

    recipe = Config(run.info["recipe"])
    backbone = load_backbone(run.info["backbone"]["spec"], device=device, image_size=recipe.image_size)
    data = readable(domain.read_images(images, **data_options(recipe)))
    model = load_owned(run, backbone.device)
    return OwnedPredictions(domain.predict(run.info["task"], model, data, backbone), data.skipped)


def readable(data: DomainData) -> DomainData:
    """The set, if there is anything in it; what cannot be decoded is found where it is decoded.

    Raises:
        DataError: nothing in it.
    """
    if not data.items:
        why = f"; {data.skipped[0][0]}: {data.skipped[0][1]}" if data.skipped else ""
        raise DataError(f"no readable image among what was given{why}")
    return data


def _logits(adapter: Adapter, data: DomainData, backbone: Backbone, transform, amp, batch_size, workers, reporter):
    needed = adapter.at_predict - {"features"}
    if needed:
        raise CapabilityError(f"adapter '{adapter.name}' needs {', '.join(sorted(needed))} at prediction")
    reporter = reporter or Reporter(quiet=True)
    towers = adapter.adapted(backbone)
    with reporter.task("Encoding images") as progress:
        found = FeatureStore(keep=towers is backbone).get_or_compute(
            data,
            data.items,
            towers,
            transform,
            batch_size=batch_size,
            workers=workers,
            amp=amp,
            progress=progress,
        )
    if not len(found.features):
        raise DataError(f"no readable image among what was given; {found.skipped[0][0]}: {found.skipped[0][1]}")
    features = found.features.to(backbone.device)
    return batched_logits(adapter, features), [item.id for item in found.items], list(found.skipped)
