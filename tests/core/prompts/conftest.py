"""A small causal text tower, seeded, that tests can ask about everything: tokenizer, weights, what was encoded."""

from __future__ import annotations

import re
import zlib
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vladapt.core.contracts import Backbone, Block, normalized

VOCABULARY, EOT, PAD = 400, 399, 0


class ToyBackbone(Backbone):
    """Words of more than four letters take several tokens. `lead` tokens stand before the first word."""

    def __init__(self, capabilities=("prompt", "trim"), lead=1, context_length=24, pad=PAD, causal=True):
        width, embed_dim = 8, 6
        self.spec, self.family, self.fingerprint = "toy", "toy", "toy-fingerprint"
        self.embed_dim, self.context_length, self.pad = embed_dim, context_length, pad
        self.image_size, self.image_mean, self.image_std = 8, (0.5,) * 3, (0.5,) * 3
        self.capabilities, self.device, self.lead = frozenset(capabilities), torch.device("cpu"), lead
        self.causal = causal
        generator = torch.Generator().manual_seed(0)

        def weight(*shape):
            return torch.randn(shape, generator=generator) / shape[-1] ** 0.5

        self.words, self.positions = weight(VOCABULARY, width), weight(context_length, width)
        self.qkv = [weight(3 * width, width) for _ in range(2)]
        self.mlp = [weight(width, width) for _ in range(2)]
        self.projection = weight(width, embed_dim)
        self.encoded: list[str] = []

    @property
    def model(self):
        return nn.Identity()

    @property
    def logit_scale(self):
        return torch.tensor(20.0)

    def preprocess(self, train=False):
        return torch.as_tensor

    def encode_image(self, pixels, normalize=True):
        return normalized(pixels.flatten(1)[:, : self.embed_dim], normalize)

    def tokenize(self, texts):
        rows = []
        for text in texts:
            words = re.findall(r"[a-z0-9]+|[^\sa-z0-9]", text.lower())
            pieces = [(word[i : i + 4], i + 4 >= len(word)) for word in words for i in range(0, len(word), 4)]
            ids = [2 + zlib.crc32(repr(piece).encode()) % 390 for piece in pieces]
            ids = ([1] * self.lead + ids)[: self.context_length - 1] + [EOT]
            rows.append(ids + [self.pad] * (self.context_length - len(ids)))
        return torch.tensor(rows)

    def token_mask(self, tokens):
        place = torch.arange(tokens.shape[1], device=tokens.device)
        return place <= (tokens == EOT).int().argmax(dim=1)[:, None]

    def encode_text(self, texts, normalize=True):
        self.encoded += list(texts)
        tokens = self.tokenize(texts)
        return self.encode_prompt(self.embed_tokens(tokens), self.token_mask(tokens), normalize)

    def embed_tokens(self, tokens):
        self.need("prompt")
        return self.words[tokens]

    def encode_prompt(self, embeddings, mask, normalize=True):
        return normalized(self.tower(embeddings, mask), normalize)

    def tower(self, embeddings, mask):
        """In the precision of `embeddings`."""
        x = embeddings + self.positions[: embeddings.shape[1]].to(embeddings.dtype)
        return self.pool(self.run_blocks("text", x), mask)

    def pool(self, x, mask):
        return x[torch.arange(len(x)), mask.sum(dim=1) - 1] @ self.projection.to(x.dtype)

    def embed_prompt(self, embeddings, mask):
        return embeddings + self.positions[: embeddings.shape[1]]

    def pool_text(self, x, mask, normalize=True):
        return normalized(self.pool(x, mask), normalize)

    def blocks(self, tower):
        return [self._block(*weights) for weights in zip(self.qkv, self.mlp)]

    def run_blocks(self, tower, x, start=0, stop=None, *, insert=None, attention=None, mask=None):
        for index, block in enumerate(self.blocks(tower)):
            x = block(x, attention=attention and partial(attention, index, block))
        return x

    def _block(self, qkv, mlp):
        """Pre-norm without norms, two heads."""

        def stacked(x):
            return x @ qkv.to(x.dtype).T

        def attend(x):
            q, k, v = stacked(x).unflatten(-1, (3, 2, -1)).permute(2, 0, 3, 1, 4)
            weights = q @ k.transpose(2, 3) / q.shape[-1] ** 0.5
            if self.causal:
                weights = weights + torch.full_like(weights[0, 0], float("-inf")).triu(1)
            return (weights.softmax(dim=-1) @ v).transpose(1, 2).flatten(2)

        def forward(x, attention=None):
            x = x + (attention or attend)(x)
            return x + F.gelu(x @ mlp.to(x.dtype).T)

        nothing = nn.Identity()
        return Block(ln_1=nothing, qkv=stacked, out=nothing, ln_2=nothing, mlp=nothing, num_heads=2, forward=forward)


@pytest.fixture
def toy():
    """The class, to build towers of any kind."""
    return ToyBackbone
