"""A classification run that is asked of new images: its model, loaded once, and how images are looked at for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...backbones.load import load_backbone
from ...confidence.calibration import Calibration
from ...contracts.adapter import Adapter
from ...contracts.backbone import Backbone
from ...contracts.domain import Domain, Scorer
from ...contracts.features import PROJECTED, FeatureSet
from ...contracts.items import DomainData, Item
from ...contracts.recipe import Recipe
from ...contracts.serving import NoneReadable
from ...contracts.task import Use
from ...contracts.use import FittedRun
from ...data.unlabelled import images_of, readable
from ...errors import CapabilityError, DataError, one_line
from ...features.batches import PLAIN, Extras, batches, logits_of
from ...features.extract import encoder
from ...features.patch_tokens import PatchTokenReader
from ...features.store import Extraction, FeatureStore
from ...runtime.progress import Reporter
from ..methods import backbone_of
from .base_run import BaseRun
from .explained_page import write_explanations
from .explaining import AUTO, Explainer
from .images import Encoding
from .labelled_examples import labelled_in_run
from .predictions import Predictions, check_wishes, predictions_of, probabilities_of
from .resources import check_at_prediction, further_specs
from .stored_run import fitted_adapter, recipe_again

FEW = 8
"""Images that are encoded at once and not stored."""


@dataclass
class Predictor:
    """A run that keeps its model between calls; `vladapt.load_run` makes one.

        predictor = vladapt.load_run("runs/20260101-120000-medical-ape-1a2b")
        predictor.predict(["scan.png"]).rows()

    Attributes:
        run: its folder.
        domain, task: that read the images.
        recipe: the run's own.
        backbone, adapter: the model.
        calibration: what confidences are made with, or None.
    """

    run: FittedRun
    domain: Domain
    task: str
    recipe: Recipe
    backbone: Backbone
    adapter: Adapter
    calibration: Calibration | None
    base: BaseRun | None = None

    @classmethod
    def of_use(cls, use: Use, domain: Domain, task: str) -> Predictor:
        """Load all that a run needs to predict.

        Raises:
            DataError: the run is damaged. CapabilityError: it was made from a features file.
        """
        info = use.run.info
        if info["backbone"] is None:
            raise CapabilityError(
                f"{use.run.shown}: made from a features file, so there is no backbone to encode images with; use "
                "`vladapt eval --features FILE`"
            )
        recipe = recipe_again(use)
        backbone = backbone_of(recipe.with_(backbone=info["backbone"]["spec"]), domain, device=use.device)
        adapter = fitted_adapter(use.run, backbone).to(backbone.device)
        check_at_prediction(adapter, recipe.resources, use.resources)
        check_wishes(use, adapter.multilabel_)
        base = None
        if "base" in adapter.at_predict:
            base = BaseRun.open(recipe.resources["base"], backbone, backbone.device)
            base.check_is(info.get("base") or {})
        calibration = Calibration.load(use.run.path)
        return cls(use.run, domain, task, recipe, backbone, adapter, calibration, base)

    def check_streams(self) -> None:
        """Raise the CapabilityError of a method that learns nothing from the images it is asked about."""
        judge = self.run.info.get("judge")
        judge = judge if isinstance(judge, dict) else {}
        if judge.get("kept", self.adapter.name) != judge.get("method", self.adapter.name):
            turned_down = f"{self.run.path.name}: {judge['method']} was not kept, because nothing showed that it helps"
            raise CapabilityError(f"{turned_down}; omit --stream, or fit with --set judge=no")
        if "streams" not in self.adapter.can:
            self.adapter.stream(torch.zeros(0))

    def predict(self, images: str | Path | Sequence[str | Path], **wishes: Any) -> Predictions:
        """Classes of images.

        Args:
            images: a file or folder, or several.
            wishes: `top`, `threshold`, `coverage`, `set_method`, `max_error`, `batch_size`, `workers`, as
                `vladapt.predict` takes them.

        Raises:
            DataError: nothing could be read. ConfigError: a wish that the run cannot answer.
        """
        paths = [images] if isinstance(images, (str, Path)) else list(images)
        use = Use(self.run, images=tuple(paths), **wishes)
        check_wishes(use, self.adapter.multilabel_)
        return self.predict_use(use, Reporter(quiet=True))

    def predict_use(self, use: Use, reporter: Reporter) -> Predictions:
        """Classes of the images of a `Use`."""
        data = readable(images_of(self.domain, use.images, self.recipe.reading))
        logits, features, skipped = self.source(use, data, reporter).logits(self.adapter, stream=bool(use.stream))
        item_of = {item.id: item for item in data.items}
        places = [self.domain.placed(item_of[id_]) for id_ in features.ids]
        made = self.predictions(use, features.ids, logits, features.features, [*data.skipped, *skipped], places)
        if use.explain is not None:
            of = (self.explainer(use, data), self.backbone.spec, data, made, features.features)
            write_explanations(use, *of, reporter)
        return made

    def explainer(self, use: Use, data: DomainData) -> Explainer:
        """What says why images of the data were answered so, by the method that is asked for."""
        towers, method = self.adapter.adapted(self.backbone), None if use.explain == AUTO else use.explain
        transform = self.domain.of(data).transforms(self.backbone, False, self.task)
        kept = labelled_in_run(use.run, self.domain, self.task, self.recipe.reading)
        return Explainer(self.adapter, towers, *kept, transform, method)

    def source(self, use: Use, data: DomainData, reporter: Reporter, **how: Any) -> Source:
        """Images to predict; `how` are further fields of `Source`."""
        encoding, given = Encoding(use.batch_size, use.workers, self.recipe.amp), self.recipe.resources
        return Source(self.domain.of(data), self.task, data, self.backbone, encoding, given, reporter, self.base, **how)

    def predictions(
        self,
        use: Use,
        ids: Sequence[str],
        logits: Tensor,
        features: Tensor,
        skipped: list[tuple[str, str]],
        places: list[dict[str, Any]],
    ) -> Predictions:
        """What is said of N images.

        Args:
            logits: (N, C).
            features: (N, D) that they are of.
            places: of each image in its file, `Domain.placed`.
        """
        several, names = self.adapter.multilabel_, self.adapter.class_names_
        made = predictions_of(use, self.calibration, names, list(ids), logits, features, several, skipped)
        made.places = places if any(places) else None
        return made


class RunScorer(Scorer):
    """A run that scores images some at a time, for files that its domain makes of them (`Domain.write_own`)."""

    def __init__(self, predictor: Predictor, use: Use):
        self.predictor, self.use = predictor, use
        self.class_names, self.multilabel = predictor.adapter.class_names_, predictor.adapter.multilabel_
        self.fingerprint = _fingerprint(predictor)
        self._store = FeatureStore(keep=False)

    @classmethod
    def of_use(cls, use: Use, domain: Domain, task: str) -> RunScorer:
        """Load all that a run needs to predict; as `Predictor.of_use`."""
        return cls(Predictor.of_use(use, domain, task), use)

    def score(self, data: DomainData) -> tuple[list[str], Tensor, list[tuple[str, str]]]:
        of = self.predictor
        source = of.source(self.use, data, Reporter(quiet=True), store=self._store)
        try:
            logits, features, skipped = source.logits(of.adapter)
        except NoneReadable as error:
            return [], torch.zeros(0, len(self.class_names)), error.skipped
        probabilities = probabilities_of(self.use, of.calibration, self.class_names, logits, self.multilabel)
        return list(features.ids), probabilities, skipped


def _fingerprint(predictor: Predictor) -> str:
    """Of a run's files and of how its images are encoded."""
    run, recipe = predictor.run, predictor.recipe
    digest = hashlib.sha256()
    for file in sorted(run.path.glob("*.safetensors")):
        digest.update(file.read_bytes())
    parts = [run.info, predictor.backbone.fingerprint, recipe.amp, recipe.resources]
    digest.update(json.dumps(parts, sort_keys=True, default=str).encode())
    return digest.hexdigest()


