"""Which parameter lies how deep in which tower, and what follows from it: what trains, at which rate, in which memory.

Depth 0 is what stands before the first block (patches, words, positions), 1 to n are the blocks, n + 1 is what comes
after them (final norm, pooling, projection).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..contracts.backbone import Backbone, Block
from ..contracts.families import BOTH, JOINT, ROOTS, SPACE
from ..contracts.options import require
from ..errors import CapabilityError, ConfigError

# What the libraries call the neighbours of the stack of blocks that come before it.
_BEFORE = re.compile(
    r"\w*embed\w*|conv\d|bn\d|stem|cls_\w+|reg_token|ln_pre|norm_pre|pre_layrnorm|words|positions|token_type|ln"
)


_PROJECTION = re.compile(r"(.*\.)?(proj|(text|visual)_projection(\.weight)?|head\.proj\.weight)")
"""The last matrix of a tower, into the shared space, as the libraries call it."""


@dataclass(frozen=True)
class TowerLayers:
    """The layers of a backbone's towers: residual blocks, stages of a ResNet, inverted bottlenecks.

    Args:
        backbone: whose model it is.
    """

    backbone: Backbone

    def count(self, tower: str) -> int:
        """n, the number of blocks of "image" or "text": residual blocks, stages of a ResNet, inverted bottlenecks.

        Raises:
            ConfigError: no such tower. CapabilityError: this backbone lacks it.
        """
        return _layout(self.backbone, tower).count

    def depth(self, name: str) -> int:
        """0 before the blocks, 1 to n in them, n + 1 after them.

        Args:
            name: of a parameter of the backbone's model.

        Raises:
            UnknownNameError: no such parameter.
            ConfigError: it is shared by both towers (the logit scale), and so lies in none.
        """
        tower = self.backbone.tower_of(name)
        if tower == "shared":
            spec = self.backbone.spec
            raise ConfigError(f"parameter '{name}' of backbone '{spec}' is in no tower, so it has no depth")
        return _layout(self.backbone, tower).depth(name)

    def set_trainable(self, *, lock: Collection[str] = (), last: int | None = None) -> list[str]:
        """Let everything train but the locked towers.

        "LiT: Zero-Shot Transfer with Locked-image text Tuning" (2021, arXiv 2111.07991) locks the image tower;
        Chinese-CLIP (2022, arXiv 2211.01335) does so in the first of two stages. A locked tower's batch norms still
        move their statistics in train mode: see `freeze_batch_norm`.

        Args:
            lock: towers that stay as they are, of "image" and "text"; "towers": both but their projections into the
                shared space.
            last: of each other tower only this many last layers train: 1 is what comes after the blocks, 2 also the
                last block, and so on. What the towers share trains in any case.

        Returns:
            The names of the parameters that train.

        Raises:
            ConfigError: an unknown tower, `last` below 1, or no projections that could be trained alone.
        """
        lock = {lock} if isinstance(lock, str) else set(lock)
        require(lock <= {*ROOTS, BOTH}, "lock", sorted(lock), f"give image, text or both, or {BOTH}")
        if BOTH in lock and not any(self.projects(name) for name, _ in self.backbone.model.named_parameters()):
            spec = self.backbone.spec
            raise ConfigError(f"lock={BOTH}: backbone '{spec}' has no projections to train; lock one tower")
        require(last is None or last >= 1, "last", last, "give 1 or more layers, or lock the tower")
        layouts: dict[str, _Layout] = {}
        chosen = []
        for name, parameter in self.backbone.model.named_parameters():
            tower = self.backbone.tower_of(name)
            trains = tower not in lock and (BOTH not in lock or tower == "shared" or self.projects(name))
            if trains and last is not None and tower != "shared":
                layout = layouts.setdefault(tower, _layout(self.backbone, tower))
                trains = layout.depth(name) > layout.count + 1 - last
            parameter.requires_grad_(trains)
            if trains:
                chosen.append(name)
        return chosen

    def freeze(self, towers: Collection[str]) -> None:
        """Let nothing train of these towers, "image" or "text"; what is shared stays as it is."""
        for name, parameter in self.backbone.model.named_parameters():
            if self.backbone.tower_of(name) in towers:
                parameter.requires_grad_(False)

    def parameter_groups(
        self,
        *,
        lr: float,
        weight_decay: float,
        layer_decay: float = 1.0,
        decay_all: bool = False,
        decay_vectors: bool = False,
        bias_rate: float | None = None,
        projection_rate: float = 1.0,
    ) -> list[dict]:
        """Groups for a torch optimiser, of the parameters that train.

        A layer at depth d of n blocks learns at lr * layer_decay ** (n + 1 - d) ("BEiT: BERT Pre-Training of Image
        Transformers", 2021, arXiv 2106.08254); what the towers share learns at lr, and what sees the parts of a sample
        together at lr * `JointParts.rate`. As in open_clip, biases and whatever has fewer than two axes (norms, logit
        scale, class embedding) are not decayed; tables of positions are.

        Args:
            layer_decay: factor from a layer to the one before it, above 0 to 1.
            decay_all: decay whatever trains.
            decay_vectors: decay whatever trains but biases.
            bias_rate: factor on the rate of biases; None: none.
            projection_rate: factor on the rate of the projections into the shared space.

        Raises:
            ConfigError: a factor out of range.
        """
        require(0 < layer_decay <= 1, "layer_decay", layer_decay, "give a number above 0, at most 1")
        layouts: dict[str, _Layout] = {}
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for name, parameter in self.backbone.model.named_parameters():
            if not parameter.requires_grad:
                continue
            tower, rate = self.backbone.tower_of(name), lr
            if name.startswith(f"{JOINT}."):
                rate = lr * self.backbone.joint.rate
            elif tower != "shared" and layer_decay != 1:
                layout = layouts.setdefault(tower, _layout(self.backbone, tower))
                rate = lr * layer_decay ** (layout.count + 1 - layout.depth(name))
            is_bias = "bias" in name
            if is_bias and bias_rate is not None:
                rate = rate * bias_rate
            if self.projects(name):
                rate = rate * projection_rate
            spared = not decay_all and (is_bias or (parameter.ndim < 2 and not decay_vectors))
            decay = 0.0 if spared else weight_decay
            groups.setdefault((rate, decay), []).append(parameter)
        return [{"params": listed, "lr": rate, "weight_decay": decay} for (rate, decay), listed in groups.items()]

    def freeze_batch_norm(self) -> list[str]:
        """Keep every batch norm of both towers on the statistics it has, also after `model.train()`.

        A sample's features then do not depend on the batch it came in. Scales and shifts train as before.

        Returns:
            The names of the modules.
        """
        named = self.backbone.model.named_modules()
        modules = [(name, module) for name, module in named if isinstance(module, _BatchNorm)]
        for _, module in modules:
            # A partial over the module, not a closure: a copy of the model then holds the copy of the module.
            module.train = partial(_train_all_but_statistics, module)
            module.train(module.training)
        return [name for name, _ in modules]

    def checkpoint(self) -> int:
        """Checkpoint every block of the towers, in the library's own forward pass and in ours.

        Returns:
            How many.

        Raises:
            CapabilityError: the towers have no lists of blocks.
        """
        blocks = self.backbone.block_modules()
        if not blocks:
            spec = self.backbone.spec
            raise CapabilityError(f"backbone '{spec}' has no list of blocks to checkpoint; omit checkpointing")
        for block in blocks:
            block.forward = partial(_recomputed, block, block.forward)
        self.backbone.wrap_blocks(partial(_recomputed_block, self.backbone.model))
        return len(blocks)

    def projects(self, name: str) -> bool:
        """Whether a parameter of this name is of a projection into the shared space: of joined towers, that of their
        own."""
        joined = isinstance(getattr(self.backbone.model, SPACE, None), nn.Module)
        return name.startswith(f"{SPACE}.") if joined else self.is_projection(name)

    @staticmethod
    def is_projection(name: str) -> bool:
        """Whether a parameter of this name is a projection of a tower into the shared space."""
        return _PROJECTION.fullmatch(name) is not None


def _train_all_but_statistics(module: nn.Module, mode: bool = True) -> nn.Module:
    type(module).train(module, mode)
    module.training = False
    return module


def _recomputed_block(model: nn.Module, block: Block) -> Block:
    """The block, and those of copies of its module, without activations that wait for the backward pass."""
    of = None if block.of is None else lambda module: _recomputed_block(model, block.of(module))
    return replace(block, forward=partial(_recomputed, model, block.forward), of=of)


def _recomputed(module: nn.Module, forward, *args, **kwargs):
    if not (module.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, **kwargs)


@dataclass(frozen=True)
class _Layout:
    """Where the blocks of a tower are.

    Args:
        count: n.
        blocks: path of each block, in order.
        given: depths that the library itself states, by name.
    """

    count: int
    blocks: tuple[str, ...] = ()
    given: dict[str, int] = field(default_factory=dict)

    def depth(self, name: str) -> int:
        if name in self.given:
            return self.given[name]
        for index, path in enumerate(self.blocks):
            if name.startswith(path + "."):
                return index + 1
        return 0 if _BEFORE.fullmatch(self._neighbour(name)) else self.count + 1

    def _neighbour(self, name: str) -> str:
        """The part of the name that first leaves the way to the blocks."""
        way = self.blocks[0].split(".") if self.blocks else []
        parts = name.split(".")
        return parts[len(os.path.commonprefix([way, parts[:-1]]))]  # noqa: RUF071 (of lists)


def _layout(backbone: Backbone, tower: str) -> _Layout:
    require(tower in ROOTS, "tower", tower, "give image or text")
    roots = [(name, child) for name, child in backbone.model.named_children() if name in ROOTS[tower]]
    if not any(True for _, child in roots for _ in child.parameters()):
        raise CapabilityError(f"backbone '{backbone.spec}' has no {tower} tower to train")
    name, first = roots[0]
    if hasattr(first, "trunk") and not (hasattr(first.trunk, "patch_embed") and hasattr(first.trunk, "blocks")):
        return _timm_layout(first.trunk, f"{name}.trunk.")  # no plain transformer: stages of blocks
    stacks = [stack for name, child in roots for stack in _outermost_stacks(name, child)]
    if not stacks:
        return _Layout(0)
    largest, stack = max(stacks, key=lambda named: sum(p.numel() for p in named[1].parameters()))
    stages = [name for name, _ in stacks if name.rstrip("0123456789") == largest.rstrip("0123456789")]
    blocks = stages if len(stages) > 1 else [f"{largest}.{index}" for index in range(len(stack))]  # ResNet: layer1 to 4
    return _Layout(len(blocks), tuple(blocks))


def _outermost_stacks(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    if isinstance(module, (nn.ModuleList, nn.Sequential)):
        yield name, module
        return
    for child, inner in module.named_children():
        yield from _outermost_stacks(f"{name}.{child}", inner)


def _timm_layout(trunk: nn.Module, prefix: str) -> _Layout:
    """timm says of each network in which order its layers come; a name that it does not know comes after them."""
    from timm.models._manipulate import group_with_matcher

    after = "after all layers"
    named = [*trunk.named_parameters(), (after, None)]
    depths = group_with_matcher(named, trunk.group_matcher(coarse=False), reverse=True)
    return _Layout(depths.pop(after) - 1, given={prefix + name: depth for name, depth in depths.items()})


def truncated_starts(module: nn.Module) -> None:
    """Weights of linear layers from a normal of deviation 0.02 cut at 2, biases 0: for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
