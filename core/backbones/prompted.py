"""Learned tokens inside the towers: every pass of a backbone goes with them once they hang there.

Jia et al., Visual Prompt Tuning (VPT), 2022, arXiv 2203.12119; in both towers Khattak et al., MaPLe: Multi-modal Prompt
Learning, 2022, arXiv 2210.03117.

Image: n tokens come after the patches, before the norm that some towers have there, and without positions. Text: n
tokens come between the start token and the words, with the positions of their places; where that is too long, the last
words go. Before block i, for 0 < i < depth, the tokens are replaced by those of that block; from block `depth` on they
flow. After the last block they are taken out again, so that pooling, patches and words are as without them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.backbone import Block
from .positions import insert_after_start
from .tower_steps import ImageTower, TextTower

CHILD = "prompts"
"""Under what name they hang on the model."""


class PromptTokens(nn.Module):
    """Tokens of a tower, for each of its first blocks.

    Args:
        tokens: (depth, n, W).
    """

    def __init__(self, tokens: Tensor):
        super().__init__()
        self.tokens = nn.Parameter(tokens.detach().clone().float())

    @property
    def depth(self) -> int:
        return self.tokens.shape[0]

    @property
    def count(self) -> int:
        return self.tokens.shape[1]

    def at(self, block: int) -> Tensor:
        """(n, W) tokens that go into a block."""
        return self.tokens[block]


class CoupledTokens(nn.Module):
    """Tokens that a linear map for each block makes of those of the other tower.

    Args:
        source: the other tower's tokens; not a submodule of this.
        couplings: one linear layer per block, from the other tower's width to this one's.
    """

    def __init__(self, source: PromptTokens, couplings: Sequence[nn.Linear]):
        super().__init__()
        self.couplings = nn.ModuleList(couplings)
        self._source = [source]

    @property
    def depth(self) -> int:
        return len(self.couplings)

    @property
    def count(self) -> int:
        return self._source[0].count

    def at(self, block: int) -> Tensor:
        """(n, W) tokens that go into a block."""
        return self.couplings[block](self._source[0].at(block))


class TowerPrompts(nn.Module):
    """Tokens of both towers, or of one.

    Args:
        image, text: None for a tower that has none.
        lead: tokens of a text before its words.
    """

    def __init__(self, image: PromptTokens | CoupledTokens | None, text: PromptTokens | None, lead: int = 1):
        super().__init__()
        self.image, self.text = image, text
        self.register_buffer("lead", torch.tensor(lead) if text is not None else None)

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> TowerPrompts:
        """Those that a state dict holds."""
        text = PromptTokens(state["text.tokens"]) if "text.tokens" in state else None
        image = PromptTokens(state["image.tokens"]) if "image.tokens" in state else None
        couplings = [value for name, value in state.items() if name.startswith("image.") and name.endswith(".weight")]
        if couplings:
            with torch.random.fork_rng(devices=[]):  # what they are made of is thrown away
                image = CoupledTokens(text, [nn.Linear(weight.shape[1], weight.shape[0]) for weight in couplings])
        made = cls(image, text)
        made.load_state_dict(state)
        return made

    def inside(
        self, image: ImageTower | None, text: TextTower | None, longest: int
    ) -> tuple[ImageTower | None, TextTower | None]:
        """The towers with these tokens in them; `longest` is what the text tower takes at most."""
        if self.image is not None:
            _append(image, self.image)
        return image, text if self.text is None else _PromptedText(text, self.text, int(self.lead), longest)


def _append(tower: ImageTower, tokens: PromptTokens | CoupledTokens) -> None:
    """Let an image tower, which is the caller's own, take the tokens after the patches."""

    def appended(x: Tensor) -> Tensor:
        return tokens.at(0).to(x.dtype).expand(len(x), -1, -1)

    def before(block: int, x: Tensor) -> Tensor:
        return _replaced(x, x.shape[1] - tokens.count, tokens.at(block)) if 0 < block < tokens.depth else x

    def after(x: Tensor) -> Tensor:
        return x[:, : -tokens.count]

    tower.appended = appended
    tower.blocks = _around(tower.blocks, before, after)


class _PromptedText(TextTower):
    """A text tower that takes the tokens between the start and the words."""

    def __init__(self, tower: TextTower, tokens: PromptTokens, lead: int, longest: int):
        self.tower, self.tokens, self.lead, self.longest = tower, tokens, lead, longest
        self.causal, self.masked, self.table = tower.causal, tower.masked, tower.table
        self.blocks = _around(tower.blocks, self._before, self._after, self._mask)

    def embed(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        first = self.tokens.at(0).to(embeddings.dtype).expand(len(embeddings), -1, -1)
        return self.tower.embed(*insert_after_start(embeddings, mask, first, self.longest, self.lead))

    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        length = min(mask.shape[1], self.longest - self.tokens.count)  # of the words that had a place
        words = mask.sum(dim=1, keepdim=True)
        return self.tower.pool(x[:, :length], torch.arange(length, device=mask.device) < words)

    def _before(self, block: int, x: Tensor) -> Tensor:
        return _replaced(x, self.lead, self.tokens.at(block)) if 0 < block < self.tokens.depth else x

    def _after(self, x: Tensor) -> Tensor:
        """Where words had to go, nought stands in the last places, so that each token is in its own."""
        rest = torch.cat([x[:, : self.lead], x[:, self.lead + self.tokens.count :]], dim=1)
        return F.pad(rest, (0, 0, 0, self.tokens.count)) if x.shape[1] == self.longest else rest

    def _mask(self, mask: Tensor, x: Tensor) -> Tensor:
        words = mask.sum(dim=1, keepdim=True) + self.tokens.count
        return torch.arange(x.shape[1], device=mask.device) < words


def _replaced(x: Tensor, at: int, tokens: Tensor) -> Tensor:
    """(B, T, W) with (n, W) in the places from `at` on."""
    inside = tokens.to(x.dtype).expand(len(x), -1, -1)
    return torch.cat([x[:, :at], inside, x[:, at + len(tokens) :]], dim=1)


def _around(
    blocks: Sequence[Block],
    before: Callable[[int, Tensor], Tensor],
    after: Callable[[Tensor], Tensor],
    mask_of: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> list[Block]:
    """The blocks with `before(i, x)` ahead of each, `after(x)` behind the last, and masks that fit what goes in."""

    def around(number: int, block: Block) -> Block:
        def forward(x: Tensor, *, mask: Tensor | None = None, **kwargs) -> Tensor:
            x = before(number, x)
            mask = mask if mask is None or mask_of is None else mask_of(mask, x)
            x = block(x, mask=mask, **kwargs)
            return after(x) if number == len(blocks) - 1 else x

        return replace(block, forward=forward)

    return [around(number, block) for number, block in enumerate(blocks)]
