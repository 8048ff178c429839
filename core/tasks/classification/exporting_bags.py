"""A run whose samples are bags as an ONNX graph: from the features of any number of parts to calibrated logits, and
what each part weighs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...contracts.bags import Bags
from ...errors import CapabilityError
from ...export.agreement import Agreement
from ...export.folder import BAG, COARSE, Session
from ...export.graph import Graph
from ...export.package import SCRIPTS, STANDALONE
from ...runtime.progress import Reporter
from .exporting import Export, Head

FILE = "bag.onnx"
TRACED = 32
"""Parts of the bag that a graph is noted down for; that it holds for others is compared."""
MOST_BAGS = 64


class BagGraph(nn.Module):
    """A bag (T, D), and that of a lower magnification where the method reads two -> calibrated logits (1, C), the
    distance (1,) where the run tells what is unlike, and the attention (K, T) where the method has one."""

    def __init__(self, head: Head):
        super().__init__()
        self.head = head

    def forward(self, bag: Tensor, *coarse: Tensor):
        adapter = self.head.adapter
        logits, weights = adapter.bag_logits((bag, *coarse) if coarse else bag)[None], adapter.deciding(bag)
        made = self.head.calibrated(logits, bag.double().mean(dim=0, keepdim=True).float())
        return (*made, *(() if weights is None else (weights,)))


@dataclass
class BagExport(Export):
    """The graph of a method that answers by the parts of one sample (`Adapter.bag_logits`)."""

    of_parts: ClassVar = True
    _why_no_pictures = "a sample is the features of its parts"

    def written(self, folder: Path, reporter: Reporter) -> tuple[dict[str, Any], list[str]]:
        of_bags = {"width": self.adapter.dim_, "magnifications": self.adapter.magnifications}
        facts = {**self._facts(), **of_bags, "made_by": self.adapter.backbone_}
        with reporter.task("Writing the graph"):
            session = self.new.write(self.bag_graph, folder / FILE, facts)
        facts["graphs"] = {BAG: FILE}
        checks = {"bags": self._checked_bags(session, 1), "halves": self._checked_bags(session, 2)}
        for check in checks.values():
            if not check.is_close:
                raise CapabilityError(
                    f"{self.shown}: the graph does not match the model, {check.words}; predict with the run"
                )
        notes = [] if self.weighs else [f"{self.adapter.name} has no attention, so predict.py names no deciding parts"]
        self.new.finish(folder, facts, checks, SCRIPTS / "bags.py", [STANDALONE])
        return facts, notes

    @cached_property
    def bags(self) -> Bags:
        """Of the test samples, evenly so many."""
        rows = range(0, len(self.tested), -(-len(self.tested) // MOST_BAGS))
        return self.tested.with_parts().bags.select(rows).to(self.tested.features.device)

    @cached_property
    def weighs(self) -> bool:
        """Whether the method says what each part weighs."""
        return self.adapter.deciding(self.bags[0]) is not None

    @cached_property
    def inputs(self) -> Sequence[tuple[Tensor, ...]]:
        """Of each bag what the graph takes: its parts at as many magnifications as the method reads."""
        return self.bags.by_scale(self.adapter.magnifications)

    @cached_property
    def module(self) -> BagGraph:
        return BagGraph(self.head).eval()

    @property
    def bag_graph(self) -> Graph:
        examples = {
            name: bag[torch.arange(TRACED + number, device=bag.device) % len(bag)]
            for number, (name, bag) in enumerate(zip((BAG, COARSE), self.inputs[0]))
        }
        outputs = [*self._outputs, *(["attention"] if self.weighs else [])]
        return Graph(self.module, examples, outputs, dict.fromkeys(examples, ()))

    @torch.no_grad()
    def _checked_bags(self, session: Session, divisor: int) -> Agreement:
        """Of the first parts of each bag, all of them or a share."""
        model, graph = [], []
        for scales in self.inputs:
            some = [bag[: max(1, len(bag) // divisor)] for bag in scales]
            model.append(self.module(*some)[0].cpu())
            graph.append(
                torch.from_numpy(session(**dict(zip((BAG, COARSE), (each.cpu().numpy() for each in some))))["logits"])
            )
        return Agreement.of(torch.cat(model), torch.cat(graph), None, self._thresholds)
