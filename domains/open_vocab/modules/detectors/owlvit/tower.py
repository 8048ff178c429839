"""The image tower of OWL-ViT: patches as they leave a vision transformer, not pooled, with its class token in each."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor, nn

from ......core.backbones import load_backbone
from ......core.contracts import Backbone, Block
from ......core.errors import CapabilityError, ConfigError, DataError
from ...backbones.image_part import ImagePart

MERGES = ("mul-ln", "drop")
HEADS = ("class_head", "box_head", "objectness_head", "layer_norm")
KINDS = ("owlvit", "owlv2")


class DropLayer:
    """In training, leaves out what a module gives, for each sample of a batch by chance. Nothing is scaled up for it.

    A forward hook.
    """

    def __init__(self, rate: float):
        self.rate = rate

    def __call__(self, module: nn.Module, args: tuple, output: Tensor) -> Tensor:
        if not module.training:
            return output
        kept = torch.rand(len(output), *[1] * (output.dim() - 1), device=output.device) >= self.rate
        return output * kept


def drop_layers(blocks: list[Block], rate: float) -> None:
    """Leave out attention and MLP of a transformer's blocks at a rate that grows from 0 at the first one to `rate`."""
    for index, block in enumerate(blocks):
        share = rate * index / max(len(blocks) - 1, 1)
        for branch in (block.out, block.mlp) if share else ():
            branch.register_forward_hook(DropLayer(share))


class PatchTower(nn.Module):
    """A backbone's vision transformer as `forward(pixels) -> patches (B, N, W), grid (h, w)`.

    Args:
        spec: of the backbone.
        merge: "mul-ln" multiplies each patch by the class token and normalises; "drop" leaves that token out.
        droplayer: rate of the last block in training.

    Attributes:
        patch_size: side of a patch in pixels.
        width: W.

    Raises:
        CapabilityError: the backbone has no vision transformer, or none with a class token to merge.
        ConfigError: the merge is not known.
    """

    def __init__(self, spec: str, merge: str = "mul-ln", droplayer: float = 0.2):
        super().__init__()
        if merge not in MERGES:
            raise ConfigError(f"OWLViT: merge_class_token='{merge}' is not known; give {' or '.join(MERGES)}")
        load_backbone(spec, device="cpu").need("image_blocks")  # before its towers are built
        self.image = ImagePart(spec)
        self.merge = merge
        backbone = self.backbone
        if merge == "mul-ln" and not backbone.image_prefix:
            raise CapabilityError(
                f"backbone '{spec}' has no class token for merge_class_token='mul-ln'; give "
                "merge_class_token='drop', or a CLIP of open_clip or hf"
            )
        drop_layers(backbone.blocks("image"), droplayer)
        # Patches are taken before the projection; a parameter that no loss reaches would stop DistributedDataParallel.
        matrix = backbone.image_projection()
        if matrix is not None:
            for parameter in (getattr(matrix.owner, matrix.name), getattr(matrix.owner, "bias", None)):
                if isinstance(parameter, nn.Parameter):
                    parameter.requires_grad_(False)
        size = backbone.image_size
        self.patch_size = size // backbone.image_grid(torch.empty(1, 3, size, size))[0]
        with torch.no_grad():
            self.width = self._tokens(torch.zeros(1, 3, self.patch_size, self.patch_size)).shape[-1]

    @property
    def backbone(self) -> Backbone:
        return self.image.backbone

    def square(self, pixels: Tensor) -> Tensor:
        """Pad at the right and below to a square of whole patches, with 0, which is the mean colour."""
        side = -(-max(pixels.shape[-2:]) // self.patch_size) * self.patch_size
        return F.pad(pixels, (0, side - pixels.shape[-1], 0, side - pixels.shape[-2]))

    def forward(self, pixels: Tensor, merged_norm: nn.LayerNorm | None) -> tuple[Tensor, tuple[int, int]]:
        """(B, 3, H, W) -> (B, h * w, W) and (h, w).

        Args:
            merged_norm: what normalises the patches after the class token is multiplied in.
        """
        tokens = self._tokens(pixels)  # (B, prefix + N, W)
        grid = self.backbone.image_grid(pixels)
        prefix = self.backbone.image_prefix
        patches = tokens[:, prefix : prefix + grid[0] * grid[1]]
        if self.merge == "mul-ln":
            patches = merged_norm(patches * tokens[:, :1])
        return patches, grid

    def _tokens(self, pixels: Tensor) -> Tensor:
        backbone = self.backbone
        return backbone.norm_tokens(backbone.run_blocks("image", backbone.embed_image(pixels)))


def published_heads(backbone: Backbone) -> dict[str, dict[str, Tensor]]:
    """Name of a head -> its weights, for those that the files of the backbone hold."""
    source = getattr(backbone, "source", None)
    if backbone.family != "hf" or source.kind not in KINDS:
        return {}
    weights: dict[str, dict[str, Tensor]] = {}
    for file in sorted(source.folder.glob("model*.safetensors")) or sorted(source.folder.glob("pytorch_model*.bin")):
        for name, value in _read(file).items():
            head, _, rest = name.partition(".")
            weights.setdefault(head, {})[rest] = value
    return weights


def load_published_heads(model: nn.Module, published: dict[str, dict[str, Tensor]], spec: str) -> None:
    """Put the weights of the heads into a model that has heads of these names.

    Raises:
        DataError: they do not fit.
    """
    for name, weights in published.items():
        head = getattr(model, name)
        if head is None:
            continue
        try:
            head.load_state_dict(weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise DataError(
                f"backbone '{spec}': the weights of its '{name}' do not fit ({reason}); copy or download them again"
            ) from None


def _read(file: Path) -> dict[str, Tensor]:
    """What in a file belongs to heads. The towers were read from it before, so it is valid."""
    if file.suffix == ".safetensors":
        with safe_open(str(file), framework="pt") as opened:
            names = [name for name in opened.keys() if name.startswith(HEADS)]  # noqa: SIM118 (no mapping)
            return {name: opened.get_tensor(name) for name in names}
    weights = torch.load(file, map_location="cpu", weights_only=True)
    return {name: value for name, value in weights.items() if name.startswith(HEADS)}
