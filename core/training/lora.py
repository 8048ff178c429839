"""CLIP-LoRA: low-rank updates of the attention projections of both towers, everything else frozen.

"Low-Rank Few-Shot Adaptation of Vision-Language Models" (2024, arXiv 2405.18541), on LoRA (2021, arXiv 2106.09685)
scaled by 1 / sqrt(r) as in rsLoRA (2023, arXiv 2312.03732). The layers are peft's. The released code counts positions
for 12 blocks and leaves out the last three of ViT-L/14's image tower; here they are shares of each tower's own depth.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

import torch
from torch import Tensor, nn

from ..backbones.split_attention import SplitLayer, merge_attention, split_attention
from ..contracts.backbone import Backbone
from ..contracts.options import require
from ..errors import CapabilityError, ConfigError, DataError

# From and to, as shares of a tower's depth.
_SHARES = {
    "all": (0, 1),
    "half-bottom": (0, 1 / 2),
    "half-up": (1 / 2, 1),
    "bottom": (0, 1 / 3),
    "mid": (1 / 3, 2 / 3),
    "up": (2 / 3, 1),
}
# The last few blocks.
_TOPS = {"top1": 1, "top2": 2, "top3": 3}
_ADAPTER = "lora"
_MATRICES = ("lora_A", "lora_B")


class LowRank:
    """The low-rank matrices that a backbone carries, to be trained, kept, or merged into its weights.

    Args:
        backbone: to which `add` has given them.

    Class attributes:
        PARAMS: projections that can get matrices.
        POSITIONS: words for the blocks that get them.

    Attributes:
        matrices: "<projection>.lora_A" (r, W) and "<projection>.lora_B" (W, r).

    Raises:
        CapabilityError: the backbone carries no LoRA.
    """

    PARAMS = ("q", "k", "v", "out")
    POSITIONS = (*_SHARES, *_TOPS)

    def __init__(self, backbone: Backbone):
        self.backbone, self.matrices = backbone, _matrices(backbone.model)
        if not self.matrices:
            raise CapabilityError(f"backbone '{backbone.spec}' carries no LoRA; call LowRank.add() first")

    @classmethod
    def add(
        cls,
        backbone: Backbone,
        *,
        r: int = 2,
        alpha: float = 1.0,
        dropout: float = 0.25,
        params: Collection[str] = ("q", "k", "v"),
        towers: Collection[str] = ("image", "text"),
        positions: str = "all",
        use_rslora: bool = True,
    ) -> LowRank:
        """Freeze the model and hang trainable matrices on its attention: W x + scale * B A dropout(x), in place.

        A starts uniform and B at zero, so that nothing changes at first. A new matrix is drawn from torch's global
        generator. Evaluation mode has no dropout. A tower without attention blocks stays as it is, with a warning.

        Args:
            r: rank.
            alpha: the scale is alpha / sqrt(r).
            dropout: share of what goes into A that is zeroed in train mode, 0 to below 1.
            params: which projections, of "q", "k", "v" and "out".
            towers: of "image" and "text".
            positions: which blocks of each tower: "all"; "half-bottom", "half-up"; the thirds "bottom", "mid", "up"; or
                the last ones, "top1" to "top3".
            use_rslora: False scales by alpha / r, as LoRA was first published.

        Raises:
            ConfigError: an option is not usable, or no block has such a position.
            CapabilityError: no tower has attention blocks, LoRA is there already, or peft is not installed.
        """
        check_lora_options(r, alpha, dropout, params, positions)
        if _matrices(backbone.model):
            raise CapabilityError(
                f"backbone '{backbone.spec}' carries LoRA already; call LowRank(backbone).merge() first"
            )
        peft = _peft()
        targets = _targets(backbone, split_attention(backbone, towers), params, positions)
        config = peft.LoraConfig(
            r=r,
            lora_alpha=alpha,
            lora_dropout=dropout,
            use_rslora=use_rslora,
            bias="none",
            # One pattern of whole names: in a list each would also match longer names that end alike, and in open_clip
            # the image tower's blocks end as the text tower's do.
            target_modules="|".join(re.escape(name) for name in targets),
        )
        training = {name: backbone.model.get_submodule(name).training for name in targets}
        backbone.model.requires_grad_(False)
        peft.inject_adapter_in_model(config, backbone.model, _ADAPTER)
        for name, mode in training.items():  # peft's layers come in train mode, whatever the model is in
            backbone.model.get_submodule(name).train(mode)
        backbone._towers = None  # they hold the modules that stood here before
        return cls(backbone)

    def state(self) -> dict[str, Tensor]:
        """A copy of the matrices, on the CPU."""
        return {name: matrix.detach().cpu().clone() for name, matrix in self.matrices.items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Put what `state` gave into the matrices, of the same options.

        Raises:
            DataError: names or shapes differ; nothing is then changed.
        """
        if self.matrices.keys() != state.keys():
            odd = sorted(self.matrices.keys() ^ state.keys())
            raise DataError(
                f"these are LoRA weights of other layers than backbone '{self.backbone.spec}' carries: {len(odd)} "
                f"differ ({odd[0]}); give LowRank.add the params, towers and positions they were made with"
            )
        for name, matrix in self.matrices.items():
            if matrix.shape != state[name].shape:
                raise DataError(
                    f"LoRA weight '{name}' is {tuple(state[name].shape)}, backbone '{self.backbone.spec}' takes "
                    f"{tuple(matrix.shape)}; give LowRank.add the r and the backbone they were made with"
                )
        for name, matrix in self.matrices.items():
            matrix.copy_(state[name])

    def merge(self) -> dict[str, Tensor]:
        """Add scale * B A to the weights and take LoRA away, in place: the model's own modules and names are back.

        Returns:
            What `state` gave before.
        """
        model, merged = self.backbone.model, self.state()
        for name, layer in list(_lora_layers(model)):
            layer.merge(adapter_names=[_ADAPTER])
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
        del model.peft_config
        merge_attention(self.backbone)
        return merged


