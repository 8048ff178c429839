"""`predict`: classes of new images, by a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine import Config

from ..backbones.load import load_backbone
from ..contracts.adapter import Adapter
from ..contracts.backbone import Backbone
from ..contracts.domain import Domain, DomainData, Item
from ..contracts.errors import CapabilityError, DataError
from ..contracts.features import PROJECTED
from ..data.unlabelled import readable
from ..features.store import Extraction, FeatureStore
from ..registry import load_adapter
from ..runs.folder import Run
from .evaluate import domain_of, refuse_for_owned
from .extras import PLAIN, Extras, batches, logits_of
from .fit_retrieval import TASK
from .owned_use import OwnedPredictions, predict_owned
from .progress import Reporter
from .recipe import data_options
from .resources import check_at_prediction, further_specs, with_resources


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
    resources: Mapping[str, str] | None = None,
    classes: Any = None,
    out: str | Path | None = None,
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
        resources: name -> path of what the adapter needs of these images ("boxes"), in place of the run's own.
        classes: other class names, for runs of detection and segmentation by names.
        out: a folder for pictures and files, for tasks that a domain owns.

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
    recipe = with_resources(Config(opened.info["recipe"]), resources)
    domain = domain or domain_of(opened)
    if opened.info.get("owned"):
        refuse_for_owned(opened, {"--resource": resources, "--batch-size": batch_size, "--workers": workers})
        told = reporter or Reporter(quiet=True)
        return predict_owned(opened, domain, list(images), device, told, classes, out)
    if classes is not None or out is not None:
        option = "--classes" if classes is not None else "--out"
        raise CapabilityError(f"{option}: for detection and segmentation; this run classifies its own classes")
    backbone = load_backbone(opened.info["backbone"]["spec"], device=device, image_size=recipe.image_size)
    adapter = load_adapter(opened.adapter_path, backbone).to(backbone.device)
    data = readable(domain.read_images(list(images), **data_options(recipe)))
    check_at_prediction(adapter, recipe, resources)
    source = _Source(recipe, domain, opened.info["task"], data, backbone, batch_size, workers, reporter)
    logits, ids, skipped = source.logits(adapter)
    multilabel = adapter.multilabel_
    probabilities = logits.sigmoid() if multilabel else logits.softmax(dim=1)
    return Predictions(adapter.class_names_, ids, probabilities.cpu(), multilabel, [*data.skipped, *skipped])


@dataclass
class _Source:
    """Images to predict, and how to look at them."""

    recipe: Config
    domain: Domain
    task: str
    data: DomainData
    backbone: Backbone
    batch_size: int | None
    workers: int | None
    reporter: Reporter | None

    def logits(self, adapter: Adapter) -> tuple[torch.Tensor, list[str], list[tuple[str, str]]]:
        """(N, C) logits, N ids, and what could not be read.

        Raises:
            DataError: nothing could be read.
        """
        reporter = self.reporter or Reporter(quiet=True)
        towers = adapter.adapted(self.backbone)
        with reporter.task("Encoding images") as progress:
            kept, parts = towers is self.backbone, "parts" in adapter.at_predict
            found = self._encoded(self.data.items, towers, PROJECTED, progress, keep=kept, parts=parts)
        if not len(found.features):
            name, why = found.skipped[0]
            raise DataError(f"no readable image among what was given; {name}: {why}")
        features = found.features.with_parts() if parts else found.features
        features = features.to(self.backbone.device)
        rows = batches(adapter, features, self._extras(adapter, towers, found.items))
        if adapter.at_predict <= PLAIN:
            return logits_of(adapter, rows, len(features)), list(features.ids), list(found.skipped)
        with reporter.task(f"Predicting with {adapter.name}") as progress:
            return logits_of(adapter, rows, len(features), progress), list(features.ids), list(found.skipped)

    def _extras(self, adapter: Adapter, towers: Backbone, items: Sequence[Item]) -> Extras:
        from ..data.detections import read_detections

        boxes = self.recipe.resources.get("boxes") if "boxes" in adapter.at_predict else None
        specs = further_specs(self.recipe) if "further_backbones" in adapter.at_predict else []
        return Extras(
            items=items,
            load=self.data.load,
            transform=self.domain.transforms(self.backbone, False, self.task),
            encode=self._encoder(towers),
            further=[self._encoder(load_backbone(spec, device=str(self.backbone.device))) for spec in specs],
            boxes=read_detections(boxes, [item.id for item in items]) if boxes else None,
        )

    def _encoder(self, backbone: Backbone):
        return lambda items, tap: self._encoded(items, backbone, tap).features

    def _encoded(
        self, items, backbone: Backbone, tap: str, progress=None, keep: bool = True, parts: bool = False
    ) -> Extraction:
        return FeatureStore(keep=keep).get_or_compute(
            self.data,
            list(items),
            backbone,
            self.domain.transforms(backbone, False, self.task),
            tap=tap,
            batch_size=self.batch_size,
            workers=self.workers,
            amp=self.recipe.get("amp"),
            progress=progress,
            parts=parts,
        )
