"""A regression run as ONNX graphs, compared with the run on its test images before they are said to be done: from
features to numbers and how far their intervals reach, and where the run has a backbone, from pixels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...contracts.backbone import Backbone
from ...contracts.items import Item
from ...contracts.use import Exported, Use
from ...errors import CapabilityError
from ...export.agreement import LARGEST_SHARE, Agreement
from ...export.folder import PIXELS
from ...export.graph import Graph
from ...export.package import SCRIPTS, STANDALONE, NewExport
from ...export.prepared_pictures import PreparedPictures
from ...runtime.progress import Reporter
from .heads import NumberHead
from .prepared import NumberImages, PreparedNumbers

FEATURES, NUMBER, HALF_WIDTH = "features", "number", "half_width"
FILES = {FEATURES: "head.onnx", PIXELS: "model.onnx"}
MOST_CHECKED = 512
"""Test images."""


class Numbers(nn.Module):
    """Features (B, D) -> numbers (B,) float64, and how far the interval of each reaches to either side (B,) where the
    run has intervals."""

    def __init__(self, head: NumberHead):
        super().__init__()
        self.head = head.eval()
        self.reach = None if head.intervals is None or head.intervals.unbounded else head.intervals.reach
        self.coverage = None if self.reach is None or head.intervals is None else head.intervals.coverage
        scaled = head.scales(torch.zeros(1, head.width)) is not None
        self.least = float(head.error_bias[1]) if scaled else None
        self.outputs = [NUMBER] if self.reach is None else [NUMBER, HALF_WIDTH]

    def forward(self, features: Tensor):
        head, unit = self.head, F.normalize(features.float(), dim=1)
        numbers = head(head.inputs(unit)).double() * head.deviation + head.mean
        if self.reach is None:
            return numbers
        if self.least is None:
            return numbers, torch.full_like(numbers, self.reach)
        scales = (unit.double() @ head.error_weight + head.error_bias[0]).clamp(min=self.least)
        return numbers, self.reach * scales


class NumberGraph(nn.Module):
    """Pixels (B, 3, H, W) as the tower takes them -> what `Numbers` gives."""

    def __init__(self, towers: Backbone, numbers: Numbers):
        super().__init__()
        self.model, self.numbers, self._towers = towers.model, numbers, towers

    def forward(self, pixels: Tensor):
        return self.numbers(self._towers.encode_image(pixels, False))


@dataclass
class NumberExport:
    """The graphs of a run.

    Args:
        prepared: the data on which they are compared, and what encodes it. items: of these.
        towers: that the fit trained, or None.
    """

    use: Use
    prepared: PreparedNumbers
    items: list[Item]
    head: NumberHead
    towers: Backbone | None = None

    def __post_init__(self):
        self.items = self.items[:: -(-len(self.items) // MOST_CHECKED)]
        self.numbers = Numbers(self.head)

    def write(self, new: NewExport, reporter: Reporter) -> Exported:
        """Write and compare; see `Task.export`."""
        with new.folder() as folder:
            facts = {
                **new.first_facts,
                "adapter": new.run.info.adapter,
                "column": self.head.column,
                "coverage": self.numbers.coverage,
                "opset": new.opset,
                **new.last_facts,
                **({} if self._why_no_pictures else {"preprocessing": self.pictures.transform.spec}),
            }
            facts["graphs"] = {FEATURES: FILES[FEATURES]} | ({} if self._why_no_pictures else {PIXELS: FILES[PIXELS]})
            checks = {FEATURES: self._head(new, folder, facts)}
            if not self._why_no_pictures:
                checks |= self._whole(new, folder, facts, reporter)
            for name, check in checks.items():
                if not check.is_close and name in FILES:
                    raise CapabilityError(
                        f"{self.use.run.shown}: the graph from {name} does not match the model, {check.words}; predict "
                        "with the run"
                    )
            scripted = not self._why_no_pictures and self.pictures.scripted
            files = (SCRIPTS / "regression.py", [STANDALONE, SCRIPTS / "pictures.py"]) if scripted else ()
            new.finish(folder, facts, checks, *files)
        notes = [f"no graph from pixels: {self._why_no_pictures}"] if self._why_no_pictures else []
        if not scripted and not self._why_no_pictures:
            notes = ["the domain prepares its pictures in a way of its own, so there is no predict.py"]
        return new.exported(facts, notes)

    @cached_property
    def pictures(self) -> PreparedPictures:
        assert isinstance(self.prepared, NumberImages)
        transform = self.prepared.domain.transforms(self.prepared.backbone, False, self.prepared.task)
        return PreparedPictures(self.prepared.data.load, transform, self.backbone.channels)

    @property
    def backbone(self) -> Backbone:
        assert isinstance(self.prepared, NumberImages)
        return self.towers or self.prepared.backbone

    @cached_property
    def _why_no_pictures(self) -> str:
        if not isinstance(self.prepared, NumberImages):
            return "the run was made from a features file"
        if self.pictures.pixels(self.items[0]).ndim != 3:
            return "a sample has several pictures, whose features are averaged"
        return ""

    @torch.no_grad()
    def _head(self, new: NewExport, folder: Path, facts: dict[str, Any]) -> Agreement:
        rows = self.prepared.rows(self.items, "test images", self.towers)
        graph = Graph(self.numbers, {FEATURES: rows.features[:2]}, self.numbers.outputs)
        session = new.write(graph, folder / FILES[FEATURES], facts)
        return agreement(self.head.answers(rows.features), session(features=rows.features.numpy())[NUMBER])

    @torch.no_grad()
    def _whole(self, new: NewExport, folder: Path, facts: dict[str, Any], reporter: Reporter) -> dict[str, Agreement]:
        """On the same pixels, and on files as predict.py prepares them."""
        module, device = NumberGraph(self.backbone, self.numbers).eval(), self.backbone.device
        with reporter.task("Writing the graph"):
            _, example = next(self.pictures.batches(self.items[:2]))
            graph = Graph(module, {PIXELS: example.to(device)}, self.numbers.outputs)
            ask = new.write(graph, folder / FILES[PIXELS], facts)
        by_model, on_pixels, on_files = [], [], []
        with reporter.task("Comparing answers") as progress:
            for items, pixels in self.pictures.batches(self.items):
                answer = module(pixels.to(device))
                by_model.append((answer if self.numbers.reach is None else answer[0]).cpu())
                on_pixels.append(ask(pixels=pixels.numpy())[NUMBER])
                on_files.append(ask(pixels=self.pictures.of_script(items, pixels))[NUMBER])
                progress(sum(map(len, on_pixels)), len(self.items))
        model = torch.cat(by_model)
        return {
            PIXELS: agreement(model, np.concatenate(on_pixels)),
            "files": agreement(model, np.concatenate(on_files)),
        }


def agreement(model: Tensor, graph: np.ndarray) -> Agreement:
    """Of the numbers (N,) of the same images."""
    apart = (model - torch.from_numpy(graph)).abs()
    shares = apart / (float(model.max() - model.min()) or 1.0)
    same = float((shares <= LARGEST_SHARE).double().mean())
    return Agreement(len(model), float(apart.max()), float(shares.max()), same, values=NUMBER, answers="numbers")