def check_lora_options(r: int, alpha: float, dropout: float, params: Collection[str], positions: str) -> None:
    """Refuse what `LowRank.add` could not use, before there is a backbone.

    Raises:
        ConfigError: an option is out of range.
    """
    require(isinstance(r, int) and r >= 1, "r", r, "give a whole number, 1 or more")
    require(alpha > 0, "alpha", alpha, "give a number above 0")
    require(0 <= dropout < 1, "dropout", dropout, "give a number from 0 to below 1")
    require(len(params) > 0 and set(params) <= set(LowRank.PARAMS), "params", list(params), "give some of q, k, v, out")
    require(positions in LowRank.POSITIONS, "positions", positions, f"give one of {', '.join(LowRank.POSITIONS)}")


def _peft():
    try:
        import peft
    except ModuleNotFoundError as error:
        raise CapabilityError(
            f"LoRA needs the package '{error.name}'; install it with: pip install 'vladapt[fine-tune]'"
        ) from None
    return peft


def _targets(backbone: Backbone, layers: list[SplitLayer], params: Collection[str], positions: str) -> list[str]:
    """Names of the linear layers, in the order of towers and blocks."""
    depth = {tower: sum(layer.tower == tower for layer in layers) for tower in ("image", "text")}
    chosen = [layer for layer in layers if layer.block in _blocks(positions, depth[layer.tower])]
    if not chosen:
        merge_attention(backbone)
        raise ConfigError(
            f"option positions={positions!r} is not usable; backbone '{backbone.spec}' has too few blocks, give all"
        )
    return [getattr(layer, role) for layer in chosen for role in LowRank.PARAMS if role in params]


def _blocks(positions: str, depth: int) -> range:
    """Numbers of the blocks at these positions of a tower with `depth` blocks."""
    if positions in _TOPS:
        return range(max(0, depth - _TOPS[positions]), depth)
    start, stop = _SHARES[positions]
    return range(round(start * depth), round(stop * depth))


def _matrices(model: nn.Module) -> dict[str, nn.Parameter]:
    """ "<projection>.lora_A" or "...lora_B" -> the matrix."""
    return {
        f"{name}.{matrix}": getattr(layer, matrix)[_ADAPTER].weight
        for name, layer in _lora_layers(model)
        for matrix in _MATRICES
    }


def _lora_layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, module in model.named_modules():
        if all(isinstance(getattr(module, matrix, None), nn.ModuleDict) for matrix in _MATRICES):
            yield name, module
