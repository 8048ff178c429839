"""A classification run that is asked of new images: its model, loaded once, and how images are looked at for it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...backbones.load import load_backbone, resolve_device
from ...confidence.calibration import Calibration
from ...contracts.adapter import Adapter
from ...contracts.backbone import Backbone
from ...contracts.domain import Domain, Scorer
from ...contracts.features import PROJECTED, FeatureSet
from ...contracts.items import DomainData, Item, items_of
from ...contracts.judgement import PREDICT
from ...contracts.prepared import on_adapted
from ...contracts.recipe import Recipe
from ...contracts.run_info import FittedRun
from ...contracts.serving import NoneReadable
from ...contracts.shown import in_short
from ...contracts.task import Task
from ...contracts.use import HEAT_MAPS, Use
from ...data.group_columns import AUTO as BY_USUAL_NAMES
from ...data.group_columns import OPTION, group_images
from ...data.unlabelled import images_of, readable
from ...errors import CapabilityError, ConfigError, DataError, one_line
from ...explanation.deciding_parts import deciding_parts
from ...features.batches import PLAIN, logits_of
from ...features.extract import encoder
from ...features.patch_tokens import PatchTokenReader
from ...features.store import Extraction, FeatureStore
from ...judgements.per_patient import Patients
from ...metrics.classification import check_scores
from ...recipes.asked_for import backbone_of
from ...registry import adapter_class
from ...registry.build import check_judging, judges_at
from ...runs.folder import note_on_digests
from ...runtime.progress import Reporter
from .explained import MOST, explained, write_explanations
from .explaining import AUTO, OF_TILES, Explainer
from .feature_rows import rows_asked
from .predictions import (
    DECIDED,
    Predictions,
    calibrated_probabilities,
    check_wishes,
    predictions_of,
    predictions_of_patients,
)
from .prepared import Encoding, Prepared
from .resources import BaseLogits, check_at_prediction
from .stored_run import fitted_adapter, labelled_in_run, recipe_again

if TYPE_CHECKING:
    from .tiles_shown import ShownTiles

FEW = 8
"""Images that are encoded at once and not stored."""


@dataclass
class Predictor:
    """A run that keeps its model between calls; `vladapt.load_run` makes one.

        predictor = vladapt.load_run("runs/20260101-120000-medical-ape-1a2b")
        predictor.predict(["scan.png"]).rows()

    Attributes:
        run: its folder.
        task: with the domain that reads the images.
        recipe: the run's own.
        backbone, adapter: the model.
        calibration: what confidences are made with, or None.
    """

    __repr__ = in_short

    run: FittedRun
    task: Task
    recipe: Recipe
    backbone: Backbone
    adapter: Adapter
    calibration: Calibration | None
    base: BaseLogits | None = None
    _patients: dict[tuple[str, bool], Patients] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of_use(cls, use: Use, task: Task) -> Predictor:
        """Load all that a run needs to predict.

        Raises:
            DataError: the run is damaged. CapabilityError: it was made from a features file.
        """
        info = use.run.info
        if not info.backbone:
            raise CapabilityError(
                f"{use.run.shown}: made from a features file, so there is no backbone to encode images with; write "
                "their features by `vladapt embed IMAGES --out new.safetensors`, and give that file"
            )
        recipe = recipe_again(use)
        backbone = backbone_of(recipe.with_(backbone=info.backbone.spec), task.domain, device=use.device)
        adapter = fitted_adapter(use.run, backbone).to(backbone.device)
        check_at_prediction(adapter, recipe.resources, use.resources)
        check_wishes(use, task, adapter)
        base = None
        if "base" in adapter.at_predict:
            base = BaseLogits.open(recipe.resources["base"], backbone, backbone.device)
            base.check_is(info.base)
        calibration = Calibration.load(use.run.path)
        return cls(use.run, task, recipe, backbone, adapter, calibration, base)

    @classmethod
    def of_rows(cls, use: Use, task: Task) -> Predictor:
        """The same of a run that was made from a features file, to be asked about features.

        Raises:
            DataError: the run is damaged. ConfigError: something is asked for that takes images.
        """
        if use.explain is not None or any(kind.made_of == HEAT_MAPS for kind in use.outputs):
            raise ConfigError("--explain, and --as of heat maps: take images, and a features file holds none; omit it")
        made = cls.of_bags(use, task)
        check_at_prediction(made.adapter, made.recipe.resources, use.resources)
        return made

    @classmethod
    def of_bags(cls, use: Use, task: Task) -> Predictor:
        """The same of a run whose method answers by the features of parts, without the towers that make them."""
        adapter = fitted_adapter(use.run, None)
        check_wishes(use, task, adapter)
        made = cls(use.run, task, recipe_again(use), None, adapter, Calibration.load(use.run.path))
        adapter.to(made.device)
        return made

    @staticmethod
    def of_tiles(use: Use, domain: Domain) -> bool:
        """Whether the samples of a run are bags of tiles, by whose features alone its method answers."""
        info = use.run.info
        if not adapter_class(info.adapter).reads_bags:
            return False
        if not info.backbone or info.backbone.of_tiles:
            return True
        return domain.in_tiles(recipe_again(use).reading)

    @cached_property
    def device(self) -> torch.device:
        """That the run answers on."""
        if self.backbone is not None:
            return self.backbone.device
        return resolve_device(self.recipe.device)

    @property
    def domain(self) -> Domain:
        return self.task.domain

    @property
    def fingerprint(self) -> str:
        """Of the run's files and of how its images are encoded."""
        run, recipe = self.run, self.recipe
        digest = hashlib.sha256()
        for file in sorted(run.path.glob("*.safetensors")):
            digest.update(file.read_bytes())
        parts = [dict(run.info), self.backbone.fingerprint, recipe.amp, recipe.resources]
        digest.update(json.dumps(parts, sort_keys=True, default=str).encode())
        return digest.hexdigest()

    def columns_of_parts(self, data: DomainData) -> tuple[str, ...]:
        """Further columns of answers where samples have parts that are looked at one by one."""
        return (DECIDED,) if "parts" in self.adapter.at_predict or data.part_views is not None else ()

    def check_one_by_one(self, instead: str) -> None:
        """Raise the CapabilityError of a method whose answer on an image depends on the others.

        Args:
            instead: why that matters, and what to use.
        """
        if self.adapter.transductive:
            raise CapabilityError(
                f"{self.run.shown}: adapter '{self.adapter.name}' reads all images together, so {instead}"
            )

    def check_streams(self) -> None:
        """Raise the CapabilityError of a method that learns nothing from the images it is asked about."""
        judge = self.run.info.judge
        if judge.get("kept", self.adapter.name) != judge.get("method", self.adapter.name):
            turned_down = f"{self.run.path.name}: {judge['method']} was not kept, because nothing showed that it helps"
            raise CapabilityError(f"{turned_down}; omit --stream, or fit with --set judge=no")
        if "streams" not in self.adapter.can:
            self.adapter.stream(torch.zeros(0))

    def predict(self, images: str | Path | Sequence[str | Path], **wishes: Any) -> Predictions:
        """Classes of images.

        Args:
            images: a file or folder, or several.
            wishes: `top`, `threshold`, `batch_size`, `workers` and options of judgements, such as `coverage`, as
                `vladapt.predict` takes them.

        Raises:
            DataError: nothing could be read. ConfigError: a wish that the run cannot answer.
        """
        paths = [images] if isinstance(images, (str, Path)) else list(images)
        use = Use(self.run, images=tuple(paths)).asking(wishes)
        check_judging(self.task, PREDICT, use.judging)
        check_wishes(use, self.task, self.adapter)
        return self.predict_use(use, Reporter(quiet=True))

    def predict_use(self, use: Use, reporter: Reporter) -> Predictions:
        """Classes of the images of a `Use`, or of features where the run was made from such a file."""
        if self.backbone is None:
            return self.predict_rows(use, reporter)
        data = readable(images_of(self.domain, use.images, self.recipe.reading))
        if use.per_patient is not None:
            self.patients(use.per_patient, use.threshold)  # which may be refused
            data = group_images(data, use.images, self.recipe.reading.get(OPTION) or BY_USUAL_NAMES)
        for kind in use.outputs:
            kind.check_sources([member for item in data.items for member in _members(data, item)])
        return self.predict_data(use, data, reporter)

    def predict_rows(self, use: Use, reporter: Reporter) -> Predictions:
        """Classes of the rows of a features file, by a run that was made from one.

        Raises:
            DataError: the file cannot be used, or does not say which rows are of one patient. CapabilityError: its
                features are of another backbone or width than those of the fit.
        """
        if len(use.images) != 1:
            raise ConfigError(f"{use.run.shown}: made from a features file, and answers one such file; give one")
        path, adapter, recipe = str(use.images[0]), self.adapter, self.recipe
        names, given = adapter.class_names_, recipe.resources
        rows = rows_asked(path, reporter, class_names=names, device=recipe.device, given=given)
        check_same_backbone(adapter, rows.made_by, path)
        items = rows.data.items
        groups = [item.group or "" for item in items]
        if use.per_patient is not None and not any(groups):
            raise DataError(f"{path}: nothing says which rows belong together; add an array 'groups' (N,)")
        for kind in use.outputs:
            kind.check_sources(items)
        features = rows.features(items)
        logits = logits_of(adapter, rows.batches(adapter, features), len(features), stream=bool(use.stream))
        ids = [item.id for item in items]
        places: list[dict[str, Any]] = [{} for _ in items]
        made = self.predictions(use, ids, logits, features.features, [], places, groups)
        made.sources = _sources(made, {item.id: [item] for item in items})
        return made

    def predict_data(
        self, use: Use, data: DomainData, reporter: Reporter, store: FeatureStore | None = None
    ) -> Predictions:
        """Classes of samples as the domain reads them.

        Args:
            store: of features; by default that of all commands.

        Raises:
            NoneReadable: nothing could be read.
        """
        if data.bags is not None:
            data.bags.check_of(self.run.info.backbone.spec, str(data.items[0].source))
        images = self.images(use, data, reporter, store)
        logits, features, skipped = images.logits(self.adapter, stream=bool(use.stream))
        items = items_of(features.ids, data.items)
        places, groups = [self.domain.placed(item) for item in items], [item.group or "" for item in items]
        skipped = [*data.skipped, *skipped]
        made = self.predictions(use, features.ids, logits, features.features, skipped, places, groups)
        made.sources = _sources(made, {item.id: _members(data, item) for item in items})
        parts = None if use.per_patient is not None else self._deciding(made, features, items)
        if use.explain is not None or any(kind.made_of == HEAT_MAPS for kind in use.outputs):
            tiles = self._tiles(made, features, items, data)
            why = explained(self.explainer(use, data), data, made, features.features, reporter, parts, tiles)
            if use.explain is not None:
                write_explanations(use, why, self.backbone.spec, made)
        made.notes += note_on_digests(self.run.info) if made.notes else []
        return made

    def _deciding(self, made: Predictions, features: FeatureSet, items: Sequence[Item]) -> list[int] | None:
        """Of each sample the part that decided, which the rows then name; None where parts have no names."""
        counts = None if features.parts_mask is None else features.parts_mask.sum(dim=1).tolist()
        names = [] if counts is None else [self.domain.part_names(*each) for each in zip(items, counts, strict=True)]
        if not any(names) or (decided := deciding_parts(self.adapter, features, made.most_likely)) is None:
            return None
        deciding = [name[part] if 0 <= part < len(name) else "" for name, part in zip(names, decided.tolist())]
        made.columns = {**made.columns, DECIDED: deciding}
        return decided.tolist()

    def _tiles(
        self, made: Predictions, features: FeatureSet, items: Sequence[Item], data: DomainData
    ) -> list[ShownTiles]:
        """Of the first samples the tiles that decide; none of samples that are no bags of tiles."""
        from .tiles_shown import shown_tiles  # explanations of slides alone need it

        called = list(enumerate(made.most_likely[:MOST].tolist()))
        of = (made.class_names, lambda row: data.load(items[row]), data.tiles is not None)
        return shown_tiles(self.adapter, features, called, *of)

    def patients(self, how: str, threshold: float | None) -> Patients:
        """What answers of patients are made by.

        Args:
            how: "mean" or "max".
            threshold: that is asked for in place of the run's operating point.

        Raises:
            DataError: the run lacks what is needed.
        """
        chosen = threshold is None
        key = (how, chosen)
        if key not in self._patients:
            self._patients[key] = Patients.of_run(self.run, self.calibration, how, chosen)
        return self._patients[key]

    def explainer(self, use: Use, data: DomainData) -> Explainer:
        """What says why images of the data were answered so, by the method that is asked for."""
        towers, method = self.adapter.adapted(self.backbone), None if use.explain == AUTO else use.explain
        labelled = labelled_in_run(use.run, self.domain, self.task.name, self.recipe.reading)
        if data.in_tiles:
            return Explainer(self.adapter, None, *labelled, None, method, no_pictures=OF_TILES)
        transform = self.domain.of(data).transforms(self.backbone, False, self.task.name)
        return Explainer(self.adapter, towers, *labelled, transform, method)

    def images(
        self, use: Use, data: DomainData, reporter: Reporter, store: FeatureStore | None = None, **how: Any
    ) -> NewImages:
        """Images to predict; `how` are further fields of `NewImages`."""
        return NewImages(
            domain=self.domain.of(data),
            task=self.task.name,
            data=data,
            backbone=self.backbone,
            store=store or FeatureStore(),
            reporter=reporter,
            encoding=Encoding(use.batch_size, use.workers, self.recipe.amp),
            given=self.recipe.resources,
            base=None if self.base is None else self.base.on_other_images(),
            **how,
        )

    def predictions(
        self,
        use: Use,
        ids: Sequence[str],
        logits: Tensor,
        features: Tensor,
        skipped: list[tuple[str, str]],
        places: list[dict[str, Any]],
        groups: Sequence[str] = (),
    ) -> Predictions:
        """What is said of N images, or where that is asked for of their patients.

        Args:
            logits: (N, C).
            features: (N, D) that they are of.
            places: of each image in its file, `Domain.placed`.
            groups: N patients, "" of an image that is one of its own.
        """
        several, names = self.adapter.multilabel_, self.adapter.class_names_
        judgements = judges_at(self.task, PREDICT, use.judging)
        if use.per_patient is not None:
            patients = self.patients(use.per_patient, use.threshold)
            return predictions_of_patients(patients, use, judgements, ids, logits, features, skipped, groups)
        made = predictions_of(use, judgements, self.calibration, names, list(ids), logits, features, several, skipped)
        made.places = places if any(places) else None
        return made


