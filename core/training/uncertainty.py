"""How sure a tower is of its embedding: ProLIP's uncertainty token, beside the tokens of either tower.

Probabilistic Language-Image Pre-Training, 2024, arXiv 2410.18857: a learnt token goes through the tower with the
others, and a linear map of what becomes of it is the log variance. Masked views, which the inclusion loss compares
with the whole ones, hide most patches or words.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..losses._draws import Draws

FIRST_LOG_VARIANCE = -10.0
"""Where it starts: nearly a point, so that a pretrained model first behaves as it did."""
PATCHES_KEPT = 0.25
WORDS_KEPT = 0.25


class Uncertainty(nn.Module):
    """Log variances of both towers, and masked views of them."""

    def __init__(self, backbone: Backbone):
        super().__init__()
        self._held = [backbone]
        with torch.no_grad():
            image_width = backbone.embed_image(backbone.blank_image()).shape[-1]
            text_width = backbone.embed_tokens(backbone.tokenize(["a"])).shape[-1]
        self.image_token = nn.Parameter(0.02 * torch.randn(image_width))
        self.text_token = nn.Parameter(0.02 * torch.randn(text_width))
        self.image_head = _head(image_width, backbone.embed_dim)
        self.text_head = _head(text_width, backbone.embed_dim)

    def forward(
        self, pixels: Tensor, tokens: Tensor, draws: Tensor | None, wanted: frozenset[str]
    ) -> dict[str, Tensor]:
        """What is wanted of "image_log_variance", "image_masked", "text_masked_log_variance", ..., (B, D) each.

        Args:
            draws: (B, 4, K) in 0..1: what a masked view hides of a sample is a function of them.
        """
        out: dict[str, Tensor] = {}
        if "image_log_variance" in wanted:
            out["image_log_variance"] = self._image(pixels, None)[1]
        if wanted & {"image_masked", "image_masked_log_variance"}:
            out["image_masked"], out["image_masked_log_variance"] = self._image(pixels, draws)
        if "text_log_variance" in wanted:
            out["text_log_variance"] = self._text(tokens, None)[1]
        if wanted & {"text_masked", "text_masked_log_variance"}:
            out["text_masked"], out["text_masked_log_variance"] = self._text(tokens, draws)
        return {name: value for name, value in out.items() if name in wanted}

    def _image(self, pixels: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        backbone = self._held[0]
        x = backbone.embed_image(pixels)  # (B, T, W)
        if draws is not None:
            x, _ = Draws.visible_tokens(x, backbone.image_prefix, draws, PATCHES_KEPT)
        token = self.image_token.to(x.dtype).expand(len(x), 1, -1)
        x = backbone.run_blocks("image", torch.cat([x, token], dim=1))
        return backbone.pool_image(x[:, :-1]), self.image_head(x[:, -1].float())

    def _text(self, tokens: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        backbone = self._held[0]
        mask, words = backbone.token_mask(tokens), backbone.embed_tokens(tokens)
        if draws is not None:
            hidden = backbone.word_mask(tokens) & (Draws.of_places(draws, 3, tokens.shape[1]) >= WORDS_KEPT)
            words = torch.where(hidden[..., None], words.new_zeros(()), words)
        rows = torch.arange(len(tokens), device=tokens.device)
        place = mask.sum(dim=1).clamp(max=mask.shape[1] - 1)  # after the text, or in place of its last token
        words = words.index_put((rows, place), self.text_token.to(words.dtype).expand(len(words), -1))
        seen = mask.index_put((rows, place), torch.ones_like(place, dtype=torch.bool))
        x = backbone.run_blocks("text", backbone.embed_prompt(words, seen), mask=seen)
        return backbone.pool_text(x, mask), self.text_head(x[rows, place].float())


def _head(width: int, dim: int) -> nn.Linear:
    head = nn.Linear(width, dim)
    nn.init.normal_(head.weight, std=width**-0.5 * 0.02)
    nn.init.constant_(head.bias, FIRST_LOG_VARIANCE)
    return head
