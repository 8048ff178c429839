"""A run of a pixel task as an ONNX graph of windows, compared with its model on windows of the test split before it is
written. predict.py slides it over rasters whose bands it can read as the run does, which is compared too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import rasterio
import torch
from torch import nn

from ....core.contracts import DomainData, Exported, ExportWishes, Item, Use
from ....core.errors import CapabilityError, ConfigError
from ....core.export import Agreement, Graph, NewExport, pictures
from ....core.runtime import Reporter
from ....core.tasks import KeptModel, quiet_mm
from ..bands import band_pictures
from ..changes.mapping import stride_of
from ..changes.pairs import dates_of, pair_size, unit_pair
from ..changes.scoring import MODEL
from ..number_maps.mapping import OVERLAP
from ..number_maps.target import item_pixels
from ..pictures import is_raster
from ..rasters import header_of
from . import rasters

FILE, MOST_CHECKED = "model.onnx", 64
COLOURS = 3
UNKNOWN = frozenset({"files", "sensor"})
"""Of `Item.decode`, what predict.py does not know."""
Outputs = Mapping[str, np.ndarray]


class WindowExport(ABC):
    """What a kind of model becomes.

    A kind sets `outputs` of the graph, the first of which is compared, `value`, what it holds, and `dates`.

    Attributes:
        window: side in pixels.
        module: pixels (B, C, S, S), or of two dates (B, 2, C, S, S) -> outputs.
        facts: what predict.py needs to know besides bands and stretch.
    """

    outputs: ClassVar[list[str]]
    value: ClassVar[str]
    dates: ClassVar[int]
    window: int
    facts: dict[str, Any]

    def __init__(self, model: nn.Module):
        self.model = self.module = model

    @abstractmethod
    def pixels(self, item: Item) -> np.ndarray:
        """(C, S, S) float32 of a window as the model takes it, or (2, C, S, S)."""

    @abstractmethod
    def sources(self, item: Item) -> list[tuple[Path, dict[str, Any], list[int]]]:
        """File, `decode` and box (left, top, width, height) of a window, of each date."""

    def same(self, model: np.ndarray, graph: np.ndarray, range_: float) -> np.ndarray:
        """Where two outputs say the same."""
        return np.abs(model - graph) <= 1e-3 * range_


class NumberMapExport(WindowExport):
    """Numbers and scales of their error, (B, S, S) each."""

    outputs, value, dates = ["number", "scale"], "number", 1

    def __init__(self, model: nn.Module):
        super().__init__(model)
        facts = model.cfg.vladapt
        self.window, interval = int(facts["window"]), facts.get("interval")
        stride = max(1, round(self.window * (1 - OVERLAP)))
        reach = None if interval is None else float(interval["reach"])
        self.facts = {name: facts[name] for name in ("target", "unit", "coverage")} | {"reach": reach}
        self.facts |= {"stride": stride, "masked": True}

    def pixels(self, item: Item) -> np.ndarray:
        return np.ascontiguousarray(item_pixels(item)[0].transpose(2, 0, 1))

    def sources(self, item: Item) -> list[tuple[Path, dict[str, Any], list[int]]]:
        return [(item.source, item.decode, list(item.target.box))]


class ChangeExport(WindowExport):
    """Scores of no change and change, (B, 2, S, S)."""

    outputs, value, dates = ["scores"], "score", 2

    def __init__(self, model: nn.Module):
        super().__init__(model)
        facts = model.cfg.vladapt
        self.window = int(facts["side"])
        self.facts = {"threshold": float(facts["thresholds"][MODEL]["value"])}
        self.facts |= {"stride": stride_of(self.window), "masked": False}

    def pixels(self, item: Item) -> np.ndarray:
        return unit_pair(item)[0]

    def sources(self, item: Item) -> list[tuple[Path, dict[str, Any], list[int]]]:
        height, width = pair_size(item)
        made = []
        for date in dates_of(item):
            left, top, right, below = date.decode.get("box", (0, 0, width, height))
            box = list(date.decode.get("window", (left, top, right - left, below - top)))
            made.append((date.source, date.decode, box))
        return made

    def same(self, model: np.ndarray, graph: np.ndarray, range_: float) -> np.ndarray:
        least = np.log(self.facts["threshold"] / (1 - self.facts["threshold"]))
        return (model[:, 1] - model[:, 0] >= least) == (graph[:, 1] - graph[:, 0] >= least)


def trained_model(use: Use) -> nn.Module:
    """The model of a run, or the CapabilityError of one in which nothing was trained."""
    model = KeptModel(use.run).load(torch.device("cpu"))
    if model is None:
        raise CapabilityError(f"{use.run.shown}: nothing was trained in this run, so there is nothing to export")
    return model


def export_windows(
    kind: WindowExport, use: Use, wishes: ExportWishes, data: DomainData, reporter: Reporter
) -> Exported:
    """Write and compare; see `Task.export`.

    Args:
        data: whose test split is compared.
    """
    if wishes.int8:
        raise ConfigError("--int8: is for classification; omit it")
    new, side = NewExport(use.run, wishes), kind.window
    items = data.split("test")[:: -(-len(data.split("test")) // MOST_CHECKED)]
    bands = _bands(kind, items[0])
    facts = {
        **new.first_facts,
        "model": type(kind.model).__name__,
        "graphs": {"model": FILE},
        "window": side,
        "dates": kind.dates,
        **kind.facts,
        **bands,
        "opset": new.opset,
        "sizes": f"height and width {side}",
        **new.last_facts,
    }
    with new.folder() as folder, quiet_mm(), KeptModel(use.run).running():
        example = torch.from_numpy(np.stack([_filled(kind.pixels(item), side) for item in (items * 2)[:2]]))
        with reporter.task("Writing the graph"):
            graph = Graph(kind.module, {"pixels": example}, kind.outputs, {"pixels": ()})
            ask = new.write(graph, folder / FILE, facts)
        checks = _checks(kind, items, ask, facts if bands else None)
        if not checks["pixels"].is_close:
            reason = f"the graph does not answer as the model does, {checks['pixels'].words}"
            raise CapabilityError(f"{use.run.shown}: {reason}; predict with the run")
        scripted = "files" in checks and checks["files"].is_close
        files = (Path(rasters.__file__), [Path(pictures.__file__)]) if scripted else ()
        new.finish(folder, facts, checks, *files)
    why = "the run prepares its bands in a way of its own, so there is no predict.py"
    return new.exported(facts, [] if scripted else [why])


@torch.inference_mode()
def _checks(kind: WindowExport, items: Sequence[Item], ask: Any, facts: dict[str, Any] | None) -> dict[str, Agreement]:
    """Of the first output on the same windows, and on windows as predict.py reads them where it can."""
    model, graph, of_script = [], [], []
    for item in items:
        pixels = _filled(kind.pixels(item), kind.window)[None]
        made = kind.module(torch.from_numpy(pixels))
        model.append((made[0] if isinstance(made, tuple) else made).numpy())
        graph.append(ask(pixels=pixels)[kind.outputs[0]])
        if facts is not None:
            read = _filled(np.stack(list(_as_script(kind, item, facts))), kind.window)
            of_script.append(ask(pixels=read if kind.dates == 1 else read[None])[kind.outputs[0]])
    of_model = np.concatenate(model)
    range_ = float(of_model.max() - of_model.min()) or 1.0
    checks, words = {}, {"values": kind.value, "answers": "pixels"}
    for name, answers in (("pixels", graph), ("files", of_script)):
        if answers:
            made = np.concatenate(answers)
            most, same = float(np.abs(of_model - made).max()), float(kind.same(of_model, made, range_).mean())
            checks[name] = Agreement(len(items), most, most / range_, same, **words)
    return checks


def _filled(pixels: np.ndarray, side: int) -> np.ndarray:
    """(..., S, S) of a window (..., h, w): one that is smaller is filled up by zeros."""
    pixels = pixels[..., :side, :side]
    rest = [(0, side - length) for length in pixels.shape[-2:]]
    return np.pad(pixels, [(0, 0)] * (pixels.ndim - 2) + rest)


def _as_script(kind: WindowExport, item: Item, facts: dict[str, Any]) -> Iterator[np.ndarray]:
    for path, _, box in kind.sources(item):
        with rasterio.open(path) as dataset:
            yield rasters.window_of(dataset, rasters.bands_of(dataset, facts), box, facts)[0]


def _bands(kind: WindowExport, item: Item) -> dict[str, Any]:
    """Bands by what files call them, and their stretch; nothing where predict.py cannot read them as the run does."""
    path, decode, _ = kind.sources(item)[0]
    if not is_raster(path):
        return {"bands": ["1", "2", "3"], "stretch": None}
    if decode.keys() & UNKNOWN:
        return {}
    header = header_of([path], None)
    channels = band_pictures(decode.get("bands"), header.names, str(path), header.alpha)
    if len(channels) > 1 or any(channel.kind != "band" for channel in channels[0]) or header.palette:
        return {}
    places = [channel.bands[0] for channel in channels[0]]
    with rasterio.open(path) as dataset:
        names = [(name or "").strip().lower() for name in dataset.descriptions]
    bands = [names[place] or str(place + 1) for place in places]
    ranges = decode.get("stretch")
    eight_bits = {header.kinds[place] for place in places} == {"uint8"}
    if eight_bits:
        ranges = ()
    elif ranges is None or isinstance(ranges, str):
        return {}
    pairs = [list(map(float, pair)) for pair in zip(ranges[::2], ranges[1::2])]
    pairs = pairs * len(bands) if len(pairs) == 1 else pairs
    count = COLOURS if len(bands) == 1 else 1  # one band is shown three times
    return {"bands": bands * count, "stretch": None if eight_bits else pairs * count}
