"""Words that look at an image: hidden ones, the encoder in which they look, and the guess at what they were."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ....core.contracts import Backbone
from ....core.losses import Draws

NOT_ASKED = -100
HIDDEN, REPLACED = 0.8, 0.1
"""Of the chosen words: the shares that are hidden, and that are another word; the rest stays."""
WIDTH_OF_A_HEAD = 64


def hide_words(
    tokens: Tensor, chosen: Tensor, others: Tensor, *, mask_token: int, word_ids: range, share: float
) -> tuple[Tensor, Tensor]:
    """Captions with words hidden, as "BERT: Pre-training of Deep Bidirectional Transformers" (2018, arXiv 1810.04805)
    hides them, and as IRRA has it: what happens to a word is told by the number by which it was chosen, and where none
    was, the first is hidden.

    Args:
        tokens: (B, L) int64.
        chosen: (B, L) drawn from 0 to 1; words below `share` are chosen.
        others: (B, L) ids of the words that stand for those that are replaced.
        mask_token: what stands for a hidden word.
        word_ids: ids that are words; any other token stays.

    Returns:
        (B, L) tokens, and (B, L) the ids that they had where a word was chosen, else -100.
    """
    is_word = (tokens >= word_ids.start) & (tokens < word_ids.stop)
    asked = is_word & (chosen < share)
    fate = chosen / share
    shown = torch.where(asked & (fate < HIDDEN), mask_token, tokens)
    shown = torch.where(asked & (fate >= HIDDEN) & (fate < HIDDEN + REPLACED), others, shown)
    first = torch.zeros_like(asked)
    first[:, 1] = ~asked.any(dim=1)
    asked, shown = asked | first, torch.where(first, mask_token, shown)
    return shown, torch.where(asked, tokens, NOT_ASKED)


def masked_captions(
    backbone: Backbone, batch: Mapping[str, Tensor], share: float, most_words: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Captions with words hidden through the text tower.

    Args:
        batch: "tokens" (B, L) and "draws" (B, 4, K).
        share: of the words that are chosen.
        most_words: tokens of a caption that are looked at.

    Returns:
        (B, L', D) what each token would give if it alone were pooled, (B, L') the ids of chosen words, -100 elsewhere,
        and (B, D) the features of the caption, not brought to length 1.
    """
    tokens = batch["tokens"][:, :most_words]
    chosen, other = (Draws.of_places(batch["draws"], row, tokens.shape[1]) for row in (0, 2))
    ids = backbone.word_ids
    others = ids.start + (other * len(ids)).long()
    shown, labels = hide_words(tokens, chosen, others, mask_token=backbone.mask_token, word_ids=ids, share=share)
    x, mask = backbone.text_tokens(shown), backbone.token_mask(tokens)
    alone = x.reshape(-1, 1, x.shape[-1])  # (B * L', 1, W)
    each = backbone.pool_text(alone, mask.new_ones(len(alone), 1), normalize=False)
    return each.view(*tokens.shape, -1), labels, backbone.pool_text(x, mask, normalize=False)


class InteractionEncoder(nn.Module):
    """Words look at an image in one attention, then at each other in a transformer (IRRA's multimodal encoder).

    Args:
        features: D, of tokens of both towers.
        width: of the encoder; D as published. Where it is another, two linear layers lead to it.
        depth: blocks of the transformer.
        vocabulary: words to choose from.
    """

    def __init__(self, features: int, width: int, depth: int, vocabulary: int):
        super().__init__()
        heads = max(1, width // WIDTH_OF_A_HEAD)
        same = width == features
        self.to_text = nn.Identity() if same else nn.Linear(features, width)
        self.to_image = nn.Identity() if same else nn.Linear(features, width)
        self.ln_pre_t, self.ln_pre_i, self.ln_post = (nn.LayerNorm(width) for _ in range(3))
        self.cross_attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.cross_modal_transformer = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        parts = (nn.Linear(width, width), QuickGelu(), nn.LayerNorm(width), nn.Linear(width, vocabulary))
        self.mlm_head = nn.Sequential(OrderedDict(zip(("dense", "gelu", "ln", "fc"), parts)))
        self._start(width, depth)

    def forward(self, words: Tensor, image: Tensor, asked: Tensor) -> Tensor:
        """Scores of all words of the vocabulary where words are asked for.

        Args:
            words: (B, L, D).
            image: (B, P, D), the whole image and its patches.
            asked: (B, L) bool, or the places (K,) of words in the batch, flattened.

        Returns:
            (K, vocabulary).
        """
        query, seen = self.ln_pre_t(self.to_text(words)), self.ln_pre_i(self.to_image(image))
        x = self.cross_attn(query, seen, seen, need_weights=False)[0]
        read = self.ln_post(self.cross_modal_transformer(x)).flatten(0, 1)  # (B * L, width)
        return self.mlm_head(read[asked.flatten()])

    def _start(self, width: int, depth: int) -> None:
        """Deviations as released: those of CLIP's text transformer."""
        attention, inner, out = width**-0.5, (2 * width) ** -0.5, width**-0.5 * (2 * depth) ** -0.5
        for module in (self.cross_attn, *(block.attn for block in self.cross_modal_transformer)):
            nn.init.normal_(module.in_proj_weight, std=attention)
            nn.init.normal_(module.out_proj.weight, std=out)
        for block in self.cross_modal_transformer:
            nn.init.normal_(block.mlp.c_fc.weight, std=inner)
            nn.init.normal_(block.mlp.c_proj.weight, std=out)
        nn.init.normal_(self.mlm_head.dense.weight, std=inner)
        nn.init.normal_(self.mlm_head.fc.weight, std=out)


class QuickGelu(nn.Module):
    """x sigmoid(1.702 x), as OpenAI's CLIP has it."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class _Block(nn.Module):
    """CLIP's residual attention block."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.attn, self.ln_1, self.ln_2 = (
            nn.MultiheadAttention(width, heads, batch_first=True),
            nn.LayerNorm(width),
            nn.LayerNorm(width),
        )
        parts = (nn.Linear(width, 4 * width), QuickGelu(), nn.Linear(4 * width, width))
        self.mlp = nn.Sequential(OrderedDict(zip(("c_fc", "gelu", "c_proj"), parts)))

    def forward(self, x: Tensor) -> Tensor:
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))
