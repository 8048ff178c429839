"""Learnable prompt context for any backbone with "prompt": class names inside a row of free word vectors.

Zhou et al., Learning to Prompt for Vision-Language Models (CoOp), 2021, arXiv 2109.01134, section 3.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..contracts.adapter import require
from ..contracts.backbone import Backbone
from ..contracts.errors import CapabilityError, ConfigError, DataError
from .shared_start import encode_sharing, is_causal
from .templates import spoken

POSITIONS = ("end", "middle", "front")
INIT_STD = 0.02
PLACEHOLDER = "X"


class PromptLearner(nn.Module):
    """Prompts of C classes with M context vectors to learn; everything else in them is encoded once and fixed.

    A prompt is tokenised as "X X ... X name." and the embeddings of the M place-holders are replaced by the context,
    so the end-of-text token and the validity mask come from the tower's own tokenizer.

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
        seed: fixes the random start.

    Attributes:
        ctx: the parameter to optimise, (M, W) or (C, M, W), float32.
        mask: (C, L) bool, the tokens that take part; L is the longest prompt, or the context length untrimmed.

    Raises:
        CapabilityError: the backbone has no "prompt".
        ConfigError: an option out of range, or a prompt longer than the tower's context.
    """

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
        seed: int = 0,
    ):
        super().__init__()
        backbone.need("prompt")
        check_context_options(n_ctx, position, ctx_init)
        if not class_names:
            raise DataError("there are no class names to learn prompts for")
        layout = _Layout.of(backbone)
        start = _given_start(backbone, ctx, ctx_init, layout)
        n_ctx = n_ctx if start is None else start.shape[-2]
        tokens, name_lengths = _tokenize(backbone, class_names, n_ctx, layout)  # (C, L), (C,)
        mask = backbone.token_mask(tokens)
        if trim and "trim" in backbone.capabilities:
            longest = int(mask.any(dim=0).nonzero().max()) + 1
            tokens, mask = tokens[:, :longest], mask[:, :longest]
        with torch.no_grad():
            fixed = backbone.embed_tokens(tokens).detach().float()  # (C, L, W)
        order, slots = _arrange(position, name_lengths, n_ctx, layout.lead, tokens.shape[1])  # (C, L), (C, M)
        rows = torch.arange(len(class_names), device=fixed.device)[:, None]
        if start is None:
            start = _random_start((*((len(class_names),) if csc else ()), n_ctx, fixed.shape[-1]), seed)
        if csc and start.ndim == 2:
            start = start.expand(len(class_names), -1, -1)
        self._backbone = backbone
        self.ctx = nn.Parameter(start.to(fixed.device).clone())
        self.register_buffer("tokens", tokens, persistent=False)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("_rows", rows, persistent=False)
        self.register_buffer("_slots", slots, persistent=False)
        self.register_buffer("_fixed", fixed[rows, order], persistent=False)
        alike = layout.lead + _before(position, n_ctx) if self.ctx.ndim == 2 else 0
        self._alike = alike if share and is_causal(backbone, fixed[:1]) else 0

    def forward(self) -> Tensor:
        """(C, L, W) embeddings of the prompts, before positions."""
        ctx = self.ctx if self.ctx.ndim == 3 else self.ctx.expand(len(self._rows), -1, -1)  # (C, M, W)
        return self._fixed.index_put((self._rows, self._slots), ctx)

    def encode(self, normalize: bool = True) -> Tensor:
        """(C, D) text features of the prompts, differentiable in `ctx`."""
        if self._alike:
            return encode_sharing(self._backbone, self(), self.mask, self._alike, normalize)
        return self._backbone.encode_prompt(self(), self.mask, normalize=normalize)


def check_context_options(n_ctx: int, position: str, ctx_init: str | None, name: str = "position") -> None:
    """Raise the ConfigError of an option out of range. `name` is what the caller calls `position`."""
    whole = isinstance(n_ctx, int) and not isinstance(n_ctx, bool)
    require(whole and n_ctx >= 1, "n_ctx", n_ctx, "give a whole number of context vectors, 1 or more")
    require(position in POSITIONS, name, position, "there are end, middle and front")
    words = ctx_init is None or (isinstance(ctx_init, str) and bool(spoken(ctx_init)))
    require(words, "ctx_init", ctx_init, "give words such as 'a photo of a', or None")


def _given_start(backbone: Backbone, ctx: Tensor | None, ctx_init: str | None, layout: _Layout) -> Tensor | None:
    """The context to start from, (M, W) or (C, M, W), where one is given."""
    if ctx is not None:
        return ctx.detach().float()
    if not ctx_init:
        return None
    tokens = backbone.tokenize([spoken(ctx_init)]).to(backbone.device)
    count = int(layout.words(tokens))
    with torch.no_grad():
        return backbone.embed_tokens(tokens)[0, layout.lead : layout.lead + count].float()  # (M, W)


def _tokenize(backbone, class_names: Sequence[str], n_ctx: int, layout: _Layout) -> tuple[Tensor, Tensor]:
    """Tokens (C, L) of the prompts with place-holders, and how many tokens each name takes, (C,)."""
    names = [spoken(name) for name in class_names]
    context_length = backbone.context_length
    # Counted behind another word, as it stands in the prompt: some tokenizers split a text's first word differently.
    lengths = layout.words(backbone.tokenize([f"{PLACEHOLDER} {name}" for name in names]).to(backbone.device)) - 1
    room = context_length - layout.lead - layout.trail - layout.stop - n_ctx
    if int(lengths.max()) > room:
        worst = class_names[int(lengths.argmax())]
        raise ConfigError(
            f"class '{worst}' takes {int(lengths.max())} tokens, {max(room, 0)} are left beside {n_ctx} of context in "
            f"this tower's {context_length}; shorten the class name, or the context (n_ctx, ctx_init)"
        )
    place = " ".join([PLACEHOLDER] * n_ctx)
    return backbone.tokenize([f"{place} {name}." for name in names]).to(backbone.device), lengths


def _arrange(position: str, name_lengths: Tensor, n_ctx: int, lead: int, length: int) -> tuple[Tensor, Tensor]:
    """Where the fixed tokens and the context go.

    Returns:
        order: (C, L), for each place the place-holder prompt's token that belongs there.
        slots: (C, M), the places of the context vectors.
    """
    before = _before(position, n_ctx)
    place = torch.arange(length, device=name_lengths.device)
    name = name_lengths[:, None]  # (C, 1)
    is_name = (place >= lead + before) & (place < lead + before + name)
    order = place + is_name * (n_ctx - before)  # names stand behind all M place-holders
    index = torch.arange(n_ctx, device=name_lengths.device)
    slots = lead + index + (index >= before) * name
    return order, slots


def _before(position: str, n_ctx: int) -> int:
    """How many context vectors stand before the class name."""
    return {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]


def _random_start(shape: tuple[int, ...], seed: int) -> Tensor:
    """N(0, 0.02^2), drawn on the CPU so that every device starts alike."""
    return INIT_STD * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class _Layout:
    """What a tokenizer adds: `lead` tokens before the first word, `trail` after the last, `stop` for a full stop."""

    lead: int
    trail: int
    stop: int
    pad: int
    single: int

    @classmethod
    def of(cls, backbone: Backbone) -> _Layout:
        tokens = backbone.tokenize([PLACEHOLDER, "dog", "red", f"{PLACEHOLDER}.", f"{PLACEHOLDER} {PLACEHOLDER}"])
        lead = int((tokens[:3] != tokens[0]).any(dim=0).int().argmax())  # the first place where words differ
        pad = int(tokens[0, -1])
        single, stopped, double = _lengths(tokens, pad)[[0, 3, 4]].tolist()
        if double != single + 1:
            raise CapabilityError(
                f"backbone '{backbone.spec}': its tokenizer has no token for '{PLACEHOLDER}', which prompt "
                "learning puts in the context's place; use another tower"
            )
        # Some tokenizers pad with the end-of-text token or drop full stops; a place is kept for each all the same.
        trail, stop = max(1, single - lead - 1), max(1, stopped - single)
        return cls(lead=lead, trail=trail, stop=stop, pad=pad, single=single)

    def words(self, tokens: Tensor) -> Tensor:
        """(N, L) tokens -> (N,) how many the text itself takes."""
        return _lengths(tokens, self.pad) - self.single + 1


def _lengths(tokens: Tensor, pad: int) -> Tensor:
    """(N, L) -> (N,) tokens up to the last that is no padding."""
    place = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return (place * (tokens != pad)).amax(dim=1)
