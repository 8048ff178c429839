"""A backbone as benchmark sets ask it: features from the store, texts too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.backbone import Backbone
from ..contracts.bench import BenchTowers
from ..contracts.items import DomainData
from ..contracts.options import TOLERATED
from ..contracts.prepared import PreparedData
from ..data.verify import check_skipped
from ..features.store import FeatureStore
from ..runtime.progress import Reporter
from ..tasks.classification.prepared import Encoding

TEXTS_AT_ONCE = 1024
"""Between two signs of progress."""


@dataclass(eq=False)
class StoredTowers(BenchTowers):
    """A backbone whose features are looked up, or computed and stored.

    Args:
        reads: reads a folder as `fit --data` does, on this backbone.
        encoding: how images go through it.
        tolerate: share of the images that may be unreadable.
    """

    backbone: Backbone
    reads: Callable[[Path], PreparedData]
    reporter: Reporter
    seed: int = 1
    encoding: Encoding = Encoding()
    tolerate: float = TOLERATED
    store: FeatureStore = field(default_factory=FeatureStore)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def images(self, data: DomainData) -> tuple[Tensor, list[int]]:
        with self.reporter.task(f"Encoding {data.name or 'images'}") as progress:
            extraction = self.store.get_or_compute(
                data,
                data.items,
                self.backbone,
                self.backbone.preprocess(False),
                progress=progress,
                **asdict(self.encoding),
            )
        check_skipped(extraction.skipped, len(data.items), self.tolerate)
        self.skipped += [each for each in extraction.skipped if each not in self.skipped]
        place = {item.id: number for number, item in enumerate(data.items)}
        return extraction.features.unit, [place[item.id] for item in extraction.items]

    def texts(self, texts: Sequence[str]) -> Tensor:
        distinct = {text: number for number, text in enumerate(dict.fromkeys(texts))}
        listed, rows = list(distinct), [torch.zeros(0, self.backbone.embed_dim)]
        reporter = self.reporter if len(listed) > TEXTS_AT_ONCE else Reporter(quiet=True)
        with reporter.task("Encoding texts", unit="texts") as progress:
            for start in range(0, len(listed), TEXTS_AT_ONCE):
                some = self.store.text_features(self.backbone, listed[start : start + TEXTS_AT_ONCE])
                rows.append(F.normalize(some.float(), dim=-1))
                progress(start + len(some), len(listed))
        return torch.cat(rows)[[distinct[text] for text in texts]]

    def read(self, folder: Path) -> PreparedData:
        return self.reads(folder)