@dataclass
class Source:
    """Images to predict, and how to look at them.

    Args:
        store: of features; by default the usual one.
        ready: item id -> its pixels, of images that were decoded before.
    """

    domain: Domain
    task: str
    data: DomainData
    backbone: Backbone
    encoding: Encoding
    given: Mapping[str, Any]
    reporter: Reporter
    base: BaseRun | None = None
    store: FeatureStore | None = None
    ready: Mapping[str, Tensor] | None = None

    def logits(self, adapter: Adapter, stream: bool = False) -> tuple[Tensor, FeatureSet, list[tuple[str, str]]]:
        """(N, C) logits, the features that they are of, and what could not be read.

        Args:
            stream: the adapter learns from each image before it answers the next.

        Raises:
            DataError: nothing could be read.
        """
        towers = adapter.adapted(self.backbone)
        with self.reporter.task("Encoding images") as progress:
            kept = towers is self.backbone
            parts = "parts" in adapter.at_predict or self.data.part_views is not None
            extraction = self._encoded(self.data.items, towers, PROJECTED, progress, keep=kept, parts=parts)
        if not len(extraction.features):
            raise NoneReadable(extraction.skipped)
        features = extraction.features.with_parts() if parts else extraction.features
        features = features.to(self.backbone.device)
        rows = batches(adapter, features, self._extras(adapter, towers, extraction.items))
        if adapter.at_predict <= PLAIN:
            return logits_of(adapter, rows, len(features), stream=stream), features, list(extraction.skipped)
        with self.reporter.task(f"Predicting with {adapter.name}") as progress:
            return logits_of(adapter, rows, len(features), progress, stream), features, list(extraction.skipped)

    def _extras(self, adapter: Adapter, towers: Backbone, items: Sequence[Item]) -> Extras:
        from ...data.detections import read_detections

        boxes = self.given.get("boxes") if "boxes" in adapter.at_predict else None
        specs = further_specs(self.given) if "further_backbones" in adapter.at_predict else []
        keys = self.given.get("keys") if "keys" in adapter.at_predict else None
        return Extras(
            items=items,
            load=self.data.load,
            transform=self.domain.transforms(self.backbone, False, self.task),
            encode=self._encoder(towers),
            further=[self._encoder(self._further(spec)) for spec in specs],
            keys=None if keys is None else self._encoder(self._further(keys)),
            boxes=read_detections(boxes, [item.id for item in items]) if boxes else None,
            base=None if self.base is None else self._of_base,
            patches=self._patch_tokens(towers).read if "patch_tokens" in adapter.at_predict else None,
        )

    def _patch_tokens(self, towers: Backbone) -> PatchTokenReader:
        """Of new images they are not stored: they are large, and looked at once."""
        transform, how = self.domain.transforms(towers, False, self.task), asdict(self.encoding)
        return PatchTokenReader(self.data, towers, transform, FeatureStore(keep=False), **how)

    def _further(self, spec: str) -> Backbone:
        return load_backbone(spec, str(self.backbone.device), channels=self.backbone.channels)

    def _of_base(self, features: FeatureSet, class_names: Sequence[str]) -> Tensor:
        """(N, C) logits of the run that the adapter started from, of the same images."""
        source = replace(self, given=self.base.recipe.resources, base=None)
        logits, seen, _ = source.logits(self.base.adapter)
        if seen.ids != features.ids:
            raise DataError(
                f"--resource base={self.base.path}: its towers give NaN or infinity for some images; give another run"
            )
        return self.base.in_order(logits, class_names)

    def _encoder(self, backbone: Backbone):
        return lambda items, tap: self._encoded(items, backbone, tap).features

    def _encoded(
        self, items, backbone: Backbone, tap: str, progress=None, keep: bool = True, parts: bool = False
    ) -> Extraction:
        at_once = not parts and (self.ready is not None or len(items) <= FEW)
        few = self._encoded_at_once(list(items), backbone, tap) if at_once else None
        return few or (self.store or FeatureStore(keep=keep)).get_or_compute(
            self.data,
            list(items),
            backbone,
            self.domain.transforms(backbone, False, self.task),
            tap=tap,
            batch_size=self.encoding.batch_size,
            workers=self.encoding.workers,
            amp=self.encoding.amp,
            progress=progress,
            parts=parts,
        )

    def _encoded_at_once(self, items: list[Item], backbone: Backbone, tap: str) -> Extraction | None:
        """Few images, through the tower in one batch: to look them up would cost more. None if samples have parts."""
        transform = self.domain.transforms(backbone, False, self.task)
        pixels, kept, skipped = [], [], []
        for item in items:
            try:
                pixels.append(self.ready[item.id] if self.ready else transform(self.data.load(item)))
                kept.append(item)
            except Exception as error:  # a decoder of any library may raise anything on a damaged file
                skipped.append((item.id, one_line(error)))
        if any(each.ndim != 3 for each in pixels):
            return None
        encode = encoder(backbone, tap, self.encoding.amp)
        rows = encode(torch.stack(pixels)).cpu() if pixels else torch.zeros(0, backbone.embed_dim)
        finite = rows.isfinite().all(dim=1)
        skipped += [(i.id, "the backbone gives NaN or infinity for it") for i, good in zip(kept, finite) if not good]
        kept = [item for item, good in zip(kept, finite) if good]
        ids = tuple(item.id for item in kept)
        features = FeatureSet(rows[finite].clone(), tap=tap, ids=ids, backbone=backbone.fingerprint)
        return Extraction(features, kept, skipped, len(kept))
