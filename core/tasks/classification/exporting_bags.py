"""A run whose samples are bags as an ONNX graph: from the features of any number of parts to calibrated logits, and
what each part weighs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import CapabilityError
from ...export.agreement import Agreement
from ...export.folder import BAG, Session
from ...export.graph import Graph
from ...export.package import SCRIPTS, STANDALONE
from ...runtime.progress import Reporter
from .exporting import Export, Head

FILE = "bag.onnx"
TRACED = 32
"""Parts of the bag that a graph is noted down for; that it holds for others is compared."""
MOST_BAGS = 64


class BagGraph(nn.Module):
    """A bag (T, D) -> calibrated logits (1, C), the distance (1,) where the run tells what is unlike, and the attention
    (K, T) where the method has one."""

    def __init__(self, head: Head):
        super().__init__()
        self.head = head

    def forward(self, bag: Tensor):
        adapter = self.head.adapter
        logits, weights = adapter.bag_logits(bag)[None], adapter.attention(bag)
        made = self.head.calibrated(logits, bag.double().mean(dim=0, keepdim=True).float())
        return (*made, *(() if weights is None else (weights,)))


@dataclass
class BagExport(Export):
    """The graph of a method that answers by the parts of one sample (`Adapter.bag_logits`)."""

    def written(self, folder: Path, reporter: Reporter) -> tuple[dict[str, Any], list[str]]:
        facts = {**self._facts(), "width": self.adapter.dim_, "made_by": self.adapter.backbone_}
        with reporter.task("Writing the graph"):
            session = self.new.write(self.bag_graph, folder / FILE, facts)
        facts["graphs"] = {BAG: FILE}
        halves = [bag[: max(1, len(bag) // 2)] for bag in self.bags]
        checks = {"bags": self._checked_bags(session, self.bags), "halves": self._checked_bags(session, halves)}
        for check in checks.values():
            if not check.is_close:
                raise CapabilityError(
                    f"{self.shown}: the graph does not match the model, {check.words}; predict with the run"
                )
        notes = [] if self.weighs else [f"{self.adapter.name} has no attention, so predict.py names no deciding parts"]
        self.new.finish(folder, facts, checks, SCRIPTS / "bags.py", [STANDALONE])
        return facts, notes

    @cached_property
    def bags(self) -> Sequence[Tensor]:
        """Of the test samples."""
        return self.tested.with_parts().bags[:: -(-len(self.tested) // MOST_BAGS)]

    @cached_property
    def weighs(self) -> bool:
        """Whether the method says what each part weighs."""
        return self.adapter.attention(self.bags[0]) is not None

    @cached_property
    def module(self) -> BagGraph:
        return BagGraph(self.head).eval()

    @property
    def bag_graph(self) -> Graph:
        example = self.bags[0][torch.arange(TRACED, device=self.bags[0].device) % len(self.bags[0])]
        outputs = [*self._outputs, *(["attention"] if self.weighs else [])]
        return Graph(self.module, {BAG: example}, outputs, {BAG: ()})

    @torch.no_grad()
    def _checked_bags(self, session: Session, bags: Sequence[Tensor]) -> Agreement:
        model = torch.cat([self.module(bag)[0].cpu() for bag in bags])
        graph = np.concatenate([session(**{BAG: bag.cpu().numpy()})["logits"] for bag in bags])
        return Agreement.of(model, torch.from_numpy(graph), None, self._thresholds)
