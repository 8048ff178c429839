"""A run of a detector or segmentor as an ONNX graph, compared with its model on test images before it is written.

The graph takes any number of images of one size as the model's data preprocessor gives them, and gives what the model's
head gives: logits of each pixel, or scores and boxes of each level before any is suppressed. What follows is numpy in
predict.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from efficientnet_lite_pytorch.utils import Conv2dDynamicSamePadding
from torch import Tensor, nn

from ....core.contracts import DomainData, Exported, ExportWishes, Item, Use
from ....core.data import IMAGE
from ....core.errors import CapabilityError, ConfigError
from ....core.export import Agreement, Graph, NewExport, pictures
from ....core.runtime import Reporter
from ....core.tasks import KeptModel, quiet_mm
from ..data.items_file import to_uint8
from ..hub_models.processor import image_processor
from ..inference.running import known_names, outcomes

MOST_CHECKED = 64
LEAST_SAME = 0.98
"""Share of boxes, or pixels, that are to be the same: of two that score nearly alike either may be kept."""
SIZES = ((2, 3), (1, 1), (3, 2), (1, 7))
"""Images, and sides in multiples of what the model pads to: the first is traced with, and all are compared."""
LEAST_SIDE = 64
FILE = "model.onnx"
SCRIPTS = Path(pictures.__file__).parent
UNDECODED = frozenset({"max_pixels"})
"""Keys of `Item.decode` that change no pixel."""
UNCHANGED = frozenset({"LoadAnnotations", "LoadSegmentation", "PackDetInputs", "PackSegInputs"})
"""Transforms that leave an image as it is."""
RESIZED: tuple[tuple[str, dict[str, Any]], ...] = (("FitImage", {}), ("Resize", {"keep_ratio": True}))
"""Transforms that predict.py knows, with their options besides the scale; the second enlarges too."""
PROCESSOR = "ProcessorResize"
POSITIONS = "interpolate_pos_encoding"
"""Of a vision transformer: its positions for a size of images, which one graph has one of."""
Progress = Callable[[int, int], None]
Answers = Callable[..., Mapping[str, np.ndarray]]
"""A graph that is asked: inputs by name -> outputs by name."""


class Form(ABC):
    """What a kind of model becomes: its graph, and how what is made of the graph's answer is compared with its own.

    A form sets `script`, a file beside `pictures`; `values`, what its outputs are; and `answers`, what is the same or
    not.
    """

    script: ClassVar[str]
    values: ClassVar[str]
    answers: ClassVar[str]

    def __init__(self, model: nn.Module):
        self.model = model

    @abstractmethod
    def check(self) -> None:
        """Raise the CapabilityError of a model that does more than a graph can do: why, and what to do."""

    @abstractmethod
    def graph(self, pixels: Tensor) -> Graph:
        """Of an example (B, 3, H, W), for images of any size."""

    def noise(self) -> list[Tensor]:
        """Pixels that the graph is traced with, the first, and compared on: of several sizes."""
        return _noise(self.model)

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) of the only images that the graph takes; None for any."""
        return None

    @property
    def sizes(self) -> str:
        """What sizes of images the graph takes."""
        if self.size is not None:
            return "height {} and width {}".format(*self.size)
        return f"height and width in multiples of {_multiple(self.model)}"

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What predict.py needs to know besides names and preprocessing."""

    @abstractmethod
    def answer(self, outputs: Mapping[str, np.ndarray], size, whole, facts: Mapping[str, Any]) -> Any:
        """What predict.py makes of the outputs for a picture of `size` in the pixels, and of `whole` itself; both are
        (height, width)."""

    def aligned(self, wanted: Sequence[np.ndarray], outputs: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """The graph's outputs in the order of the model's, where their order says nothing."""
        return outputs

    @abstractmethod
    def same(self, sample: Any, answer: Any) -> tuple[float, float]:
        """How many answers of the model and of the graph are the same, and of how many."""


def export_model(
    form: Form, use: Use, wishes: ExportWishes, read: Callable[[], DomainData], reporter: Reporter
) -> Exported:
    """Write and compare; see `Task.export`.

    Args:
        read: the data, whose test split is compared; asked where the model can be exported.
    """
    model = form.model
    if wishes.int8:
        raise ConfigError("--int8: detectors and segmentors are only exported in 32 bits; omit it")
    new = NewExport(use.run, wishes)
    try:
        form.check()
        data = read()
        items = data.split("test")[:: -(-len(data.split("test")) // MOST_CHECKED)]
        with new.folder() as folder, quiet_mm(), KeptModel(use.run).running():
            facts = _facts(new, model, form)
            noise = form.noise()
            graph = form.graph(noise[0])
            with reporter.task("Writing the graph"), sizes_by_strides():
                ask = new.write(graph, folder / FILE, facts)
            away = [_away(form, graph.module, ask, pixels) for pixels in noise]
            with reporter.task("Comparing answers") as progress:
                checks = _checks(form, graph.module, ask, _answered(model, data, items, progress), data, facts, away)
            worst = checks["pixels"]
            if not worst.is_close or worst.same < LEAST_SAME:
                raise CapabilityError(
                    f"the graph does not answer as the model does, {worst.words}; predict with the run"
                )
            scripted = facts["preprocessing"] is not None
            files = (SCRIPTS / form.script, [SCRIPTS / "pictures.py"]) if scripted else ()
            new.finish(folder, facts, checks, *files)
    except CapabilityError as error:
        raise CapabilityError(f"{use.run.shown}: {error}") from error
    notes = [] if scripted else ["the config prepares images in its own way, so there is no predict.py"]
    return new.exported(facts, notes)


@contextmanager
def sizes_by_strides() -> Iterator[None]:
    """Convolutions of the default backbone pad by their strides, as is right for sides in multiples of all strides;
    otherwise they work out sizes as numbers, which a trace would keep."""
    with mock.patch.object(Conv2dDynamicSamePadding, "forward", _padded_by_stride):
        yield


def _padded_by_stride(self: Conv2dDynamicSamePadding, x: Tensor) -> Tensor:
    margins = []
    for kernel, stride, dilation in reversed(list(zip(self.kernel_size, self.stride, self.dilation, strict=True))):
        margin = max((kernel - 1) * dilation + 1 - stride, 0)
        margins += [margin // 2, margin - margin // 2]
    return F.conv2d(F.pad(x, margins), self.weight, self.bias, self.stride, 0, self.dilation, self.groups)


def _noise(model: nn.Module) -> list[Tensor]:
    """Pixels of several sizes."""
    made, many = torch.Generator().manual_seed(0), _multiple(model)
    many *= -(-LEAST_SIDE // many)
    return [
        torch.randn(1 + number % 2, 3, rows * many, columns * many, generator=made)
        for number, (rows, columns) in enumerate(SIZES, start=1)
    ]


def _answered(
    model: nn.Module, data: DomainData, items: Sequence[Item], progress: Progress
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


def _away(form: Form, module: nn.Module, ask: Answers, pixels: Tensor) -> list[tuple[float, float, float]]:
    """Of each output the largest difference, and what the module gives at least and at most."""
    with torch.no_grad():
        wanted = module(pixels)
    wanted = [each.numpy() for each in (wanted if isinstance(wanted, tuple) else (wanted,))]
    pairs = zip(wanted, form.aligned(wanted, list(ask(pixels=pixels.numpy()).values())), strict=True)
    return [(float(np.abs(one - other).max()), float(one.min()), float(one.max())) for one, other in pairs]


def _checks(
    form: Form, module: nn.Module, ask: Answers, answered: Iterator, data: DomainData, facts: Mapping[str, Any], away
) -> dict[str, Agreement]:
    """Of outputs on the same pixels, those `away` among them, and of answers; these also on files as predict.py
    prepares them."""
    counts: dict[str, np.ndarray] = {"pixels": np.zeros(2)}
    first = len(away)
    for item, pixels, sample in answered:
        away = [*away, _away(form, module, ask, pixels)]
        size, whole = tuple(sample.img_shape[:2]), tuple(sample.ori_shape[:2])
        counts["pixels"] += form.same(sample, form.answer(ask(pixels=pixels.numpy()), size, whole, facts))
        if facts["preprocessing"] is not None:
            seen, size = pictures.pixels(_picture(item, data), facts["preprocessing"])
            of_file = form.same(sample, form.answer(ask(pixels=seen), size, whole, facts))
            counts["files"] = counts.get("files", 0) + np.array(of_file)
    most, lows, highs = np.array(away).transpose(2, 0, 1)  # (N, outputs) each
    shares = most.max(axis=0) / (highs.max(axis=0) - lows.min(axis=0)).clip(1e-12)
    worst = int(shares.argmax())
    told = {"values": form.values, "answers": form.answers}
    same = {name: float(equal / among) if among else 1.0 for name, (equal, among) in counts.items()}
    return {
        name: Agreement(len(away) - first, float(most[:, worst].max()), float(shares[worst]), share, **told)
        for name, share in same.items()
    }


def _picture(item: Item, data: DomainData) -> np.ndarray:
    """(H, W, 3) uint8 of a file as predict.py decodes it; of a picture that is no file of its own, as decoded here."""
    if not item.decode.keys() - UNDECODED and item.source.suffix.lower() in IMAGE.suffixes:
        return pictures.decoded(item.source)
    return to_uint8(data.load(item))


@torch.no_grad()
def positions_as_constants(model: nn.Module, pixels: Tensor) -> Any:
    """Let the positions of vision transformers be those for pixels of this size from now on, in place: ONNX has no
    operator for how they are resized. Returns what the model gives of the pixels."""
    for part in model.modules():
        if hasattr(part, POSITIONS):
            setattr(part, POSITIONS, _Held(getattr(part, POSITIONS)))
    return model.eval()._forward(pixels)


class _Held:
    """What a function gave the first time."""

    def __init__(self, function):
        self.function, self.value = function, None

    def __call__(self, *args: Any) -> Tensor:
        if self.value is None:
            self.value = self.function(*args).detach()
        return self.value


def size_of_processor(model: nn.Module) -> tuple[int, int] | None:
    """(height, width) of the pixels that the processor of a model of transformers gives; None where it differs from
    image to image."""
    resize = next((each for each in model.cfg.vladapt.test_pipeline if _type(each) == PROCESSOR), None)
    return None if resize is None else image_processor(resize["processor"]).fixed_size


def check_one_size(form: Form) -> None:
    """Raise the CapabilityError of a model of transformers whose processor gives images of several sizes."""
    if form.size is None or getattr(form.model, "padded_size", None) not in (None, form.size):
        kind = form.model.family.config["model_type"]
        raise CapabilityError(
            f"{kind}: its processor keeps the proportions of images, and the graph is "
            "for one size; predict with the run, or give its processor a square, --set plan.model.processor.size"
        )


def noise_of_one_size(form: Form) -> list[Tensor]:
    """Pixels of several batches."""
    assert form.size is not None  # see `check_one_size`
    made = torch.Generator().manual_seed(0)
    return [torch.randn(rows, 3, *form.size, generator=made) for rows in (2, 1, 3)]


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
    how = {key: value for key, value in resize.items() if key not in ("type", "scale", "processor")}
    squashed = _squashed(resize) if _type(resize or {"type": ""}) == PROCESSOR else {}
    given = model.data_preprocessor
    usual = (
        _type(first) == "LoadItemImage"
        and not first.get("to_float32")
        and (not resize or squashed or (_type(resize), how) in RESIZED)
        and len(others) < 2
        and getattr(given, "mean", None) is not None
    )
    if not usual:
        return None
    swapped = bool(getattr(given, "_channel_conversion", False) or getattr(given, "channel_conversion", False))
    is_rgb = (first.get("channels", "bgr") == "rgb") != swapped
    return {
        "largest": [int(side) for side in resize["scale"]] if resize and not squashed else None,
        "enlarge": bool(how),
        **squashed,
        "channels": "rgb" if is_rgb else "bgr",
        "mean": given.mean.flatten().tolist(),
        "std": given.std.flatten().tolist(),
        "multiple": _multiple(model),
        "padding": float(given.pad_val if hasattr(given, "pad_val") else given.pad_value),
    }


def _squashed(resize: Mapping[str, Any]) -> dict[str, Any]:
    """The only size of a processor of transformers and its filter; empty where it has none, or another way."""
    processor = image_processor(resize["processor"])
    return {} if processor.filter is None else {"size": list(processor.fixed_size), "filter": processor.filter}


def _type(transform: Mapping[str, Any]) -> str:
    return str(transform["type"]).rpartition(".")[2]


def _facts(new: NewExport, model: nn.Module, form: Form) -> dict[str, Any]:
    return {
        **new.first_facts,
        "model": type(model).__name__,
        "class_names": list(known_names(model)),
        "graphs": {"model": FILE},
        "script": form.script,
        **form.facts,
        "opset": new.opset,
        "sizes": form.sizes,
        "preprocessing": _preprocessing(model),
        **new.last_facts,
    }
