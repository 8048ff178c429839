"""An ONNX export of a detector or segmentor that answers requests, without torch: what its predict.py does, of pictures
of one shape together."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from ..contracts.serving import FinderFacts, Refused, Sample, Served, Serving, Wishes, check_finding, only_answered
from ..data.images import decode_picture
from ..errors import NOT_FINITE, CapabilityError, DataError
from ..export.folder import CURE, FACTS, MOST_SIDE, SCRIPT, Session, is_graph, is_number, library, read_export
from ..export.scripts import boxes, maps, pictures
from ..runtime.reading import read_bytes, read_json

MODEL = "model"
"""The graph, in `graphs` of the facts."""
SIZES = (1, 2, 4)
EXAMPLE = (480, 640, 3)
Outputs = Mapping[str, np.ndarray]
Size = tuple[int, int]
"""Height and width."""


class Script(ABC):
    """What a predict.py makes of the outputs of a graph; `score` as in `FinderFacts`.

    Args:
        facts: of the export.
    """

    options: ClassVar[tuple[str, ...]]
    score: float | None = None

    def __init__(self, facts: Mapping[str, Any]):
        self.names, self._facts = list(facts["class_names"]), facts

    @abstractmethod
    def is_usable(self) -> bool:
        """Whether the facts have what is needed."""

    @abstractmethod
    def answer(self, outputs: Outputs, size: Size, whole: Size) -> Any:
        """Of the outputs of one picture, which has `size` in the graph's pixels and is `whole`."""

    @abstractmethod
    def row(self, name: str, answer: Any, wishes: Wishes) -> dict[str, Any]:
        """What is said of a picture."""


class BoxScript(Script):
    """Of boxes.py."""

    options = ("score", "classes")

    def __init__(self, facts: Mapping[str, Any]):
        super().__init__(facts)
        self.score = facts.get("score", boxes.UNSURE)  # exports of earlier versions do not say it

    def is_usable(self) -> bool:
        queries = "queries" in self._facts
        rule = self._facts.get("queries" if queries else "boxes")
        if not isinstance(rule, dict):
            return False
        together = rule.get("learned_together")
        return (
            _is_share(self.score)
            and is_number(rule.get("score_thr"))
            and isinstance(together, list)
            and [type(each) for each in together] == [bool] * len(self.names)
            and (self._ranks_queries(rule) if queries else self._suppresses(rule))
        )

    @staticmethod
    def _suppresses(rule: Mapping[str, Any]) -> bool:
        return (
            all(is_number(rule.get(key)) for key in ("min_bbox_size", "iou_threshold"))
            and _is_count(rule.get("max_per_img"))
            and (rule.get("nms_pre") is None or _is_count(rule["nms_pre"]))
        )

    def _ranks_queries(self, rule: Mapping[str, Any]) -> bool:
        rows, raster = rule.get("rows"), rule.get("raster")
        return (
            all(isinstance(rule.get(key), bool) for key in ("softmax", "per_query"))
            and (rule.get("most") is None or _is_count(rule["most"]))
            and (rows is None or (_are_counts(rows, 0) and len(rows) == len(self.names)))
            and (raster is None or (_are_counts(raster, 1) and len(raster) == 2 and max(raster) <= MOST_SIDE))
        )

    def answer(self, outputs: Outputs, size: Size, whole: Size) -> tuple[np.ndarray | None, ...]:
        return boxes.answer_of(outputs, size, whole, self._facts)

    def row(self, name: str, answer: Any, wishes: Wishes) -> dict[str, Any]:
        if wishes.classes is not None:
            chosen_labels = [self.names.index(each) for each in wishes.classes]
            chosen = np.isin(answer[2], chosen_labels)
            answer = tuple(None if each is None else each[chosen] for each in answer)
        return boxes.row_of(name, answer, self.names, wishes.score)


class MapScript(Script):
    """Of maps.py."""

    options = ("classes",)

    def is_usable(self) -> bool:
        threshold = self._facts.get("threshold")
        return is_number(threshold) if len(self.names) == 1 else threshold is None or is_number(threshold)

    def answer(self, outputs: Outputs, size: Size, whole: Size) -> np.ndarray:
        return maps.map_of(outputs["logits"][0], size, whole, self._facts["threshold"])

    def row(self, name: str, answer: np.ndarray, wishes: Wishes) -> dict[str, Any]:
        row = maps.row_of(name, answer, self.names, masks=True)
        if wishes.classes is None:
            return row
        shares = {name: share for name, share in row["shares"].items() if name in wishes.classes}
        masks = {name: row["masks"][name] for name in row["masks"] if name in shares}
        return {**row, "shares": shares, "masks": masks, "summary": maps.summary_of(shares)}


SCRIPTS: dict[str, type[Script]] = {"boxes.py": BoxScript, "maps.py": MapScript}
"""`script` of the facts -> what it makes of outputs."""


