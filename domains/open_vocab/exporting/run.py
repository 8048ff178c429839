"""A run of a detector or segmentor as ONNX graphs, compared with its model on test images before they are written.

One graph takes any number of images of one size as the model's data preprocessor gives them, and gives what the model's
head gives: logits of each pixel, or scores and boxes of each level before any is suppressed. A detector of two stages
has a second graph, for the regions that are left of the first. What follows is numpy in predict.py.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .... import __version__
from ....core.contracts.domain import DomainData, Item
from ....core.contracts.task import Use
from ....core.data.images import IMAGE_SUFFIXES
from ....core.errors import CapabilityError, ConfigError
from ....core.export.agreement import LARGEST_SHARE, Agreement
from ....core.export.graph import Graph, Session, check_opset, library
from ....core.export.package import FORMAT, Exported, Wishes, check_free, new_folder, write_facts
from ....core.runtime.progress import Reporter
from ....core.tasks.config_training.registered import registered_only, running
from ....core.tasks.config_training.runner import quiet
from ..data.items_file import to_uint8
from ..inference.running import known_names, outcomes
from .standalone import pictures

MOST_CHECKED = 64
LEAST_SAME = 0.98
"""Share of boxes, or pixels, that are to be the same: of two that score nearly alike either may be kept."""
LEAST_SIDE = 192
PIXELS = "pixels"
FILES = {PIXELS: "model.onnx", "regions": "regions.onnx"}
SCRIPTS = Path(__file__).with_name("standalone")
UNDECODED = frozenset({"max_pixels"})
"""Keys of `Item.decode` that change no pixel."""
Progress = Callable[[int, int], None]
LARGEST_SIDE = 4096
UNCHANGED = frozenset({"LoadAnnotations", "LoadSegmentation", "PackDetInputs", "PackSegInputs"})
"""Transforms that leave an image as it is."""

RESIZED = (("FitImage", {}), ("Resize", {"keep_ratio": True}))
"""Transforms that predict.py knows, with their options besides the scale; the second enlarges too."""


def any_size(multiple: int) -> dict[int, Any]:
    """Axes of pixels (B, 3, H, W) in multiples: of a trace that does not know them sizes after each stride are rounded
    in terms of the one before, and it takes minutes."""
    return {
        axis: multiple * torch.export.Dim(name, min=1, max=LARGEST_SIDE // multiple)
        for axis, name in ((2, "height"), (3, "width"))
    }


class Form(ABC):
    """What a kind of model becomes: its graphs, and how their answers are compared with its own.

    A form sets `scripts`, name in the folder -> file of `standalone`; `values`, what its outputs are; and `answers`,
    what is the same or not.

    Args:
        model: of a run; its graphs are made after it has answered once.
    """

    scripts: ClassVar[Mapping[str, str]]
    values: ClassVar[str]
    answers: ClassVar[str]

    def __init__(self, model: nn.Module):
        self.model = model

    @abstractmethod
    def check(self) -> None:
        """Raise the CapabilityError of a model that does more than graphs can do: why, and what to do."""

    @abstractmethod
    def graphs(self, pixels: Tensor, sizes: Mapping[int, Any]) -> dict[str, Graph]:
        """By name, of an example (2, 3, H, W) whose axes may have these sizes."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What predict.py needs to know besides names and preprocessing."""

    @abstractmethod
    def answer(self, sessions: Mapping[str, Session], pixels: np.ndarray, size, whole, facts) -> Any:
        """What predict.py finds in a picture of `size` in its pixels, (height, width), and of `whole` itself."""

    @abstractmethod
    def same(self, sample: Any, answer: Any) -> tuple[float, float]:
        """How many answers of the model and the graph are the same, and of how many."""