def check_same_backbone(adapter: Adapter, made_by: str, path: str) -> None:
    """Raise the CapabilityError of features by another backbone than that of the fit, where a file says which made
    them.

    Args:
        made_by: the fingerprint of the backbone, or "".
        path: of the file.
    """
    if made_by and adapter.backbone_ and made_by != adapter.backbone_:
        raise CapabilityError(f"{path}: made by backbone {made_by}, the run by {adapter.backbone_}; use that one")


def _members(data: DomainData, item: Item) -> Sequence[Item]:
    return [item] if data.members is None else data.members(item)


def _sources(made: Predictions, members: Mapping[str, Sequence[Item]]) -> dict[str, list[Item]]:
    """Id of each row -> the items that it is said of."""
    images = made.columns.get("images") or [[name] for name in made.ids]
    return {name: [each for image in of for each in members[image]] for name, of in zip(made.ids, images)}


class RunScorer(Scorer):
    """A run that scores images some at a time, for files that its domain makes of them (`Domain.write_own`)."""

    def __init__(self, use: Use, task: Task):
        self.predictor, self.use = Predictor.of_use(use, task), use
        adapter = self.predictor.adapter
        self.class_names, self.multilabel = adapter.class_names_, adapter.multilabel_
        self.fingerprint = self.predictor.fingerprint
        self._store = FeatureStore(keep=False)

    def score(self, data: DomainData) -> tuple[list[str], Tensor, list[tuple[str, str]]]:
        of = self.predictor
        images = of.images(self.use, data, Reporter(quiet=True), store=self._store)
        try:
            logits, features, skipped = images.logits(of.adapter)
        except NoneReadable as error:
            return [], torch.zeros(0, len(self.class_names)), error.skipped
        probabilities = calibrated_probabilities(self.use, of.calibration, self.class_names, logits, self.multilabel)
        ids = list(features.ids)
        check_scores(ids, probabilities)
        return ids, probabilities, skipped