class ServedFinder(Served):
    """The folder that `vladapt export` wrote.

    Raises:
        DataError: it is damaged. CapabilityError: pictures are prepared in a way of the config's own, what the graph
            gives is made to answers in another way than these, or onnxruntime is missing.
    """

    facts: FinderFacts
    sizes = SIZES

    def __init__(self, folder: Path, serving: Serving):
        library("onnxruntime")
        facts = read_export(folder)
        self._script = _script_of(facts, folder)
        self._how = facts["preprocessing"]
        self._session = Session(folder / facts["graphs"][MODEL], serving.threads)
        self._max_pixels = serving.max_pixels
        self.name = str(facts.get("run", folder.name))
        self.facts = FinderFacts(
            task=str(facts.get("task", "")),
            adapter=str(facts.get("model", "")),
            class_names=self._script.names,
            options=self._script.options,
            any_names=False,
            score=self._script.score,
        )

    def samples(self, files: Sequence[Path]) -> tuple[list[Sample], list[Refused]]:
        return [Sample(str(file), file) for file in files], []

    def prepare(self, sample: Sample) -> None:
        """`prepared` is pixels (1, 3, H, W), the size of the picture in them, and its own."""
        picture = decode_picture(read_bytes(sample.source), sample.id, self._max_pixels)
        sample.prepared = self._prepared(_in_8_bits(picture))

    def _prepared(self, picture: np.ndarray) -> tuple[np.ndarray, Size, Size]:
        return *pictures.pixels(picture, self._how), picture.shape[:2]

    def answer(self, samples: Sequence[Sample]) -> None:
        by_shape: dict[tuple[int, ...], list[Sample]] = {}
        for sample in samples:
            by_shape.setdefault(sample.prepared[0].shape, []).append(sample)
        for group in by_shape.values():
            outputs = self._session(pixels=np.concatenate([sample.prepared[0] for sample in group]))
            for place, sample in enumerate(group):
                own = {name: values[place : place + 1] for name, values in outputs.items()}
                finite = all(np.isfinite(values).all() for values in own.values())
                sample.answer = self._script.answer(own, *sample.prepared[1:]) if finite else DataError(NOT_FINITE)
        for sample in samples:  # not before, since what fails is asked again, one by one
            sample.prepared = None

    def check(self, wishes: Wishes) -> None:
        super().check(wishes)
        check_finding(wishes, self.facts)

    def rows(self, samples: Sequence[Sample], skipped: Sequence[Refused], wishes: Wishes) -> dict[str, Any]:
        samples, skipped = only_answered(samples, skipped)
        rows = [self._script.row(each.id, each.answer, wishes) for each in samples]
        return {"run": self.name, "predictions": rows, "skipped": [[each.id, each.reason] for each in skipped]}

    def examples(self, count: int) -> list[Sample]:
        grey = np.full(EXAMPLE, 127, np.uint8)
        return [Sample(f"example {number}", None, self._prepared(grey)) for number in range(count)]


def has_finder(folder: Path) -> bool:
    """Whether an export is of a model that finds things."""
    facts = read_json(folder / FACTS, CURE)
    graphs = facts.get("graphs") if isinstance(facts, dict) else None
    return isinstance(graphs, dict) and MODEL in graphs


def _script_of(facts: Mapping[str, Any], folder: Path) -> Script:
    """What answers by the facts, which are checked."""
    place, names, name = folder / FACTS, facts.get("class_names"), facts.get("script")
    name = name or ("boxes.py" if "boxes" in facts else "maps.py")  # exports of earlier versions do not say it
    if not isinstance(name, str) or name not in SCRIPTS:
        raise CapabilityError(
            f"{folder}: what its graph gives is made to answers in a way that serve does not know; use its predict.py"
        )
    if not (folder / SCRIPT).is_file():
        raise CapabilityError(f"{folder}: the config prepares its pictures in a way of its own; serve the run itself")
    named = isinstance(names, list) and bool(names) and all(isinstance(each, str) for each in names)
    script = SCRIPTS[name](facts) if named else None
    usable = {
        "class_names": named,
        "graphs": is_graph(facts["graphs"].get(MODEL), folder),
        "preprocessing": _is_preparation(facts.get("preprocessing")),
        name.partition(".")[0]: script is not None and script.is_usable(),
    }
    if wrong := next((key for key, good in usable.items() if not good), None):
        raise DataError(f"{place}: damaged, {wrong} is not usable; {CURE}")
    assert script is not None
    return script


def _is_preparation(how: Any) -> bool:
    """Whether `pictures.pixels` can work by it."""
    if not isinstance(how, dict):
        return False
    largest, mean, std = how.get("largest"), how.get("mean"), how.get("std")
    sides = [] if largest is None else largest if isinstance(largest, list) and len(largest) == 2 else [None]
    if (size := how.get("size")) is not None:
        sides = [*sides, *(size if isinstance(size, list) and len(size) == 2 else [None])]
        if how.get("filter") != "between" and str(how.get("filter")).upper() not in Image.Resampling.__members__:
            return False
    return (
        all(type(side) is int and 1 <= side <= MOST_SIDE for side in sides)
        and isinstance(how.get("enlarge"), bool)
        and how.get("channels") in ("rgb", "bgr")
        and all(isinstance(each, list) and len(each) == 3 and all(map(is_number, each)) for each in (mean, std))
        and 0 not in (std or ())
        and type(how.get("multiple")) is int
        and 1 <= how["multiple"] <= MOST_SIDE
        and is_number(how.get("padding"))
    )


def _in_8_bits(picture: Image.Image | np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8."""
    pixels = np.asarray(picture)
    if pixels.dtype != np.uint8:
        pixels = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return pixels if pixels.shape[-1] == 3 else np.repeat(pixels, 3, axis=-1)


def _is_share(value: Any) -> bool:
    return is_number(value) and 0 <= value <= 1


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 1


def _are_counts(values: Any, least: int) -> bool:
    return isinstance(values, list) and all(type(each) is int and each >= least for each in values)
