"""What an image tower and a text tower are made of, step by step, whatever library built them.

At the end the contexts in which their modules are built.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from ..contracts.backbone import Block
from ..errors import DataError
from ..runtime.process import holding
from .checkpoints import fit_weights, read_checkpoint
from .positions import ImagePositions, ProjectionMatrix
from .spec_options import Reduction
from .token_merging import MergedTokens

FEATURE_MAP_DEPTHS = (0.25, 0.5, 0.75, 1.0)
MAPS = frozenset({"hidden", "image_tokens", "feature_maps"})
WITH_BLOCKS = MAPS | {"image_blocks"}
SPARE_BYTES = 256 << 20
_innermost: ContextVar[object] = ContextVar("innermost", default=None)


class ImageTower:
    """The steps of an image tower. A tower without blocks has `blocks` empty and overrides `hidden` and `tokens`.

    Attributes:
        opens: capabilities that it gives a backbone.
        blocks: its transformer blocks.
        prefix: how many tokens stand before the patches.
        cell: pixels from one cell to the next, in a tower without blocks.
        appended: (B, T, W) -> (B, n, W): learned tokens that come after the patches; see `prompted.py`.
        turned: whether queries and keys are turned by where patches lie, in every block.
        reduction: how many tokens are merged in each block; None: none.
    """

    opens: frozenset[str] = MAPS
    blocks: Sequence[Block] = ()
    prefix: int = 0
    cell: int = 32
    appended: Callable[[Tensor], Tensor] | None = None
    turned: bool = False
    reduction: Reduction | None = None

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        """(h, w) of the patches of (B, 3, H, W)."""
        raise AssertionError("a tower with blocks implements grid")

    def start(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, T, W): patches and what stands before them, with their positions."""
        raise AssertionError("a tower with blocks implements start")

    def enter(self, x: Tensor) -> Tensor:
        """(B, T, W) -> (B, T, W): what stands between the positions and the first block, often a norm."""
        return x

    def embed(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, T, W): what the first block takes."""
        x = self.start(pixels)
        return self.enter(x if self.appended is None else torch.cat([x, self.appended(x)], dim=1))

    def pool(self, x: Tensor) -> Tensor:
        """(B, T, W) after the last block -> (B, W'): before the projection."""
        raise AssertionError("a tower with blocks implements pool")

    def project(self, hidden: Tensor) -> Tensor:
        """(..., W') -> (..., D)."""
        return hidden

    def positions(self) -> ImagePositions | None:
        """Where it adds learned positions to its patches; None where it adds none."""
        return None

    def patch_layer(self) -> nn.Module | None:
        """What gives the patches (B, W, h, w) before positions; None where nothing gives them so."""
        positions = self.positions()
        return None if positions is None else positions.patches

    def matrix(self) -> ProjectionMatrix | None:
        """What `project` multiplies with and adds; None where it does more than that, or nothing."""
        return None

    def add_to_projection(self, change: Tensor) -> bool:
        """Let `project` give `change` (W', D) times its input in addition, in place; False where that has no place."""
        matrix = self.matrix()
        if matrix is not None:
            matrix.add(change)
        return matrix is not None

    def project_patches(self, x: Tensor) -> Tensor:
        """(B, T, W) after the last block -> (B, P, D): each patch as if it alone were pooled."""
        patches = x[:, self.prefix :]
        alone = patches.reshape(-1, 1, patches.shape[-1])  # (B * P, 1, W)
        return self.project(self.pool(alone)).view(*patches.shape[:2], -1)

    def after(self, pixels: Tensor, stops: Sequence[int]) -> list[Tensor]:
        """(B, 3, H, W) -> (B, T, W) after each of so many blocks, in rising order."""
        x, start, made = self.embed(pixels), 0, []
        if self.reduction is not None:
            return MergedTokens(self.reduction, self.prefix).through(self.blocks, x, stops)
        for stop in stops:
            x, start = run_through(self.blocks[start:stop], x), stop
            made.append(x)
        return made

    def last(self, pixels: Tensor) -> Tensor:
        """(B, 3, H, W) -> (B, T, W) after the last block."""
        return self.after(pixels, [len(self.blocks)])[0]

    def hidden(self, pixels: Tensor) -> Tensor:
        return self.pool(self.last(pixels))

    def tokens(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return self.project_patches(self.last(pixels)), self.grid(pixels)

    def tokens_and_keys(self, pixels: Tensor) -> tuple[Tensor, Tensor | None, tuple[int, int]]:
        """`tokens` and, (B, P, W), what the pooling compares them by; None where it compares nothing."""
        tokens, grid = self.tokens(pixels)
        return tokens, None, grid

    def stride(self, size: int) -> int:
        """Pixels from one patch or cell to the next, told by a square of `size`."""
        return size // self.grid(torch.empty(1, 3, size, size, device="meta"))[0] if self.blocks else self.cell

    def pool_map(self, last: Tensor) -> Tensor:
        """(B, W, h, w), the last of `maps` of a tower without blocks -> (B, 1 + h * w, D): the whole and each cell."""
        raise AssertionError("a tower without blocks implements pool_map")

    def pooled_map(self, pixels: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Of a tower without blocks (B, W, h, w), the map that is pooled, and what makes (B, D) features of it."""
        return self.maps(pixels)[-1], lambda last: self.pool_map(last)[:, 0]

    def several(self, pixels: Tensor, names: frozenset[str]) -> dict[str, Tensor]:
        """What is named of "image_features", "image_hidden", "image_tokens", not normalised; one pass with blocks."""
        if "image_tokens" not in names:
            hidden, made = self.hidden(pixels), {}
        elif self.blocks:
            x = self.last(pixels)
            hidden, made = self.pool(x), {"image_tokens": self.project_patches(x)}
        else:
            hidden, made = self.hidden(pixels), {"image_tokens": self.tokens(pixels)[0]}
        if "image_hidden" in names:
            made["image_hidden"] = hidden
        if "image_features" in names:
            made["image_features"] = self.project(hidden)
        return made

    def maps(self, pixels: Tensor) -> list[Tensor]:
        """The patches after a quarter, a half, three quarters and all of the blocks, (B, W, h, w) each."""
        depth = len(self.blocks)
        stops = sorted({max(1, round(share * depth)) for share in FEATURE_MAP_DEPTHS})
        height, width = self.grid(pixels)
        maps = [x[:, self.prefix : self.prefix + height * width] for x in self.after(pixels, stops)]
        return [patches.transpose(1, 2).reshape(len(patches), -1, height, width) for patches in maps]


class TextTower(ABC):
    """The steps of a text tower.

    Attributes:
        blocks: its transformer blocks.
        causal: each token sees itself and those before it, so that what follows the last valid one changes nothing.
        masked: attention looks at valid tokens only.
        table: the word embeddings.
    """

    blocks: Sequence[Block] = ()
    causal: bool = False
    masked: bool = False
    table: nn.Module

    @abstractmethod
    def embed(self, embeddings: Tensor, mask: Tensor) -> Tensor:
        """(N, L, W) word embeddings -> (N, L, W): positions added."""

    @abstractmethod
    def pool(self, x: Tensor, mask: Tensor) -> Tensor:
        """(N, L, W) after the last block -> (N, D)."""


def run_through(blocks: Sequence[Block], x: Tensor, **kwargs) -> Tensor:
    for block in blocks:
        x = block(x, **kwargs)
    return x


def at_last_valid(x: Tensor, mask: Tensor) -> Tensor:
    """(N, L, W) and (N, L) bool -> (N, W) at the last valid position of each row."""
    last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(dim=1)  # (N,)
    return x[torch.arange(x.shape[0], device=x.device), last]


def attend(qkv: Tensor, num_heads: int, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """(B, T, 3W) stacked queries, keys and values -> (B, T, W), without the weight matrix in memory.

    Args:
        mask: (B, T), bool: keys that may be looked at; of numbers: what is added to the scores of each key.
        causal: each position looks at itself and those before it; `mask` must then be None.
    """
    batch, length, width = qkv.shape
    query, key, value = qkv.view(batch, length, 3, num_heads, width // (3 * num_heads)).permute(2, 0, 3, 1, 4)
    seen = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, T)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen, is_causal=causal)  # (B, H, T, W / H)
    return mixed.transpose(1, 2).reshape(batch, length, -1)


def _unscaled(x: Tensor) -> Tensor:
    return x


def pre_norm_block(
    *,
    ln_1: nn.Module,
    qkv: Callable[[Tensor], Tensor],
    out: nn.Module,
    ln_2: nn.Module,
    mlp: Callable[[Tensor], Tensor],
    num_heads: int,
    scale_1: Callable[[Tensor], Tensor] = _unscaled,
    scale_2: Callable[[Tensor], Tensor] = _unscaled,
    mix: Callable[..., Tensor] = attend,
    module: nn.Module | None = None,
    of: Callable[[nn.Module], Block] | None = None,
) -> Block:
    """A block that normalises what goes into attention and MLP (ViT, GPT). `scale_1`, `scale_2` are layer scales, `mix`
    is attention over stacked queries, keys and values, where it is more than `attend`. `between(x, stacked)` of a call
    is what becomes of the tokens between attention and MLP."""

    def attended(stacked, mask=None, causal=False):
        return scale_1(out(mix(stacked, num_heads, mask, causal)))

    def forward(x, *, mask=None, causal=False, attention=None, between=None):
        normal = ln_1(x)
        if attention is not None:
            x = x + scale_1(attention(normal))
        else:
            stacked = qkv(normal)
            x = x + attended(stacked, mask, causal)
            x = x if between is None else between(x, stacked)
        return x + scale_2(mlp(ln_2(x)))

    parts = {"ln_1": ln_1, "qkv": qkv, "out": out, "ln_2": ln_2, "mlp": mlp}
    return Block(**parts, num_heads=num_heads, forward=forward, module=module, of=of, attended=attended)


def post_norm_block(
    *,
    ln_1: nn.Module,
    qkv: Callable[[Tensor], Tensor],
    out: nn.Module,
    ln_2: nn.Module,
    mlp: Callable[[Tensor], Tensor],
    num_heads: int,
    module: nn.Module | None = None,
) -> Block:
    """A block that normalises the sums (BERT). A replaced attention is given x as the block is."""

    def forward(x, *, mask=None, causal=False, attention=None):
        mixed = out(attend(qkv(x), num_heads, mask, causal)) if attention is None else attention(x)
        x = ln_1(x + mixed)
        return ln_2(x + mlp(x))

    parts = {"ln_1": ln_1, "qkv": qkv, "out": out, "ln_2": ln_2, "mlp": mlp}
    return Block(**parts, num_heads=num_heads, forward=forward, module=module)


@contextmanager
def sized_like(file: Path, times: int) -> Iterator[None]:
    """A context in which modules are built for the weights of a file, whose options may come from anybody: parameters
    of more than so many times its size are refused before they are filled. Those of backbones that are built inside,
    which have files of their own, do not count (`unsized`).

    Raises:
        DataError: more parameters are built.
    """
    left = times * file.stat().st_size + SPARE_BYTES

    def count(module: nn.Module, name: str, parameter: Tensor | None) -> None:
        nonlocal left
        if parameter is None or _innermost.get() is not token:
            return
        left -= parameter.nelement() * parameter.element_size()
        if left < 0:
            raise DataError(f"{file}: its model would be far larger than its weights; copy it again, or train it again")

    token = object()
    with holding(_innermost, token):
        hook = register_module_parameter_registration_hook(count)
        try:
            yield
        finally:
            hook.remove()


class Undrawn(TorchFunctionMode):
    """A context in which modules are built for weights that fill all of them: their parameters get no random numbers
    first, which takes longer than reading the file."""

    DRAWS = frozenset(
        {Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, init.normal_, init.uniform_, init.trunc_normal_}
        | {init.kaiming_uniform_, init.kaiming_normal_, init.xavier_uniform_, init.xavier_normal_, init.orthogonal_}
    )

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def unsized() -> AbstractContextManager[None]:
    """A context whose parameters belong to another file than that of a `sized_like` around it."""
    return holding(_innermost, None)


def module_of_file(build: Callable[[], nn.Module], path: Path, architecture: str, prefix: str = "") -> nn.Module:
    """A module with all weights of its own file, whatever `sized_like` is around it.

    Args:
        architecture: what it is called, for the message.
        prefix: of names in the file, where they have one.

    Raises:
        DataError: the file cannot be read, or is of another module.
    """
    state = {name.removeprefix(prefix): value for name, value in read_checkpoint(path).items()}
    with unsized():
        module = build()
    fit_weights(module, state, path, architecture)
    return module
