"""The folder of an export read again, without torch: what it says of itself, its graphs, and pictures for them."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from PIL import Image

from ..contracts.use import PER_PATIENT
from ..errors import CapabilityError, DataError
from ..runtime.reading import check_unchanged, read_json

FACTS, SCRIPT = "export.json", "predict.py"
FORMAT = 1
PIXELS = "pixels"
"""The graph from pixels to logits, in `graphs` of the facts."""
BAG, COARSE = "bag", "coarse"
"""The graph from the features of a sample's parts to logits, and its inputs: the parts, and of two magnifications those
of the lower one."""
CURE = "export the run again"
MOST_SIDE = 4096


def is_export(folder: Path) -> bool:
    """Whether a folder is an export rather than a run."""
    return (folder / FACTS).is_file()


def read_export(folder: Path) -> dict[str, Any]:
    """What export.json holds of an export whose files are as they were written.

    Raises:
        DataError: damaged, or of another version.
    """
    place = folder / FACTS
    facts = read_json(place, CURE)
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise DataError(f"{place}: not an export of this version of vladapt; {CURE}")
    digests = facts.get("sha256", {})
    if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
        raise DataError(f"{place}: damaged, sha256 is not usable; {CURE}")
    check_unchanged(folder, digests, f"copy the whole folder again, or {CURE}")
    return facts


def read_facts(folder: Path) -> dict[str, Any]:
    """The same of an export that classifies pictures, or bags, all of it checked.

    Raises:
        DataError: damaged, or of another version. CapabilityError: no graph from pixels or bags, or pictures that a
            domain prepares in its own way.
    """
    place, facts = folder / FACTS, read_export(folder)
    graphs = facts.get("graphs")
    if not isinstance(graphs, dict) or graphs.keys().isdisjoint((PIXELS, BAG)) or "class_names" not in facts:
        script = "its predict.py" if (folder / SCRIPT).is_file() else "vladapt predict with the run"
        raise CapabilityError(f"{folder}: has no graph from pixels to classes, which serve needs; use {script}")
    if not (folder / SCRIPT).is_file():
        raise CapabilityError(f"{folder}: the domain prepares its pictures in a way of its own; serve the run itself")
    wrong = next((name for name, good in _checked(facts, folder).items() if not good), None)
    if wrong is not None:
        raise DataError(f"{place}: damaged, {wrong} is not usable; {CURE}")
    return facts


def _checked(facts: dict[str, Any], folder: Path) -> dict[str, bool]:
    """Key -> whether its value is what `predict.py` can work with."""
    names, graphs = facts["class_names"], facts["graphs"]
    count = len(names) if isinstance(names, list) else 0

    def per_class(values: Any) -> bool:
        return isinstance(values, list) and len(values) == count and all(map(is_number, values))

    def coverages(values: Any) -> bool:
        return isinstance(values, dict) and all(map(per_class, values.values()))

    def answers_patients(of: dict[str, Any]) -> bool:
        scaled = per_class(of.get("temperature")) and min(of["temperature"]) > 0 and per_class(of.get("offset"))
        as_of_images = _checked({**facts, **of, "per_patient": None}, folder)
        return of.get("how") in PER_PATIENT and scaled and all(as_of_images.values())

    per, point = facts.get("coverage_per", {}), facts.get("operating_point", {})
    several, of = facts.get("multilabel"), facts.get("per_patient")
    return {
        "class_names": count > 0 and all(isinstance(name, str) for name in names),
        "multilabel": isinstance(several, bool),
        "thresholds": per_class(facts.get("thresholds")) if several else True,
        "coverage": coverages(facts.get("coverage")),
        "coverage_per": isinstance(per, dict) and all(map(coverages, per.values())),
        "finding": facts.get("finding") in (None, *names),
        "operating_point": isinstance(point, dict) and set(point) <= set(names) and all(map(is_number, point.values())),
        "per_patient": of is None or (isinstance(of, dict) and answers_patients(of)),
        "unlike_beyond": facts.get("unlike_beyond") is None or is_number(facts["unlike_beyond"]),
        "graphs": is_graph(graphs.get(BAG, graphs.get(PIXELS)), folder),
        "width": BAG not in graphs or (type(facts.get("width")) is int and facts["width"] > 0),
        "magnifications": facts.get("magnifications", 1) in (1, 2),
        "preprocessing": BAG in graphs or is_preprocessing(facts.get("preprocessing")),
    }


def is_preprocessing(how: Any) -> bool:
    """Whether a value says how predict.py makes pixels of a picture."""
    how = how if isinstance(how, dict) else {}
    size, resize = how.get("image_size"), how.get("resize")
    sides = size if isinstance(size, list) and len(size) == 2 else [size]
    return (
        all(type(side) is int and 1 <= side <= MOST_SIDE for side in sides)
        and (resize is None or (type(resize) is int and 1 <= resize <= MOST_SIDE))
        and how.get("mode") in ("shortest", "squash")
        and str(how.get("interpolation")).upper() in Image.Resampling.__members__
        and all(isinstance(how.get(key), list) and len(how[key]) == 3 for key in ("mean", "std"))
        and all(map(is_number, [*how.get("mean", ()), *how.get("std", ())]))
        and 0 not in how.get("std", ())
    )


def is_graph(name: Any, folder: Path) -> bool:
    """Whether a name is that of a file in the folder itself."""
    return isinstance(name, str) and Path(name).name == name and (folder / name).is_file()


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class Session:
    """A file that answers, on the CPU.

    Args:
        path: of the file.
        threads: of one answer; None for all.

    Raises:
        DataError: it is no graph.
    """

    def __init__(self, path: Path, threads: int | None = None):
        onnxruntime = library("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave the cores alone
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has an exception for each of its codes
            reason = " ".join(str(error).split())
            raise DataError(f"{path}: damaged graph ({reason}); {CURE}") from error
        self.outputs = [each.name for each in self._session.get_outputs()]

    def __call__(self, **inputs: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name."""
        return dict(zip(self.outputs, self._session.run(None, inputs), strict=True))


def script_picture(image: np.ndarray | Image.Image) -> Image.Image | list[Image.Image]:
    """A decoded image as predict.py takes it: Pillow's image, or deeper than 8 bits a list of 3 bands."""
    if isinstance(image, Image.Image):
        return image
    if image.dtype == np.uint8:
        return Image.fromarray(image if image.shape[-1] == 3 else np.repeat(image, 3, axis=-1))
    return [Image.fromarray(np.ascontiguousarray(image[..., band], dtype=np.float32)) for band in range(3)]


def library(name: str) -> ModuleType:
    """onnx, onnxruntime, or a part of them.

    Raises:
        CapabilityError: not installed; says how to get it.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        package = name.partition(".")[0]
        raise CapabilityError(
            f'an ONNX export needs {package}, which is not installed: pip install "vladapt[export]"'
        ) from None
