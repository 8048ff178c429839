"""Pixel-text matching: how much each place of an image looks like each class, by texts that know the image.

DenseCLIP: Language-Guided Dense Prediction with Context-Aware Prompting (Rao et al., 2021, arXiv 2112.01518),
sections 3.2 and 3.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ......core.contracts import require
from ....text_embeddings import KeptTexts
from ....vocabulary import Vocabulary
from .context import ContextDecoder
from .prompts import ClassPrompts

PROMPTINGS = ("after", "before", "none")
QUERY_STD = 0.02


class PixelTextMatching(KeptTexts):
    """Score maps of C classes.

    Three ways to prompt: "after" the text tower, class features attend to the image, t + gamma * decoder(t, image);
    "before" it, learned queries attend to the image and what comes out is the context of every prompt, so that the
    tower reads C prompts per image; "none", contexts are learned and no text knows the image. The paper finds "after"
    better and cheaper than "before"; its released code has "after" alone.

    Args:
        backbone: spec of the backbone with the text tower.
        vocabulary: C classes.
        embed_dim: D, the width of the shared space.
        n_ctx: context vectors in a prompt.
        prompting: "after", "before" or "none".
        context_std: of the truncated normal that learned contexts start from. As released it is 1, far wider than word
            embeddings.
        gamma: what the update of class features is scaled by at the start, each of D by its own.
        decoder: options of `ContextDecoder`: width, heads, layers, dropout.

    Raises:
        ConfigError: an option is out of range. CapabilityError: the text tower takes no prompts.
    """

    def __init__(
        self,
        backbone: str,
        vocabulary: Vocabulary,
        embed_dim: int,
        n_ctx: int = 8,
        prompting: str = "after",
        context_std: float = 1.0,
        gamma: float = 1e-4,
        decoder: Mapping[str, Any] | None = None,
    ):
        super().__init__()
        require(prompting in PROMPTINGS, "prompting", prompting, f"there are {', '.join(PROMPTINGS)}")
        require(context_std > 0, "context_std", context_std, "give a number above 0")
        self.prompting = prompting
        self.prompts = ClassPrompts(backbone, vocabulary, n_ctx)
        if prompting == "before":
            out_dim = self.prompts.token_width
            self.context_queries = nn.Parameter(nn.init.trunc_normal_(torch.empty(n_ctx, embed_dim), std=QUERY_STD))
        else:
            out_dim = None
            start = nn.init.trunc_normal_(
                torch.empty(1, n_ctx, self.prompts.token_width), std=context_std, a=-2 * context_std, b=2 * context_std
            )
            self.contexts = nn.Parameter(start)
        if prompting == "after":
            self.gamma = nn.Parameter(torch.full((embed_dim,), float(gamma)))
        if prompting != "none":
            self.context_decoder = ContextDecoder(embed_dim, out_dim, **(decoder or {}))

    def forward(self, pooled: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """What the image shows -> how texts see it.

        Args:
            pooled: (B, D) the whole image.
            places: (B, D, h, w).

        Returns:
            (B, C, D) class features and (B, C, h, w) cosines.
        """
        pooled, places = pooled.float(), places.float()
        visual = torch.cat([pooled[:, None], places.flatten(2).transpose(1, 2)], dim=1)  # (B, 1 + h * w, D)
        texts = self.texts_that_see(visual)
        return texts, cosine_map(places, texts)

    def texts_that_see(self, visual: Tensor) -> Tensor:
        """(B, N, D) visual context -> (B, C, D) class features."""
        if self.prompting == "before":
            contexts = self.context_decoder(self.context_queries.expand(len(visual), -1, -1), visual)
            return self.prompts(contexts.float())
        texts = self.class_texts().expand(len(visual), -1, -1)
        return texts if self.prompting == "none" else self.texts_after(texts, visual)

    def class_texts(self) -> Tensor:
        """(1, C, D) features of the classes in learned contexts, before they see an image; kept between predictions."""
        if torch.is_grad_enabled():
            return self.prompts(self.contexts)
        key = (self.contexts._version, self.contexts.device)
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, self.prompts(self.contexts))
        return self._kept[1]

    def texts_after(self, texts: Tensor, visual: Tensor) -> Tensor:
        """(B, C, D) class features and (B, N, D) visual context -> (B, C, D), updated by it."""
        return texts + self.gamma * self.context_decoder(texts, visual)

    def take(self, vocabulary: Vocabulary) -> None:
        """Replace the classes."""
        self.prompts.take(vocabulary)
        self._kept = None


def cosine_map(places: Tensor, texts: Tensor) -> Tensor:
    """(B, D, h, w) and (B, C, D) -> (B, C, h, w)."""
    return torch.einsum("bdhw,bcd->bchw", F.normalize(places, dim=1), F.normalize(texts, dim=2))
