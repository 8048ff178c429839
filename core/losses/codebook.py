"""TL;DR's codebook: a captioner that sees an image as some of K codes, by which images are then clustered."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.loss import OWN_EQUATIONS, RowLoss
from ..contracts.options import option, require
from ..contracts.outputs import CAPTION, PIXELS, Output
from ..errors import CapabilityError, ConfigError
from ..runtime.ranks import Ranks
from .r2d2 import WIDTH_OF_A_HEAD, bert_layers

if TYPE_CHECKING:
    from ..contracts.backbone import Backbone

IGNORED = -100
BERT_STD = 0.02


@dataclass(eq=False, repr=False, kw_only=True)
class Codebook(RowLoss):
    """Too Large; Data Reduction for Vision-Language Pre-Training (Wang et al., 2023, arXiv 2305.20087), its first step.

    Each token z of a vision transformer is replaced by the nearest of K codes e, and a decoder that sees the codes
    alone writes the caption. With sg for "without gradient",

        words  mean cross-entropy of each token of the caption, given those before it
        codes  mean of (sg(z) - e)^2 + beta (z - sg(e))^2, as in Neural Discrete Representation Learning (van den
               Oord et al., 2017, arXiv 1711.00937); gradients pass from the codes to z unchanged
        used   how many codes a batch has, which is told and not learned

    Images are then searched, clustered and embedded (`projected:MODEL`) by which codes they have: the root of each
    code's share of their tokens, whose products are Bhattacharyya coefficients. Texts have no codes.

    Codes that no token had for `idle` steps, and at first all, are put where tokens of the batch are, or few would be
    used (random restarts, as in Jukebox, 2020, arXiv 2005.00341).

    The rates of the paper are the recipe `codebook`.

    Raises:
        ConfigError: the width of the tower is no multiple of its heads.
        CapabilityError: the image tower is no vision transformer, or the text tower's vocabulary is not known.

    Example:
        >>> import torch, vladapt
        >>> loss = vladapt.build_loss("codebook", {"image_width": 8, "vocab_size": 9}, count=4, layers=1, heads=2)
        >>> out = {"image_places": torch.randn(2, 5, 8), "caption_words": torch.tensor([[7, 3, 8], [7, 8, -100]])}
        >>> sorted(loss(out))
        ['codes', 'loss', 'used', 'words']
    """

    differs: ClassVar[str] = OWN_EQUATIONS + (
        ". The decoder starts at random and has no dropout; words are those of the backbone's own tokens. Images are "
        "compared by how often they have each code (released: by the codes' numbers, in the order of places)"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"image_places", "caption_words"})
    outputs: ClassVar[Mapping[str, Output]] = {
        "image_places": Output("the image's tokens before the projection", ("B", "P", "W"), "raw", fields=PIXELS),
        "caption_words": Output("the tokens of the caption", ("B", "L"), "token", fields=CAPTION),
    }
    backbone_needs: ClassVar[frozenset[str]] = frozenset({"image_blocks", "hidden", "prompt"})
    frozen_towers: ClassVar[frozenset[str]] = frozenset({"text"})
    finds: ClassVar[bool] = True
    compares: ClassVar[bool] = False
    saved_with: ClassVar[Mapping[str, Any]] = {"layers": 0}

    count: int = option(1024, "codes", low=2, high=1_000_000)
    beta: float = option(0.25, "how much tokens are drawn to their codes, beside codes to tokens", low=0, high=10_000)
    layers: int = option(12, "layers of the decoder", low=0, high=1000)
    heads: int = option(0, "heads of attention of the decoder; 0: one per 64 of the width", low=0, high=65_536)
    idle: int = option(
        100, "steps without any token after which a code is put where a token is; 0: never", low=0, high=1_000_000
    )
    longest: int = option(40, "tokens of a caption that are learned; the rest is cut off", low=1, high=65_536)

    def __post_init__(self):
        super().__post_init__()
        width = self.dim("image_width", "its codes")
        self.codes = nn.Parameter(torch.empty(self.count, width).uniform_(-1 / self.count, 1 / self.count))
        self.register_buffer("idle_steps", torch.full((self.count,), self.idle))
        self._seen: tuple[Tensor, Tensor] | None = None
        if not self.layers:  # as it is kept, to tell codes
            return
        heads = self.heads or max(1, width // WIDTH_OF_A_HEAD)
        require(width % heads == 0, "heads", heads, f"the image tower's width of {width} is no multiple of it")
        vocabulary = self.dim("vocab_size", "its captions")
        self.decoder = bert_layers(width, heads, self.layers)
        self.embed = nn.Embedding(1 + vocabulary, width)  # the first begins each caption
        self.places = nn.Embedding(self.longest, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.LayerNorm(width))
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        for embedding in (self.embed, self.places):
            nn.init.normal_(embedding.weight, std=BERT_STD)

    def prepare(self, backbone: Backbone) -> None:
        if not self.layers:
            raise ConfigError(f"{self.title}: layers=0: nothing writes captions; give 1 or more")
        width = backbone.width("image")
        if self.dim("image_width", "its codes") != width:
            raise CapabilityError(
                f"{self.title} needs tokens as wide as the feature made of them, and '{backbone.spec}' has {width}; "
                "choose another vision transformer (CLIP, DINOv2)"
            )

    def further_outputs(self, batch: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
        words = batch["tokens"].masked_fill(~backbone.token_mask(batch["tokens"]), IGNORED)
        return {"image_places": tokens_of(backbone, batch["pixels"]), "caption_words": words[:, : self.longest]}

    def compute_rows(self, out: Mapping[str, Any], ranks: Ranks, progress: float) -> dict[str, Tensor]:
        places, words = out["image_places"], out["caption_words"]
        nearest = self.nearest(places)  # (n, P)
        quantised = F.embedding(nearest, self.codes)  # (n, P, W)
        seen = places + (quantised - places).detach()
        known = ranks.total((words >= 0).sum().to(places)).clamp(min=1)
        parts = {
            "words": ranks.total(self.words_missed(seen, words)) / known,
            "codes": ranks.average(F.mse_loss(quantised, places.detach()))
            + self.beta * ranks.average(F.mse_loss(places, quantised.detach())),
        }
        used = ranks.sum(self.counts(nearest).sum(dim=0)) > 0  # (K,)
        self._seen = (used, self.some(places, ranks)) if self.idle else None
        return {"loss": parts["words"] + parts["codes"], **parts, "used": used.sum().to(places)}

    @torch.no_grad()
    def nearest(self, places: Tensor) -> Tensor:
        """(n, P, W) -> (n, P) the nearest code of each token."""
        return (self.codes.square().sum(dim=1) - 2 * places @ self.codes.T).argmin(dim=-1)

    def counts(self, nearest: Tensor) -> Tensor:
        """(n, P) -> (n, K) how many tokens of each image have each code."""
        found = torch.zeros(len(nearest), self.count, device=nearest.device)
        return found.scatter_add_(1, nearest, torch.ones_like(nearest, dtype=found.dtype))

    @torch.no_grad()
    def some(self, places: Tensor, ranks: Ranks) -> Tensor:
        """(n, P, W) of each rank -> K tokens (K, W), spread evenly over those of all."""
        own = places.flatten(0, 1)
        at = torch.arange(self.count, device=own.device) * (ranks.size * len(own)) // self.count
        at = at - ranks.rank * len(own)
        return ranks.sum(own[at.clamp(0, len(own) - 1)] * ((at >= 0) & (at < len(own)))[:, None])

    @torch.no_grad()
    def after_step(self, model: nn.Module | None) -> None:
        """Puts codes that no token had for long, and at first all of them, where tokens are."""
        if self._seen is None:
            return
        used, tokens = self._seen
        steps = torch.where(used, 0, self.idle_steps + 1)
        idle = steps > self.idle
        self.codes.copy_(torch.where(idle[:, None], tokens.to(self.codes), self.codes))
        self.idle_steps.copy_(torch.where(idle, 0, steps))
        self._seen = None

    def words_missed(self, seen: Tensor, words: Tensor) -> Tensor:
        """The summed cross-entropy of (n, L) tokens, below 0 where there is none, given those before each and (n, P, W)
        codes."""
        before = F.pad(words[:, :-1].clamp(min=-1) + 1, (1, 0))  # 0, which begins each, and what is no word
        x = self.norm(self.embed(before) + self.places.weight[: before.shape[1]])
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        for layer in self.decoder:
            x = layer(x, seen, tgt_mask=later)
        scores = self.head(x) @ self.embed.weight[1:].T + self.bias  # (n, L, V)
        return F.cross_entropy(scores.flatten(0, 1), words.flatten(), ignore_index=IGNORED, reduction="sum")

    @property
    def found_dim(self) -> int:
        return self.count

    @torch.no_grad()
    def embed_image(self, backbone: Backbone, pixels: Tensor) -> Tensor:
        """(B, K) unit: the root of each code's share of the tokens."""
        counts = self.counts(self.nearest(tokens_of(backbone, pixels).float()))
        return (counts / counts.sum(dim=1, keepdim=True)).sqrt()

    def embed_text(self, backbone: Backbone, tokens: Tensor) -> Tensor:
        raise CapabilityError(f"{self.title} finds images by their codes, and texts have none; ask it with images")


def tokens_of(backbone: Any, pixels: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, P, W): all tokens of a vision transformer after its last norm."""
    return backbone.norm_tokens(backbone.run_blocks("image", backbone.embed_image(pixels)))
