"""REPE: each class's text is moved towards the captions that it retrieves; nothing is trained.

Take it without labels, where captions of images like yours are at hand and nothing may be trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.contracts import Adapter, Batch, FitReport, TextClassifier, option, spoken
from ...core.errors import ConfigError
from ..text_pools import unit_captions

SIMILARITIES = 2**24
"""Of classes and captions at once."""


@dataclass(eq=False, kw_only=True)
class Repe(Adapter):
    """Retrieval-enhanced prompt engineering of Ren et al., Delving into the Openness of CLIP, 2022, arXiv 2206.01986.

    Each class retrieves the captions nearest to its text, keeps those that hold a word of its name, and takes the first
    K of them. Each of its prompts t becomes the unit vector of (1 - shift) t + shift m, with m the mean of the
    captions' unit features, and the class the unit mean of its prompts. A class that retrieves no such caption keeps
    its text. Logits are the scaled cosines. No label and no image is used, so that nothing is assumed about the classes
    present; each class is made by itself, so that its text is the same in every vocabulary (`vladapt eval RUN
    --vocabulary-steps N`).

    Where it differs from the released code: there captions are those of the images of LAION-5B nearest to "a photo of a
    NAME"; here a pool has only captions, and those nearest to the class's text are taken. A class without a caption
    there takes the feature of "a photo of a NAME". With one prompt per class the released code leaves the moved text
    unnormalised, which makes the logits of classes whose captions differ from their text smaller; here it is a unit
    vector, as with several prompts.

    Resources:
        captions: `TextPool`.

    Raises:
        ConfigError: an option out of range, or classes without names.
        DataError: captions of another width, or none in the pool.

    Example:
        >>> adapter = build_adapter("repe", top_k=4)
        >>> report = adapter.fit(support, classifier, resources={"captions": captions})
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    differs: ClassVar[str] = (
        "captions are the nearest of a pool, not those of the nearest images of LAION-5B; a class without any keeps "
        "its text; a moved text always has unit length (released: only with several prompts per class)"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"features", "captions"})
    label_free: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = ("text", "logit_scale", "logit_bias")

    shift: float = option(0.25, "how far a text moves towards its captions; 0 is zero-shot", low=0, high=1)
    top_k: int = option(100, "captions per class, of those that hold a word of its name", low=1, high=100_000)
    retrieved: int = option(1000, "nearest captions, among which those are sought", low=1, high=100_000)

    def _fit(self, support, classifier, *, val, unlabeled, backbone, resources, seed) -> FitReport:
        pool = resources["captions"]
        if not self.class_names_:
            raise ConfigError(f"{self.name} looks for class names in captions, and none are given; name the classes")
        captions = unit_captions(pool, classifier.weights, "class texts")
        self.logit_scale, self.logit_bias = classifier.logit_scale, classifier.logit_bias
        nearest = _nearest(classifier.weights, captions, self.retrieved)
        moved, without = [], []
        for name, prompts, places in zip(self.class_names_, classifier.prototypes, nearest):
            kept = [place for place in places.tolist() if holds_a_word(pool.texts[place], name)][: self.top_k]
            if not kept:
                without.append(name)
            mean = captions[kept].mean(dim=0) if kept else prompts
            prompts = F.normalize((1 - self.shift) * prompts + self.shift * mean, dim=-1)  # (T_c, D)
            moved.append(prompts.mean(dim=0))
        self.text = F.normalize(torch.stack(moved), dim=-1)  # (C, D)
        notes = [f"{len(moved) - len(without)} of {len(moved)} classes moved towards captions of {len(pool)}"]
        if without:
            notes.append(
                f"no caption near them holds a word of their names: {', '.join(without[:8])}, {len(without)} in all"
            )
        chosen = {"shift": self.shift, "top_k": self.top_k, "retrieved": self.retrieved}
        return FitReport(self.name, chosen=chosen, chosen_on="options and published settings", notes=notes)

    def _logits(self, batch: Batch) -> Tensor:
        classifier = TextClassifier(self.text, logit_scale=self.logit_scale, logit_bias=self.logit_bias)
        return classifier.logits(batch.unit)


def holds_a_word(caption: str, name: str) -> bool:
    """Whether a caption holds one of the words of a class's name, whatever the case."""
    caption = caption.casefold()
    return any(word in caption for word in spoken(name).casefold().split())


def _nearest(texts: Tensor, captions: Tensor, count: int) -> Tensor:
    """(C, K) places of the captions nearest to each text, the best first."""
    rows = max(1, SIMILARITIES // len(captions))
    count = min(count, len(captions))
    return torch.cat([(block @ captions.T).topk(count, dim=1).indices for block in texts.split(rows)])