@dataclass(kw_only=True)
class NewImages(Prepared):
    """Images to predict, looked at like those of a fit.

    Attributes:
        base: the run that the adapter started from, or None.
        ready: item id -> its pixels, of images that were decoded before.
    """

    base: BaseLogits | None = None
    ready: Mapping[str, Tensor] | None = None

    def logits(self, adapter: Adapter, stream: bool = False) -> tuple[Tensor, FeatureSet, list[tuple[str, str]]]:
        """(N, C) logits, the features that they are of, and what could not be read.

        Args:
            stream: the adapter learns from each image before it answers the next.

        Raises:
            DataError: nothing could be read.
        """
        moved = on_adapted(self, adapter)
        parts = "parts" in adapter.at_predict or self.data.part_views is not None
        with self.reporter.task("Encoding images", "tiles" if self.data.in_tiles else "images") as progress:
            extraction = moved.extracted(self.data.items, parts=parts, progress=progress)
        if not len(extraction.features):
            raise NoneReadable(extraction.skipped)
        features = extraction.features.with_parts() if parts else extraction.features
        features = features.to(self.device)
        rows = moved.batches(adapter, features)
        if adapter.at_predict <= PLAIN:
            return logits_of(adapter, rows, len(features), stream=stream), features, list(extraction.skipped)
        with self.reporter.task(f"Predicting with {adapter.name}") as progress:
            return logits_of(adapter, rows, len(features), progress, stream), features, list(extraction.skipped)

    @property
    def patch_tokens(self) -> PatchTokenReader:
        """Of new images they are not stored: they are large, and looked at once."""
        return replace(super().patch_tokens, store=self.store.unkept)

    def encode_items(self, items: Sequence[Item], tap: str, parts: bool = False) -> FeatureSet:
        """Features of some items by this backbone; how many are left to do is not shown."""
        return self.extracted(items, tap=tap, parts=parts).features.to(self.device)

    def on_further(self, spec: str) -> NewImages:
        """The same images on another backbone, whose licence the fit has told."""
        return replace(self, backbone=load_backbone(spec, str(self.device), channels=self.backbone.channels))

    def extracted(self, items: Sequence[Item], *, tap: str = PROJECTED, parts: bool = False, **how: Any) -> Extraction:
        """Features of some items; of a few at once, which are not stored."""
        at_once = (
            not parts
            and not self.data.in_tiles
            and (self.ready is not None or (len(items) <= FEW and self.store.alone is None))
        )
        few = self._extracted_at_once(items, tap) if at_once else None
        return few or super().extracted(items, tap=tap, parts=parts, **how)

    def _extracted_at_once(self, items: Sequence[Item], tap: str) -> Extraction | None:
        """Few images, through the tower in one batch: to look them up would cost more. None if samples have parts."""
        transform = self.domain.transforms(self.backbone, False, self.task)
        pixels, readable, skipped = [], [], []
        for item in items:
            try:
                pixels.append(self.ready[item.id] if self.ready else transform(self.data.load(item)))
                readable.append(item)
            except Exception as error:  # a decoder of any library may raise anything on a damaged file
                skipped.append((item.id, one_line(error)))
        if any(each.ndim != 3 for each in pixels):
            return None
        encode = encoder(self.backbone, tap, self.encoding.amp)
        rows = encode(torch.stack(pixels)).cpu() if pixels else torch.zeros(0, self.backbone.embed_dim)
        finite = rows.isfinite().all(dim=1)
        reason = "the backbone gives NaN or infinity for it"
        skipped += [(item.id, reason) for item, good in zip(readable, finite) if not good]
        readable = [item for item, good in zip(readable, finite) if good]
        ids = tuple(item.id for item in readable)
        features = FeatureSet(rows[finite].clone(), tap=tap, ids=ids, backbone=self.backbone.fingerprint)
        return Extraction(features, readable, skipped, len(readable))
