"""Images unlike those of the fit: AUROC of the distance to the support, and how many ordinary images are flagged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from vladapt.core.confidence import Unlike, distances

from .sets import PUBLIC, prepared

SHOTS, SEED = 16, 1


def lines(data: Path) -> Iterator[str]:
    """The test images of each set against those of each other set."""
    found = {name: prepared(data, name) for name in PUBLIC}
    draws = {name: each.draw(SHOTS, SEED) for name, each in found.items() if each is not None}
    drawn = {name: (shots.support.features, shots.test.features) for name, shots in draws.items()}
    if not drawn:
        return
    yield f"| fitted on | images | ordinary images flagged | {' | '.join(drawn)} |"
    yield f"|---|---:|---:|{'---:|' * len(drawn)}"
    for name, (support, own) in drawn.items():
        made = Unlike.of_rows(support, support, torch.eye(len(support), dtype=torch.bool))
        near = distances(own, support)
        shown = f"{float(made.flags(own).double().mean()):.0%}" if made.known else "too few to tell"
        far = [None if other is own else auroc(near, distances(other, support)) for _, other in drawn.values()]
        cells = ["–" if value is None else f"{value:.3f}" for value in far]
        yield f"| {name} | {len(support)} | {shown} | {' | '.join(cells)} |"


def auroc(ordinary: Tensor, others: Tensor) -> float:
    """Chance that one of the others scores higher than an ordinary one, ties counted half."""
    gap = others[:, None] - ordinary[None]
    return float(((gap > 0).double() + 0.5 * (gap == 0).double()).mean())