def export_run(
    form: type[Form], model: nn.Module | None, data: DomainData, use: Use, wishes: Wishes, reporter: Reporter
) -> Exported:
    """Write and compare; see `Task.export`.

    Args:
        data: its test split is what is compared.
    """
    if wishes.int8:
        raise ConfigError("--int8: graphs of detectors and segmentors have 32 bits; omit it")
    if model is None:
        raise CapabilityError(f"{use.run.shown}: nothing was trained in this run, so there is nothing to export")
    check_free(wishes.out)
    opset = check_opset(wishes.opset)
    library("onnxruntime")
    made = form(model)
    try:
        made.check()
    except CapabilityError as error:
        raise CapabilityError(f"{use.run.shown}: {error}") from None
    items = data.split("test")
    items = items[:: -(-len(items) // MOST_CHECKED)]
    with new_folder(wishes.out) as folder, quiet(), registered_only(), running(use.run):
        _, pixels, _ = next(_answered(model, data, items[:1]))
        graphs = made.graphs(_example(pixels, model), any_size(_multiple(model)))
        facts = _facts(use, model, made, opset, list(graphs))
        sessions = _written(graphs, folder, opset, facts, use, reporter)
        with reporter.task("Comparing answers") as progress:
            answered = _answered(model, data, items, progress)
            checks = _checks(made, graphs[PIXELS].module, sessions, answered, data, facts)
        if checks[PIXELS].share > LARGEST_SHARE or checks[PIXELS].same < LEAST_SAME:
            words = checks[PIXELS].words
            raise CapabilityError(f"{use.run.shown}: the graph is not the model, {words}; predict with the run")
        facts["checks"] = {name: check.facts for name, check in checks.items()}
        scripted = facts["preprocessing"] is not None
        write_facts(folder, facts, {name: SCRIPTS / of for name, of in (made.scripts if scripted else {}).items()})
    notes = [] if scripted else ["images are transformed by the config in its own way, so there is no predict.py"]
    return Exported(wishes.out, facts, notes)


def _written(
    graphs: Mapping[str, Graph], folder: Path, opset: int, facts: dict[str, Any], use: Use, reporter: Reporter
) -> dict[str, Session]:
    """Write the graphs, and open them."""
    text = json.dumps(facts, ensure_ascii=False)
    with reporter.task("Writing graphs", unit="graphs") as progress:
        for done, (name, graph) in enumerate(graphs.items(), start=1):
            try:
                graph.write(folder / FILES[name], opset, {"vladapt": text})
            except CapabilityError as error:
                raise CapabilityError(f"{use.run.shown}: {error}") from error
            progress(done, len(graphs))
    return {name: Session(folder / FILES[name]) for name in graphs}


def _answered(
    model: nn.Module, data: DomainData, items: Sequence[Item], progress: Progress = lambda done, total: None
) -> Iterator[tuple[Item, Tensor, Any]]:
    """Each item, its pixels (1, 3, H, W) as the model was given them, and the data sample that it made."""
    seen: list[Tensor] = []

    def keep(module, args, outputs) -> None:
        seen.extend(outputs["inputs"].split(1))

    hook = model.data_preprocessor.register_forward_hook(keep)
    try:
        for item, sample in outcomes(model, data, items, progress):
            yield item, seen.pop(0), sample
    finally:
        hook.remove()


def _example(pixels: Tensor, model: nn.Module) -> Tensor:
    """(2, 3, H, W) of noise, neither square nor small: what is the same or 1 by chance a trace would take for fixed."""
    many = _multiple(model)
    height, width = (-(-side // many) * many for side in (LEAST_SIDE, LEAST_SIDE + 64))
    made = torch.randn(2, 3, height, width + many * (height == width), generator=torch.Generator().manual_seed(0))
    return made.to(pixels)


def _checks(
    made: Form, module: nn.Module, sessions, answered: Iterator, data: DomainData, facts: Mapping[str, Any]
) -> dict[str, Agreement]:
    """Of outputs on the same pixels, and of answers; these also on files as predict.py prepares them."""
    counts: dict[str, np.ndarray] = {PIXELS: np.zeros(2)}
    outputs = []
    for item, pixels, sample in answered:
        with torch.no_grad():
            by_model = module(pixels)
        by_model, given = by_model if isinstance(by_model, tuple) else (by_model,), pixels.cpu().numpy()
        by_graph = sessions[PIXELS](pixels=given).values()
        outputs.append([_away(one.cpu().numpy(), other) for one, other in zip(by_model, by_graph, strict=True)])
        size, whole = tuple(sample.img_shape[:2]), tuple(sample.ori_shape[:2])
        counts[PIXELS] += made.same(sample, made.answer(sessions, given, size, whole, facts))
        if facts["preprocessing"] is not None:
            seen, size = pictures.pixels(_picture(item, data), facts["preprocessing"])
            same = made.same(sample, made.answer(sessions, seen, size, whole, facts))
            counts["files"] = counts.get("files", 0) + np.array(same)
    away, least, most = np.array(outputs).transpose(2, 0, 1)  # (N, outputs) each
    shares = away.max(axis=0) / (most.max(axis=0) - least.min(axis=0)).clip(1e-12)
    worst = int(shares.argmax())
    found = (len(outputs), float(away[:, worst].max()), float(shares[worst]))
    words = {"values": made.values, "answers": made.answers}
    shares = {name: float(same / among) if among else 1.0 for name, (same, among) in counts.items()}
    return {name: Agreement(*found, share, **words) for name, share in shares.items()}


def _away(model: np.ndarray, graph: np.ndarray) -> tuple[float, float, float]:
    """Largest difference; and what the model gives at least and at most."""
    return float(np.abs(model - graph).max()), float(model.min()), float(model.max())


def _picture(item: Item, data: DomainData) -> np.ndarray:
    """(H, W, 3) uint8 of a file as predict.py decodes it; of a picture that is no file of its own, as decoded here."""
    if not item.decode.keys() - UNDECODED and item.source.suffix.lower() in IMAGE_SUFFIXES:
        return pictures.decoded(item.source)
    return to_uint8(data.load(item))


def _multiple(model: nn.Module) -> int:
    """What sides of pixels are multiples of."""
    given = model.data_preprocessor
    of_tests = getattr(given, "test_cfg", None)  # mmseg pads in tests where it says so
    if hasattr(given, "test_cfg"):
        return int((of_tests or {}).get("size_divisor") or 1)
    return int(getattr(given, "pad_size_divisor", 1) or 1)


def _preprocessing(model: nn.Module) -> dict[str, Any] | None:
    """What predict.py does to a picture; None where a config transforms it in another way."""
    first, *others = [each for each in model.cfg.vladapt.test_pipeline if _type(each) not in UNCHANGED]
    resize = others[0] if others else {}
    how = {key: value for key, value in resize.items() if key not in ("type", "scale")}
    given = model.data_preprocessor
    usual = (
        _type(first) == "LoadItemImage"
        and not first.get("to_float32")
        and (not resize or (_type(resize), how) in RESIZED)
        and len(others) < 2
        and getattr(given, "_enable_normalize", False)
    )
    if not usual:
        return None
    swapped = bool(getattr(given, "_channel_conversion", False) or getattr(given, "channel_conversion", False))
    is_rgb = (first.get("channels", "bgr") == "rgb") != swapped
    return {
        "largest": [int(side) for side in resize["scale"]] if resize else None,
        "enlarge": bool(how),
        "channels": "rgb" if is_rgb else "bgr",
        "mean": given.mean.flatten().tolist(),
        "std": given.std.flatten().tolist(),
        "multiple": _multiple(model),
        "padding": float(given.pad_val if hasattr(given, "pad_val") else given.pad_value),
    }


def _type(transform: Mapping[str, Any]) -> str:
    return str(transform["type"]).rpartition(".")[2]


def _facts(use: Use, model: nn.Module, made: Form, opset: int, graphs: Sequence[str]) -> dict[str, Any]:
    info = use.run.info
    return {
        "format": FORMAT,
        "vladapt": __version__,
        "run": use.run.path.name,
        "task": info["task"],
        "model": type(model).__name__,
        "class_names": list(known_names(model)),
        "graphs": {name: FILES[name] for name in graphs},
        **made.facts,
        "opset": opset,
        "sizes": f"height and width in multiples of {_multiple(model)}",
        "preprocessing": _preprocessing(model),
        "backbone": {key: info["backbone"].get(key) for key in ("spec", "fingerprint")},
        "licences": {
            "weights": info["backbone"].get("licence") or "unknown",
            "data": (info.get("data") or {}).get("licence") or "unknown",
        },
    }
