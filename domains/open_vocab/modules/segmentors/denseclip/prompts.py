"""DenseCLIP's prompts: learned or given contexts between the start token and the words of each class.

DenseCLIP (Rao et al., 2021, arXiv 2112.01518), section 3.3; contexts as in CoOp (2021, arXiv 2109.01134), without its
full stop.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ......core.backbones import insert_after_start
from ......core.contracts import Backbone, require
from ......core.errors import ConfigError
from ....vocabulary import Vocabulary, text_backbone


class ClassPrompts(nn.Module):
    """The texts of C classes, into which contexts go before the frozen text tower reads them.

    A class with several texts (synonyms, descriptions) has the mean of their features. The tower is shared by all of
    this process and is not a part of this module; gradients pass through it.

    Args:
        backbone: spec of the backbone with the text tower; it needs "prompt".
        vocabulary: the classes.
        n_ctx: context vectors in a prompt.

    Raises:
        CapabilityError: the backbone has no "prompt". ConfigError: a text that leaves no room for the context.
    """

    def __init__(self, backbone: str, vocabulary: Vocabulary, n_ctx: int = 8):
        super().__init__()
        require(n_ctx >= 1, "n_ctx", n_ctx, "give 1 or more context vectors")
        self.spec, self.n_ctx = backbone, n_ctx
        for name in ("tokens", "mask", "owners"):
            self.register_buffer(name, torch.zeros(0), persistent=False)
        self.take(vocabulary)

    @property
    def names(self) -> tuple[str, ...]:
        """C names."""
        return self.vocabulary.names

    def __len__(self) -> int:
        return len(self.names)

    @property
    def token_width(self) -> int:
        """T, the width of a word's embedding."""
        return self._tower("cpu").embed_tokens(self.tokens[:1, :1].cpu()).shape[-1]

    def take(self, vocabulary: Vocabulary) -> None:
        """Replace the classes."""
        tower = self._tower("cpu")
        tower.need("prompt")
        texts = [text for query in vocabulary.queries for text in query]
        owners = [owner for query, owner in zip(vocabulary.queries, vocabulary.owners) for _ in query]
        tokens = tower.tokenize(texts)
        mask = tower.token_mask(tokens)
        used = mask.sum(dim=1)
        room = max(tower.context_length - self.n_ctx, 0)
        if int(used.max()) > room:
            raise ConfigError(
                f"'{texts[int(used.argmax())]}' takes {int(used.max())} tokens, {room} are left beside "
                f"n_ctx={self.n_ctx} in the text tower of '{self.spec}'; shorten the text, or give a smaller n_ctx"
            )
        longest = int(used.max()) if "trim" in tower.capabilities else tokens.shape[1]
        device = self.tokens.device
        self.vocabulary, self.lead = vocabulary, tower.start_tokens()
        self.tokens, self.mask = tokens[:, :longest].to(device), mask[:, :longest].to(device)
        self.owners = torch.tensor(owners, device=device)

    def forward(self, contexts: Tensor) -> Tensor:
        """(G, n_ctx, T) contexts -> (G, C, D) features, not normalised, differentiable in the contexts."""
        if torch.is_grad_enabled():
            return self._encode(contexts)
        return torch.cat([self._encode(context[None]) for context in contexts])

    def _encode(self, contexts: Tensor) -> Tensor:
        tower = self._tower(str(contexts.device))
        groups, texts = len(contexts), len(self.tokens)
        words = tower.embed_tokens(self.tokens).detach().to(contexts.dtype)  # (Q, L, T)
        prompts, mask = insert_after_start(
            words.repeat(groups, 1, 1),
            self.mask.repeat(groups, 1),
            contexts.repeat_interleave(texts, dim=0),
            tower.context_length,
            self.lead,
        )
        features = tower.encode_prompt(prompts, mask, normalize=False).unflatten(0, (groups, texts))  # (G, Q, D)
        sums = features.new_zeros(groups, len(self), features.shape[-1]).index_add(1, self.owners, features)
        return sums / torch.bincount(self.owners, minlength=len(self))[:, None]

    def _tower(self, device: str) -> Backbone:
        return text_backbone(self.spec, device)
