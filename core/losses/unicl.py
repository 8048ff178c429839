"""Contrastive loss over images, texts and labels, with prefixes that say where a text comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..backbones.positions import insert_after_start
from ..contracts.loss import OWN_EQUATIONS, RowLoss
from ..contracts.options import option, require
from ..runtime.ranks import Ranks
from ._groups import label_groups, means_of_groups
from ._info_nce import log_sums
from ._products import products_option

SOURCES = ("caption", "label")
"""Where a text comes from: written for the image, or a template filled with the name of its class."""


@dataclass(eq=False, repr=False, kw_only=True)
class Unicl(RowLoss):
    """Images and texts of one label are all positives of each other; a pair without a label has only itself.

    Unified Contrastive Learning in Image-Text-Label Space, 2022, arXiv 2204.03610: the target of a row is spread evenly
    over its positives, in both directions. Without labels this is CLIP's loss, with labels alone the supervised
    contrast. The positives enter through the means of their features, so that the N x N matrix is never in memory.

    With `n_prefix` above 0, Prefix Conditioning Unifies Language and Label Supervision, 2022, arXiv 2206.01125: learned
    vectors go between the start token and the words, one set for captions and one for label prompts, so that the text
    tower knows which kind it reads. Prompts of classes are later read with the prefix of captions, the richer kind: a
    trained backbone keeps it, and `encode_text` puts it in.
    That paper draws each batch from one source, which is the sampler's task.

    Raises:
        ConfigError: n_prefix leaves no place for words.
        CapabilityError: dims lacks text_width or context_length where there are prefixes.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> loss = vladapt.build_loss("unicl")
        >>> round(float(loss({**out, "labels": torch.tensor([0, 1, 2, 2])})["loss"]), 3)
        2.5
    """

    differs: ClassVar[str] = OWN_EQUATIONS
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "logit_scale", "labels"})
    logit_scale_bounds: ClassVar[tuple[float, float] | None] = (1.0, 100.0)

    n_prefix: int = option(0, "learned vectors put before the words, 0 for none", low=0, high=65_536)
    products: str = products_option()

    def __post_init__(self):
        super().__post_init__()
        if self.n_prefix:
            self.longest, count = self.dim("context_length", "its prefixes"), self.n_prefix
            require(count <= self.longest - 3, "n_prefix", count, f"a text has {self.longest} tokens in all")
            self.prefixes = nn.Parameter(torch.empty(len(SOURCES), count, self.dim("text_width", "its prefixes")))
            nn.init.normal_(self.prefixes, std=0.02)  # as word embeddings start

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        images, texts, scale = out["image_features"], out["text_features"], out["logit_scale"]
        rows, columns, _ = log_sums(images, texts, scale, ranks, self.products)  # (n,)
        # The mean logit of an image with its positives is its logit with their mean, and as many texts share a label
        # as images do: averaged over the batch, both directions have one answer.
        means = means_of_groups(ranks.columns(texts), label_groups(ranks.columns(out["labels"])))  # (N, D)
        answer = scale * (images * means[ranks.own(len(images))]).sum(dim=1).mean()
        return {"loss": ranks.average((rows.mean() + columns.mean()) / 2 - answer)}

    def text_prompt(self, embeddings: Tensor, mask: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Word embeddings with the prefix of each text's source after the start token, and their mask.

        Args:
            embeddings: (B, L, T), the start token first.
            mask: (B, L) tokens up to the end token.
            batch: "labels" (B,) at 0 or above where the text is a label prompt; without it all are read as captions.
        """
        if not self.n_prefix:
            return embeddings, mask
        labels = batch.get("labels")
        source = torch.zeros(len(embeddings), dtype=torch.int64) if labels is None else (labels >= 0).long()
        prefix = self.prefixes[source.to(self.prefixes.device)].to(embeddings)  # (B, n_prefix, T)
        return insert_after_start(embeddings, mask, prefix, self.longest)

    def prompt_prefix(self, source: str = "caption") -> Tensor:
        """(n_prefix, T): what a text of this source is given, for models that go on without this loss.

        Raises:
            ConfigError: no such source, or there are no prefixes.
        """
        require(source in SOURCES, "source", source, f"give one of {', '.join(SOURCES)}")
        require(self.n_prefix > 0, "n_prefix", self.n_prefix, "this loss was made without prefixes")
        return self.prefixes[SOURCES.index(source)].detach()
