"""A longer context for a text tower that was trained on short texts: its table of positions, stretched.

Long-CLIP: Unlocking the Long-Text Capability of CLIP, 2024, arXiv 2403.15378: the first positions, which are trained
well, stay as they are; between two of the others new ones are interpolated. 77 positions become 20 + 4 * 57 = 248.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn

from ..contracts.backbone import Backbone
from ..contracts.options import require
from ..errors import CapabilityError
from .two_tower import fingerprint

HF_KINDS = ("clip", "metaclip_2")
STRETCHABLE = "CLIP's causal text transformers, of open_clip (without hf_model_name) or of transformers (clip)"


def stretch_positions(table: Tensor, keep: int = 20, factor: int = 4) -> Tensor:
    """A table of positions (L, W) as (keep + (L - keep) * factor, W).

    The first `keep` rows stay. Of the others, row keep + i becomes row keep + i * factor; the rows between are
    interpolated linearly, and those after the last go on with the last step.

    Args:
        table: (L, W).
        keep: rows that stay, 0 to below L.
        factor: rows that each of the others becomes, 1 or more.

    Raises:
        ConfigError: an option is out of range, or the table has fewer than 2 rows.
    """
    require(len(table) >= 2, "table", len(table), "give at least 2 positions")
    require(
        type(keep) is int and 0 <= keep < len(table),
        "keep",
        keep,
        f"give a whole number below {len(table)}, the number of positions",
    )
    require(type(factor) is int and factor >= 1, "factor", factor, "give a whole number, 1 or more")
    rest = table[keep:]  # (R, W)
    steps = torch.cat([rest[1:] - rest[:-1], table[-1:] - table[-2:-1]])  # (R, W)
    shares = torch.arange(factor, device=table.device, dtype=table.dtype) / factor
    between = rest[:, None] + shares[None, :, None] * steps[:, None]  # (R, factor, W)
    return torch.cat([table[:keep], between.flatten(0, 1)])


def stretch_context(backbone: Backbone, keep: int = 20, factor: int = 4) -> None:
    """Give a backbone's text tower a longer context, in place.

    Its table of positions, its attention mask, `context_length`, tokenizer, configuration and fingerprint change; texts
    of up to `keep` tokens keep their features exactly. The configuration it is saved with has the new length
    (`text_cfg.context_length` of open_clip, `text_config.max_position_embeddings` of transformers), so that what is
    saved loads like any other.

    Args:
        backbone: its model is built if it is not yet.
        keep: positions that stay, 0 to below their number.
        factor: positions that each of the others becomes.

    Raises:
        CapabilityError: the text tower is of another kind.
        ConfigError: an option is out of range.
    """
    holder, name = position_table(backbone)
    old = getattr(holder, name)
    stretched = stretch_positions(old.detach(), keep, factor)
    setattr(holder, name, nn.Parameter(stretched, requires_grad=old.requires_grad))
    length = len(stretched)
    if backbone.family == "open_clip":
        _adjust_open_clip(backbone, holder, length, [keep, factor])
    else:
        _adjust_hf(backbone, holder, length, [keep, factor])
    if backbone.reduction is not None:
        backbone.fingerprint = fingerprint(
            backbone.family, ["merge", str(backbone.reduction)], backbone.fingerprint, {}
        )
    backbone.context_length = length
    backbone._tokenizer = None  # made again, of the new length


def position_table(backbone: Backbone) -> tuple[nn.Module, str]:
    """The module that holds the text tower's table of positions (L, W), and the parameter's name in it.

    Raises:
        CapabilityError: the text tower is none whose positions can be stretched.
    """
    if not _is_causal_clip(backbone):
        raise CapabilityError(
            f"backbone '{backbone.spec}' cannot be given a longer context; towers that can: {STRETCHABLE}"
        )
    model = backbone.model
    if backbone.family == "hf":
        return model.text_model.embeddings.position_embedding, "weight"
    return (model.text if hasattr(model, "text") else model), "positional_embedding"


class KeptPositions:
    """The first positions of a text tower, held where they are while the others learn.

    No gradient reaches them, and `restore` undoes what weight decay does to them.

    Args:
        backbone: one whose positions can be stretched.
        keep: how many are held.

    Raises:
        CapabilityError: see `position_table`.
    """

    def __init__(self, backbone: Backbone, keep: int):
        self.holder, self.name, self.keep = *position_table(backbone), keep
        table = self.table
        self.rows = table.detach()[:keep].clone()
        trainable = table.requires_grad
        table.requires_grad_(True).register_hook(self._without_kept)  # frozen ones take no hook
        table.requires_grad_(trainable)

    def restore(self) -> None:
        """Back to where they were; after an optimiser's step."""
        with torch.no_grad():
            self.table[: self.keep].copy_(self.rows)

    @property
    def table(self) -> nn.Parameter:
        """(L, W)."""
        return getattr(self.holder, self.name)

    def _without_kept(self, gradient: Tensor) -> Tensor:
        gradient = gradient.clone()
        gradient[: self.keep] = 0
        return gradient


def _is_causal_clip(backbone: Backbone) -> bool:
    """Whether texts are read at their end and nothing after it is seen, by a transformer with a table of its own.

    A tower that looks at padding would read short texts otherwise once there is more of it.
    """
    if "trim" not in backbone.capabilities:
        return False
    return backbone.family == "open_clip" or (backbone.family == "hf" and backbone.source.kind in HF_KINDS)


def _adjust_open_clip(backbone: Backbone, tower: nn.Module, length: int, how: list[int]) -> None:
    for module in {tower, backbone.model}:
        module.context_length = length
    if hasattr(tower, "num_pos"):
        tower.num_pos = length
    mask = torch.full((length, length), float("-inf"), device=tower.attn_mask.device, dtype=tower.attn_mask.dtype)
    tower.attn_mask = mask.triu(1)
    source = backbone.source
    config = deepcopy(source.config)
    config["text_cfg"]["context_length"] = length
    identity = [source.identity, "stretched", *how]
    backbone.source = replace(source, config=config, identity=identity)
    backbone.fingerprint = fingerprint("open_clip", config, identity, source.transform.spec)


def _adjust_hf(backbone: Backbone, table: nn.Module, length: int, how: list[int]) -> None:
    table.num_embeddings = length
    embeddings = backbone.model.text_model.embeddings
    embeddings.position_ids = torch.arange(length, device=table.weight.device).expand(1, -1)
    source = backbone.source
    for config in (source.config.text_config, backbone.model.config.text_config, backbone.model.text_model.config):
        config.max_position_embeddings = length
    stated = {
        **source.stated,
        "text_config": {**source.stated.get("text_config", {}), "max_position_embeddings": length},
    }
    digests = [*source.digests, "stretched", *map(str, how)]
    backbone.source = replace(source, stated=stated, digests=digests)
    backbone.fingerprint = fingerprint("hf", stated, digests, source.transform.spec)
