"""A classification run as ONNX graphs, checked against the run on its own test images before they are said to be done.

Two graphs: from features to calibrated logits, and where one picture is a sample, from pixels as the tower takes them.
Both also give the distance by which images unlike those of the fit are told, where the run can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...confidence.calibration import TABLE_COVERAGES, Calibration
from ...confidence.selective import NEIGHBOURS
from ...contracts.adapter import Adapter
from ...contracts.backbone import Backbone
from ...contracts.features import Batch, FeatureSet
from ...contracts.items import Item, items_of
from ...contracts.prepared import PreparedData
from ...contracts.use import Exported, ExportWishes, Use
from ...errors import CapabilityError, ConfigError
from ...export.agreement import SAME_ANSWERS, Agreement
from ...export.folder import PIXELS, Session
from ...export.graph import Graph, has_convolutions, write_in_8_bits
from ...export.package import STANDALONE, NewExport
from ...export.prepared_pictures import PreparedPictures
from ...judgements.finding_curves import finding_of
from ...judgements.operating_point import thresholds_of
from ...judgements.per_patient import Patients
from ...registry import adapter_class
from ...runtime.progress import Reporter
from .feature_rows import rows_of_split
from .predictions import check_per_patient, label_thresholds
from .stored_run import fitted_adapter, recipe_again

FEATURES = "features"
FILES = {FEATURES: "head.onnx", PIXELS: "model.onnx"}
INT8 = "model.int8.onnx"
EXPORTED = frozenset({"features", "pre_projection", "text_encoder"})
"""What a graph can be given of an image, and the attached towers."""
MOST_CHECKED, MEASURED = 512, 128
"""Test images, and training images for ranges in 8 bits."""


def check_exported(use: Use) -> None:
    """Raise the CapabilityError of a method whose answer is no function of one image's features or pixels."""
    cls, why = adapter_class(use.run.info.adapter), ""
    if "streams" in cls.can:
        why = "learns from the images it predicts"
    elif cls.transductive:
        why = "reads all images together"
    elif "parts" in cls.at_predict and not cls.reads_bags:
        why = "reads the parts of a sample"
    elif not cls.reads_bags and not cls.at_predict <= EXPORTED:
        extra = ", ".join(sorted(cls.at_predict - EXPORTED)).replace("_", " ")
        why = f"needs more of an image than its features ({extra})"
    elif "images" in cls.needs:
        why = "tunes itself on views of each image"
    if why:
        raise CapabilityError(
            f"{use.run.shown}: adapter '{cls.name}' {why}, which no graph can do; predict with the run"
        )


