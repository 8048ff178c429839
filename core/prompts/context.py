"""Learnable prompt context for any backbone with "prompt": class names inside a row of free word vectors.

Zhou et al., Learning to Prompt for Vision-Language Models (CoOp), 2021, arXiv 2109.01134, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..contracts.backbone import Backbone, Block
from ..contracts.items import spoken
from ..contracts.options import require
from ..errors import DataError
from .classifier import POSITIONS, TokenLayout, arrange, before, tokenize


class PromptLearner(nn.Module):
    """Prompts of C classes with M context vectors to learn; everything else in them is fixed.

    A prompt is tokenised as "X X ... X name." and the embeddings of the M place-holders are replaced by the context,
    so the end-of-text token and the validity mask come from the tower's own tokenizer. Only token ids are kept; they
    are embedded when they are encoded.

    Args:
        backbone: a backbone with "prompt"; its parameters are not touched.
        class_names: C names; underscores are read as spaces.
        n_ctx: M, the number of context vectors.
        csc: a context of its own for each class, (C, M, W), rather than one for all, (M, W).
        position: where the class name stands: at the "end" of the context, in the "middle" (M // 2 vectors before it)
            or in "front" of it.
        ctx_init: words whose embeddings the context starts from, which then sets `n_ctx`; with `csc` every class
            starts from them. Without it the context starts from N(0, 0.02^2).
        ctx: a context to start from, for instance a learned one; overrides `n_ctx` and `ctx_init`.
        trim: cut the prompts to the longest one where the backbone's capabilities allow it.
        share: compute the context that all prompts begin with once, where the text tower is causal. Like `trim`, it
            changes no result.
        class_chunk: prompts that go through the tower at once. None: `Layout.CHUNK_TOKENS` tokens, or all prompts where
            their activations are kept for a backward pass anyway. It changes no result.
        checkpointing: keep no activations for the backward pass, and encode each chunk again there. Memory is then that
            of one chunk; it changes no result.
        seed: fixes the random start.

    Attributes:
        ctx: the parameter to optimise, (M, W) or (C, M, W), float32.
        tokens: (C, L) int64, the prompts with place-holders.
        mask: (C, L) bool, the tokens that take part; L is the longest prompt, or the context length untrimmed.

    Raises:
        CapabilityError: the backbone has no "prompt".
        ConfigError: an option out of range, or a prompt longer than the tower's context.

    Class attributes:
        POSITIONS: where a class name can stand.
        INIT_STD: deviation of a random start.
    """

    POSITIONS = POSITIONS
    INIT_STD = 0.02

    def __init__(
        self,
        backbone: Backbone,
        class_names: Sequence[str],
        *,
        n_ctx: int = 16,
        csc: bool = False,
        position: str = "end",
        ctx_init: str | None = None,
        ctx: Tensor | None = None,
        trim: bool = True,
        share: bool = True,
        class_chunk: int | None = None,
        checkpointing: bool = False,
        seed: int = 0,
    ):
        super().__init__()
        backbone.need("prompt")
        check_context_options(n_ctx, position, ctx_init)
        wanted = "give a number of prompts, 1 or more, or None"
        require(class_chunk is None or class_chunk >= 1, "class_chunk", class_chunk, wanted)
        if not class_names:
            raise DataError("there are no class names to learn prompts for")
        layout = TokenLayout.of(backbone)
        start = _given_start(backbone, ctx, ctx_init, layout)
        n_ctx = n_ctx if start is None else start.shape[-2]
        tokens, name_lengths = tokenize(backbone, class_names, n_ctx, layout)  # (C, L), (C,)
        mask = backbone.token_mask(tokens)
        self._trim = trim and "trim" in backbone.capabilities
        longest = int(TokenLayout.used_lengths(mask).max()) if self._trim else tokens.shape[1]
        tokens, mask = tokens[:, :longest], mask[:, :longest]
        order, slots = arrange(position, name_lengths, n_ctx, layout.lead, longest)  # (C, L), (C, M)
        self._backbone, self.class_chunk, self.checkpointing = backbone, class_chunk, checkpointing
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("_arranged", tokens.gather(1, order), persistent=False)
        self.register_buffer("_slots", slots, persistent=False)
        word = self._embed(self._arranged[:1])  # (1, L, W)
        if start is None:
            shape = (*((len(class_names),) if csc else ()), n_ctx, word.shape[-1])
            # on the CPU, so that every device starts alike
            start = self.INIT_STD * torch.randn(shape, generator=torch.Generator().manual_seed(seed))
        if csc and start.ndim == 2:
            start = start.expand(len(class_names), -1, -1)
        self.ctx = nn.Parameter(start.to(word.device).clone())
        alike = layout.lead + before(position, n_ctx) if self.ctx.ndim == 2 else 0
        self._alike = alike if share and is_causal(backbone, word) else 0

    @staticmethod
    def check_words(ctx_init: str | None) -> None:
        """Raise the ConfigError of a start without words."""
        words = ctx_init is None or (isinstance(ctx_init, str) and bool(spoken(ctx_init)))
        require(words, "ctx_init", ctx_init, "give words such as 'a photo of a', or None")

    def forward(self, rows: Tensor | None = None) -> Tensor:
        """(C, L, W) embeddings of the prompts, before positions; of the classes in `rows` alone where it is given."""
        rows = self._all() if rows is None else rows
        return self._prompts(self._contexts_of(rows), rows, self.mask.shape[1])[0]

    def encode(self, normalize: bool = True, rows: Tensor | None = None) -> Tensor:
        """(C, D) text features of the prompts, differentiable in `ctx`.

        Args:
            normalize: unit rows.
            rows: (R,) int64, the classes to encode, (R, D), instead of all.
        """
        rows = self._all() if rows is None else rows
        return self._encode(lambda part: self._contexts_of(part), rows, 1, normalize)[0]

    def encode_each(self, ctx: Tensor, normalize: bool = True) -> Tensor:
        """(G, C, D) text features of all classes in each of G contexts (G, M, W), differentiable in them."""
        return self._encode(lambda part: ctx[:, None], self._all(), ctx.shape[0], normalize)

    def at_once(self) -> int:
        """Prompts that go through the tower at once, where no activations are kept."""
        return self.class_chunk or TokenLayout.at_once(self.mask)

    def _all(self) -> Tensor:
        return torch.arange(len(self.tokens), device=self.tokens.device)

    def _contexts_of(self, rows: Tensor) -> Tensor:
        """(1, 1 or R, M, W), the context of each class in `rows`."""
        return (self.ctx[rows] if self.ctx.ndim == 3 else self.ctx[None])[None]

    def _encode(self, contexts: Callable[[Tensor], Tensor], rows: Tensor, groups: int, normalize: bool) -> Tensor:
        """(G, R, D). `contexts` gives those of some rows, (G, 1 or r, M, W)."""

        def encode(part: Tensor) -> Tensor:
            return self._encode_part(contexts(part), part, normalize)

        if torch.compiler.is_exporting():  # no chunks, whose number a graph would keep
            return encode(rows)
        keeps_all = torch.is_grad_enabled() and not self.checkpointing and self.class_chunk is None
        chunk = len(rows) if keeps_all else max(1, self.at_once() // groups)
        lengths = TokenLayout.used_lengths(self.mask)[rows]
        return self.encoded_in_chunks(encode, rows, lengths, chunk, recompute=self.checkpointing)

    def _encode_part(self, ctx: Tensor, rows: Tensor, normalize: bool) -> Tensor:
        mask = self.mask[rows]
        if self._trim and not torch.compiler.is_exporting():
            mask = mask[:, : int(TokenLayout.used_lengths(mask).max())]
        prompts = self._prompts(ctx, rows, mask.shape[1])  # (G, R, L, W)
        if self._alike:
            return encode_sharing(self._backbone, prompts, mask, self._alike, normalize)
        each = mask.repeat(prompts.shape[0], 1)
        features = self._backbone.encode_prompt(prompts.flatten(0, 1), each, normalize=normalize)
        return features.unflatten(0, prompts.shape[:2])

    def _prompts(self, ctx: Tensor, rows: Tensor, length: int) -> Tensor:
        """Contexts (G, 1 or R, M, W) in the prompts of R rows -> (G, R, L, W)."""
        words = self._embed(self._arranged[rows, :length])  # (R, L, W)
        groups, width = ctx.shape[0], words.shape[-1]
        places = self._slots[rows][None, :, :, None].expand(groups, -1, -1, width)
        ctx = ctx.expand(-1, len(rows), -1, -1).to(words.dtype)
        return words.expand(groups, -1, -1, -1).scatter(2, places, ctx)

    def _embed(self, tokens: Tensor) -> Tensor:
        with torch.no_grad():
            return self._backbone.embed_tokens(tokens).detach().float()

    @staticmethod
    def encoded_in_chunks(
        encode: Callable[[Tensor], Tensor], rows: Tensor, lengths: Tensor, chunk: int, *, recompute: bool
    ) -> Tensor:
        """What `encode(rows)` gives, (..., R, D), to rounding, with the activations of `chunk` rows at a time.

        Rows of like length go together, so that each chunk can be cut to its own longest prompt.

        Args:
            encode: row numbers (r,) -> features (..., r, D).
            rows: (R,) int64.
            lengths: (R,) tokens of each row.
            chunk: rows at once.
            recompute: hold none of the activations for the backward pass: each chunk then runs a second time there,
                and the gradients, summed over chunks, are the same. It takes effect only where gradients are recorded.
        """
        if recompute and torch.is_grad_enabled():
            encode = _recomputed(encode)
        elif chunk >= len(rows):
            return encode(rows)
        order = lengths.argsort(stable=True)
        parts = [encode(part) for part in rows[order].split(chunk)]
        return torch.cat(parts, dim=-2)[..., order.argsort(), :]


def check_context_options(n_ctx: int, position: str, ctx_init: str | None) -> None:
    """Raise the ConfigError of an option out of range."""
    whole = isinstance(n_ctx, int) and not isinstance(n_ctx, bool)
    require(whole and n_ctx >= 1, "n_ctx", n_ctx, "give a whole number of context vectors, 1 or more")
    require(position in POSITIONS, "position", position, "give end, middle or front")
    PromptLearner.check_words(ctx_init)


def _given_start(backbone: Backbone, ctx: Tensor | None, ctx_init: str | None, layout: TokenLayout) -> Tensor | None:
    """The context to start from, (M, W) or (C, M, W), where one is given."""
    if ctx is not None:
        return ctx.detach().float()
    if not ctx_init:
        return None
    tokens = backbone.tokenize([spoken(ctx_init)]).to(backbone.device)
    count = int(layout.words(tokens))
    with torch.no_grad():
        return backbone.embed_tokens(tokens)[0, layout.lead : layout.lead + count].float()  # (M, W)


def _recomputed(encode: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def forward(rows: Tensor) -> Tensor:
        # Frozen towers run in eval mode, so there is no random state to bring back.
        return checkpoint(encode, rows, use_reentrant=False, preserve_rng_state=False)

    return forward


# In a causal tower no token sees what follows it, so the states of a shared beginning are the same in all prompts. C
# prompts of P shared and S own tokens cost P + C * S tokens instead of C * (P + S), forward and backward, with the
# same result.


def encode_sharing(backbone: Backbone, embeddings: Tensor, mask: Tensor, shared: int, normalize: bool) -> Tensor:
    """What `backbone.encode_prompt(prompts, mask, normalize)` gives of each group, (G, C, D); the tower is causal.

    Args:
        embeddings: (G, C, L, W) before positions, the first `shared` places alike in all C rows of a group.
        mask: (C, L) bool, of every group.
        shared: P, at least 1 and below L.
    """
    groups, prompts, length, width = embeddings.shape
    mask = mask.repeat(groups, 1)  # (G * C, L)
    x = backbone.embed_prompt(embeddings.flatten(0, 1), mask).unflatten(0, (groups, prompts))  # (G, C, L, W)
    packed = torch.cat([x[:, 0, :shared], x[:, :, shared:].flatten(1, 2)], dim=1)  # (G, P + C * S, W)
    seen = torch.ones(length - shared, length, dtype=torch.bool, device=x.device).tril(shared)  # (S, P + S)

    def attention(index: int, block: Block, normal: Tensor) -> Tensor:
        return block.out(_attend(block.qkv(normal), block.num_heads, shared, prompts, seen))

    packed = backbone.run_blocks("text", packed, attention=attention)
    start = packed[:, None, :shared].expand(-1, prompts, -1, -1)  # (G, C, P, W)
    whole = torch.cat([start, packed[:, shared:].view(groups, prompts, length - shared, width)], dim=2)
    return backbone.pool_text(whole.flatten(0, 1), mask, normalize).unflatten(0, (groups, prompts))


def is_causal(backbone: Backbone, embeddings: Tensor) -> bool:
    """Whether tokens of the text tower see only what stands before them: found by changing the last one.

    Args:
        embeddings: (1, L, W) of any prompt.
    """
    if "text_blocks" not in backbone.capabilities or embeddings.shape[1] < 2 or _has_tokens_inside(backbone):
        return False
    with torch.no_grad():
        x = backbone.embed_prompt(embeddings, embeddings.new_ones(embeddings.shape[:2], dtype=torch.bool))
        changed = torch.cat([x[:, :-1], x[:, -1:].roll(1, dims=-1)], dim=1)
        before, after = (backbone.run_blocks("text", version)[:, :-1] for version in (x, changed))
    return torch.allclose(before, after, rtol=1e-4, atol=1e-5)


def _has_tokens_inside(backbone: Backbone) -> bool:
    """Whether learned tokens hang in the text tower: they stand before what is shared here."""
    return getattr(getattr(backbone, "prompts", None), "text", None) is not None


def _attend(qkv: Tensor, num_heads: int, shared: int, prompts: int, seen: Tensor) -> Tensor:
    """(G, P + C * S, 3W) -> (G, P + C * S, W): a start attends to itself, each end to its start and to itself."""
    split = qkv.unflatten(-1, (3, num_heads, -1))  # (G, T, 3, H, d)
    start = split[:, :shared].permute(2, 0, 3, 1, 4)  # (3, G, H, P, d)
    ends = split[:, shared:].unflatten(1, (prompts, -1)).permute(3, 0, 1, 4, 2, 5)  # (3, G, C, H, S, d)
    before = start[1:, :, None].expand(-1, -1, prompts, -1, -1, -1)
    key, value = torch.cat([before, ends[1:]], dim=4).flatten(1, 2)  # each (G * C, H, P + S, d)
    mixed_start = F.scaled_dot_product_attention(*start, is_causal=True)  # (G, H, P, d)
    mixed_ends = F.scaled_dot_product_attention(ends[0].flatten(0, 1), key, value, attn_mask=seen)  # (G * C, H, S, d)
    mixed_ends = mixed_ends.unflatten(0, (-1, prompts)).permute(0, 1, 3, 2, 4)  # (G, C, S, H, d)
    return torch.cat([mixed_start.transpose(1, 2).flatten(2), mixed_ends.flatten(3).flatten(1, 2)], dim=1)
