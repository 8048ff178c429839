"""A CLIP of which only prompts are learned: vectors in the text, tokens in the image, or both together."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...core.contracts import Backbone, Item, TextClassifier, TrainingImages
from ...core.features import cores
from ...core.prompts import PromptLearner
from ...core.training import Remembered, copy_of

WIDTH = 128
"""Of the transformer that both kinds of prompts go through."""
AT_ONCE = 64
"""Images at once where nothing is trained."""


@dataclass(frozen=True)
class Rows:
    """The images that a model is trained on, labelled ones first.

    Args:
        unit: (N, D) features of the frozen tower.
        items, images: of the same rows, and how they are looked at; none where no image tower is run.
        threads: that decode them; None takes one per CPU core.
    """

    unit: Tensor
    items: Sequence[Item] = ()
    images: TrainingImages | None = None
    threads: int | None = None

    @classmethod
    def of(cls, unit: Tensor, images: TrainingImages, items: Sequence[Item], threads: int | None = None) -> Rows:
        """Rows whose images are looked at as `images` are."""
        return cls(unit, items, replace(images, load=Remembered(images.load)), threads)

    def pixels(self, rows: Tensor) -> Tensor:
        """(B, 3, S, S) of some rows, without augmentation, as published."""
        with ThreadPoolExecutor(self.threads or cores()) as threads:
            return torch.stack(list(threads.map(self._seen, rows.tolist())))

    def _seen(self, row: int) -> Tensor:
        return self.images.eval_transform(self.images.load(self.items[row]))


class PromptedModel(nn.Module):
    """Base of the three.

    Args:
        rows: the images.
        scale, bias: of the logits.
    """

    def __init__(self, rows: Rows, classifier: TextClassifier):
        super().__init__()
        self.rows, self.scale, self.bias = rows, classifier.logit_scale, classifier.logit_bias or 0.0

    @abstractmethod
    def text(self) -> Tensor:
        """(C, D) unit text features."""

    @abstractmethod
    def image(self, rows: Tensor) -> Tensor:
        """(B, D) unit features of some rows."""

    def logits(self, rows: Tensor) -> Tensor:
        """(B, C), for a training step."""
        return self._scores(self.image(rows), self.text())

    @torch.no_grad()
    def all_logits(self, rows: Tensor) -> Tensor:
        """(R, C) of many rows, of which no gradient is wanted."""
        text = self.text()
        return torch.cat([self._scores(self.image(some), text) for some in rows.split(AT_ONCE)])

    def _scores(self, image: Tensor, text: Tensor) -> Tensor:
        return self.scale * image @ text.T + self.bias

    def tokens(self) -> Tensor | None:
        """(n, W) what was learned of the image tower; None where it stays as it is."""
        return None


class TextualPrompts(PromptedModel):
    """A context before the class names, as CoOp's; images keep their features."""

    def __init__(self, rows: Rows, classifier: TextClassifier, learner: PromptLearner):
        super().__init__(rows, classifier)
        self.learner = learner

    def text(self) -> Tensor:
        return self.learner.encode()

    def image(self, rows: Tensor) -> Tensor:
        return self.rows.unit[rows]


class InTheTower(PromptedModel):
    """Base of those with tokens in the image tower, in a copy of the backbone.

    Args:
        backbone: stays as it is.
    """

    def __init__(self, rows: Rows, classifier: TextClassifier, backbone: Backbone, count: int):
        super().__init__(rows, classifier)
        self._towers, self.now = [copy_of(backbone)], TokensOfStep(count)
        self._towers[0].model.requires_grad_(False)
        self._towers[0].attach_prompts(image=self.now)

    def image(self, rows: Tensor) -> Tensor:
        towers = self._towers[0]
        self.now.value = self.tokens()
        return towers.encode_image(self.rows.pixels(rows).to(towers.device))


class VisualPrompts(InTheTower):
    """Tokens behind the patches, as shallow VPT's; texts keep their features."""

    def __init__(self, rows: Rows, classifier: TextClassifier, backbone: Backbone, count: int, seed: int):
        super().__init__(rows, classifier, backbone, count)
        width = backbone.width("image")
        start = width**-0.5 * torch.randn(count, width, generator=torch.Generator().manual_seed(seed))
        self.start, self.weights = nn.Parameter(start.to(backbone.device)), classifier.weights

    def text(self) -> Tensor:
        return self.weights

    def tokens(self) -> Tensor:
        return self.start


class MultimodalPrompts(InTheTower):
    """Unified prompt tuning (Zang et al., Unified Vision and Language Prompt Learning, 2022, arXiv 2210.07225): as many
    prompts of the text as of the image go through one block of a transformer together.

    As released, the i-th of the text and the i-th of the image attend to each other, and to no others.

    Args:
        learner: prompts around the class names, for as many vectors.
    """

    def __init__(
        self,
        rows: Rows,
        classifier: TextClassifier,
        backbone: Backbone,
        learner: PromptLearner,
        seed: int,
    ):
        count, text_width = learner.ctx.shape
        super().__init__(rows, classifier, backbone, count)
        image_width = backbone.width("image")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            bound = (6 / (3 * backbone.image_stride**2 + image_width)) ** 0.5
            self.of_text = nn.Parameter(PromptLearner.INIT_STD * torch.randn(count, text_width))
            self.of_image = nn.Parameter(torch.empty(count, image_width).uniform_(-bound, bound))
            self.text_in, self.text_out = nn.Linear(text_width, WIDTH), nn.Linear(WIDTH, text_width)
            self.image_in, self.image_out = nn.Linear(image_width, WIDTH), nn.Linear(WIDTH, image_width)
            self.block = nn.TransformerEncoderLayer(
                WIDTH, 1, 4 * WIDTH, dropout=0.0, activation=_quick_gelu, norm_first=True
            )
        self._learner = [learner]
        self.to(backbone.device)

    def text(self) -> Tensor:
        return self._learner[0].encode_each(self._both()[0][None])[0]

    def tokens(self) -> Tensor:
        return self._both()[1]

    def _both(self) -> tuple[Tensor, Tensor]:
        """(n, W) of the text and (n, W) of the image."""
        mixed = self.block(torch.stack([self.text_in(self.of_text), self.image_in(self.of_image)]))  # (2, n, 128)
        return self.text_out(mixed[0]), self.image_out(mixed[1])


class TokensOfStep(nn.Module):
    """Tokens for the first block of a tower, which are made anew for each step."""

    depth = 1

    def __init__(self, count: int):
        super().__init__()
        self.count, self.value = count, None

    def at(self, block: int) -> Tensor:
        """(n, W)."""
        return self.value


def _quick_gelu(x: Tensor) -> Tensor:
    """Of CLIP's blocks."""
    return x * torch.sigmoid(1.702 * x)


def with_tokens(backbone: Backbone, tokens: Tensor) -> Backbone:
    """A copy of the backbone with (n, W) tokens in its image tower, not to be trained."""
    made = copy_of(backbone)
    made.attach_prompts(image=tokens[None]).requires_grad_(False)
    return made