def export_run(
    use: Use,
    wishes: ExportWishes,
    task: str,
    read: Callable[..., PreparedData],
    reporter: Reporter,
    kind: type[Export],
) -> Exported:
    """Write the graphs of a run; see `Task.export`.

    Args:
        kind: what writes them.
        read: what gives the data side of a recipe, as `Classification.prepared`.
    """
    check_exported(use)
    new = NewExport(use.run, wishes)
    recipe = recipe_again(use)
    if wishes.int8 and (recipe.features or kind.of_parts):
        of = "features of parts" if kind.of_parts else "a features file"
        raise ConfigError(f"--int8: is for the graph from pixels, and a run of {of} has none; omit it")
    other = bool(use.data or use.features)
    prepared = read(recipe.with_(shots=0), reporter, divided=not other)
    adapter = fitted_adapter(use.run, prepared.backbone).to(prepared.device)
    check_per_patient(use, adapter)
    patients = None
    if use.per_patient is not None:
        patients = Patients.of_run(use.run, Calibration.load(use.run.path), use.per_patient)
    tested = rows_of_split(prepared, "test", everything=other, parts=kind.of_parts)
    tested = tested.select(list(range(0, len(tested), -(-len(tested) // MOST_CHECKED))))
    made = kind(new, use.run.shown, prepared, adapter, tested, task, patients)
    with new.folder() as folder:
        facts, notes = made.written(folder, reporter)
    return new.exported(facts, notes)


class Head(nn.Module):
    """Features (B, D), and those before the projection where the method asks for them -> calibrated logits (B, C), and
    the distance (B,) to what the run was fitted on."""

    def __init__(self, adapter: Adapter, calibration: Calibration | None):
        super().__init__()
        self.adapter = adapter
        scaling, unlike = (None, None) if calibration is None else (calibration.scaling, calibration.unlike)
        tells_unlike = unlike is not None and unlike.known and unlike.support.shape[1] == adapter.dim_
        self.register_buffer("temperature", torch.ones(1) if scaling is None else scaling.temperature.float())
        self.register_buffer("offset", torch.zeros(1) if scaling is None else scaling.offset.float())
        self.register_buffer("support", unlike.support if tells_unlike else None)

    def forward(self, features: Tensor, pre_projection: Tensor | None = None):
        outputs = self.calibrated(
            self.adapter.logits(Batch(features=features, pre_projection=pre_projection)), features
        )
        return outputs if len(outputs) > 1 else outputs[0]

    def calibrated(self, logits: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        """Calibrated logits (B, C), and where the run can tell the distance (B,) of features (B, D)."""
        logits = logits.float() / self.temperature + self.offset
        if self.support is None:
            return (logits,)
        away = 1 - F.normalize(features.float(), dim=1) @ self.support.T  # (B, M)
        nearest = away.topk(min(NEIGHBOURS, len(self.support)), dim=1, largest=False).values
        return logits, nearest.mean(dim=1)


class ClassifierGraph(nn.Module):
    """Pixels (B, 3, H, W) as the tower takes them -> what the head gives, and the features (B, D)."""

    def __init__(self, towers: Backbone, head: Head):
        super().__init__()
        self.model, self.head, self._towers = towers.model, head, towers

    def forward(self, pixels: Tensor):
        features = self._towers.encode_image(pixels, False).float()
        hidden = self._towers.hidden(pixels).float() if "pre_projection" in self.head.adapter.at_predict else None
        outputs = self.head(features, hidden)
        return (*(outputs if isinstance(outputs, tuple) else (outputs,)), features)


@dataclass
class Export:
    """The graphs of a run under way, from features and where one picture is a sample from pixels.

    Class attributes:
        of_parts: whether samples are read with their parts.
    """

    of_parts: ClassVar[bool] = False

    new: NewExport
    shown: str
    prepared: Any
    adapter: Adapter
    tested: FeatureSet
    task: str
    patients: Patients | None = None

    def written(self, folder: Path, reporter: Reporter) -> tuple[dict[str, Any], list[str]]:
        """Write and check all files; what export.json holds, and sentences for the user."""
        facts, notes = self._facts(), []
        with reporter.task("Writing graphs", unit="graphs") as progress:
            head = self.new.write(self.head_graph, folder / FILES[FEATURES], facts)
            progress(1, 2)
            if self.pictures:
                whole = self.new.write(self.whole_graph, folder / FILES[PIXELS], facts)
            progress(2, 2)
        checks = {FEATURES: self._checked_head(head)}
        facts["graphs"] = {FEATURES: FILES[FEATURES]}
        if self.pictures:
            facts["graphs"][PIXELS] = FILES[PIXELS]
            checks |= self._checked_whole(whole, reporter)
        else:
            notes.append(f"no graph from pixels: {self._why_no_pictures}")
        for name, check in checks.items():
            if name in FILES and not check.is_close:
                raise CapabilityError(
                    f"{self.shown}: the graph from {name} does not match the model, {check.words}; predict with the run"
                )
        if self.new.wishes.int8 and not self.pictures:
            notes.append("only a graph from pixels can have 8 bits, so none was written")
        elif self.new.wishes.int8:
            facts["int8"], checks["int8"] = self._in_8_bits(folder, reporter)
            facts["graphs"][PIXELS] = INT8
            notes.append(f"{INT8} has {facts['int8']}")
            if checks["int8"].same < SAME_ANSWERS:
                notes.append(
                    f"in 8 bits {1 - checks['int8'].same:.1%} of the answers change, more than {1 - SAME_ANSWERS:.1%}; "
                    f"{FILES[PIXELS]} beside it is in 32 bits"
                )
        if "files" in checks and not checks["files"].is_close:
            notes.append(f"predict.py prepares pictures a little differently from the domain: {checks['files'].words}")
        self.new.finish(folder, facts, checks, STANDALONE if self.scripted else None)
        return facts, notes

    # what is written -------------------------------------------------------------------------------------------------

    @cached_property
    def head(self) -> Head:
        return Head(self.adapter, self.calibration).to(self.tested.features.device)

    @cached_property
    def calibration(self) -> Calibration | None:
        calibration = Calibration.load(self.new.run.path)
        if calibration is None or not calibration.multilabel:
            return calibration
        return replace(
            calibration,
            thresholds=label_thresholds(thresholds_of(self.new.run), calibration, self.adapter.class_names_),
        )

    @cached_property
    def towers(self) -> Backbone:
        return self.adapter.adapted(self.prepared.backbone)

    @property
    def _outputs(self) -> list[str]:
        return ["logits"] if self.head.support is None else ["logits", "distance"]

    @property
    def head_graph(self) -> Graph:
        return Graph(self.head, {name: rows[:2] for name, rows in self._inputs.items()}, self._outputs)

    @property
    def whole_graph(self) -> Graph:
        example = next(self.prepared_pictures.batches(self.items[:2]))[1].to(self.towers.device)
        return Graph(ClassifierGraph(self.towers, self.head), {PIXELS: example}, [*self._outputs, FEATURES])

    @cached_property
    @torch.no_grad()
    def _inputs(self) -> dict[str, Tensor]:
        """Of the head, (N, ...), of the images that are checked."""
        inputs = {FEATURES: self.tested.features}
        if "pre_projection" in self.adapter.at_predict:
            batches = self.prepared_pictures.batches(self.items)
            hidden = [self.towers.hidden(pixels.to(self.towers.device)).float() for _, pixels in batches]
            inputs["pre_projection"] = torch.cat(hidden)
        return inputs

    def _in_8_bits(self, folder: Path, reporter: Reporter) -> tuple[str, Agreement]:
        """Write the graph in 8 bits; where too many answers change, with 16 for what convolutions are given."""
        attempts: dict[int, tuple[str, Agreement]] = {}
        for bits in (8, 16) if has_convolutions(folder / FILES[PIXELS]) else (8,):
            path = folder / f"{bits}-{INT8}"
            words = write_in_8_bits(folder / FILES[PIXELS], path, list(self._for_ranges()), bits)
            attempts[bits] = words, self._checked_whole(Session(path), reporter)["files"]
            if attempts[bits][1].same >= SAME_ANSWERS:
                break
        best = max(attempts, key=lambda bits: attempts[bits][1].same)  # of a tie the first
        for bits in attempts:
            path = folder / f"{bits}-{INT8}"
            path.rename(folder / INT8) if bits == best else path.unlink()
        return attempts[best]

    # images ----------------------------------------------------------------------------------------------------------

    @cached_property
    def items(self) -> list[Item]:
        return items_of(self.tested.ids, self.prepared.data.items)

    @cached_property
    def prepared_pictures(self) -> PreparedPictures:
        transform = self.prepared.domain.transforms(self.prepared.backbone, False, self.task)
        return PreparedPictures(self.prepared.data.load, transform, self.towers.channels)

    @cached_property
    def pictures(self) -> bool:
        """Whether a sample is one picture that a graph can be given."""
        return not self._why_no_pictures

    @cached_property
    def _why_no_pictures(self) -> str:
        if self.prepared.backbone is None:
            return "the run was made from a features file"
        if self.prepared_pictures.pixels(self.items[0]).ndim != 3:
            return "a sample has several pictures, whose features are averaged"
        return ""

    @property
    def scripted(self) -> bool:
        """Whether the script can prepare these pictures."""
        return self.pictures and self.prepared_pictures.scripted

    def _for_ranges(self) -> Iterator[dict[str, np.ndarray]]:
        items = self.prepared.data.split("train") or self.items
        for _, pixels in self.prepared_pictures.batches(items[:: -(-len(items) // MEASURED)]):
            yield {PIXELS: pixels.numpy()}

    # checks ----------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _checked_head(self, session: Session) -> Agreement:
        inputs = self._inputs
        outputs = self.head(*inputs.values())
        logits = outputs[0] if isinstance(outputs, tuple) else outputs
        answers = session(**{name: rows.cpu().numpy() for name, rows in inputs.items()})
        return self._agreement(logits, torch.from_numpy(answers["logits"]))

    @torch.no_grad()
    def _checked_whole(self, session: Session, reporter: Reporter) -> dict[str, Agreement]:
        """On the same pixels, and on files as predict.py prepares them."""
        whole = ClassifierGraph(self.towers, self.head).eval()
        by_model, on_pixels, on_files = [], [], []
        with reporter.task("Comparing answers") as progress:
            for items, pixels in self.prepared_pictures.batches(self.items):
                by_model.append(whole(pixels.to(self.towers.device))[0].cpu())
                seen = self.prepared_pictures.of_script(items, pixels)
                on_pixels.append(session(pixels=pixels.numpy())["logits"])
                same = np.array_equal(seen, pixels.numpy())
                on_files.append(on_pixels[-1] if same else session(pixels=seen)["logits"])
                progress(sum(map(len, on_pixels)), len(self.items))
        model = torch.cat(by_model)
        answers = {PIXELS: on_pixels, "files": on_files}
        return {name: self._agreement(model, torch.from_numpy(np.concatenate(rows))) for name, rows in answers.items()}

    def _agreement(self, model: Tensor, graph: Tensor) -> Agreement:
        return Agreement.of(model, graph, self._labels, self._thresholds)

    @property
    def _labels(self) -> Tensor | None:
        names, labels = list(self.prepared.class_names), self.tested.labels
        if labels is None or names != list(self.adapter.class_names_):
            return None
        return labels

    @property
    def _thresholds(self) -> Tensor | None:
        if not self.adapter.multilabel_:
            return None
        return label_thresholds(thresholds_of(self.new.run), self.calibration, self.adapter.class_names_)

    # what is said of it ----------------------------------------------------------------------------------------------

    def _facts(self) -> dict[str, Any]:
        calibration, thresholds, finding = self.calibration, self._thresholds, finding_of(self.new.run)
        return {
            **self.new.first_facts,
            "adapter": self.new.run.info.adapter,
            "class_names": list(self.adapter.class_names_),
            "multilabel": bool(self.adapter.multilabel_),
            "thresholds": None if thresholds is None else thresholds.tolist(),
            **({} if finding is None else {"finding": finding}),
            **({"operating_point": points} if (points := thresholds_of(self.new.run)) else {}),
            "calibrated": calibration is not None,
            **_sets(calibration),
            **({} if self.patients is None else {"per_patient": self._of_patients(self.patients)}),
            "unlike_beyond": calibration.unlike.limit if "distance" in self._outputs else None,
            "opset": self.new.opset,
            **self.new.last_facts,
            **({"preprocessing": self.prepared_pictures.transform.spec} if self.pictures else {}),
        }

    def _of_patients(self, patients: Patients) -> dict[str, Any]:
        """What replaces the facts of images in answers per patient, and how logits of images become those of one."""
        calibration, names = patients.calibration, self.adapter.class_names_
        scaling = {"temperature": calibration.scaling.temperature, "offset": calibration.scaling.offset}
        several = calibration.multilabel
        return {
            "how": patients.pooling.how,
            **{key: values.expand(len(names)).tolist() for key, values in scaling.items()},
            "thresholds": label_thresholds(patients.points, calibration, names).tolist() if several else None,
            "operating_point": dict(patients.points),
            **_sets(calibration),
        }


def _sets(calibration: Calibration | None) -> dict[str, Any]:
    """Coverage -> (C,) the probability from which on a class is in the set of an image, and the same per class."""
    if calibration is None:
        return {"coverage": {}, "coverage_per": {}}
    if calibration.multilabel:
        made = {str(each): calibration.conformal(each) for each in TABLE_COVERAGES}
        least = {share: [float(sets.threshold)] * len(calibration.class_names) for share, sets in made.items()}
        return {"coverage": least, "coverage_per": {}}

    def least_of(per_class: bool) -> dict[str, list[float]]:
        made = {str(each): calibration.conformal(each, per_class=per_class) for each in TABLE_COVERAGES}
        return {share: (1 - sets.thresholds).clamp(min=0).tolist() for share, sets in made.items()}

    return {"coverage": least_of(False), "coverage_per": {"class": least_of(True)}}
