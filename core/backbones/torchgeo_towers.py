"""The steps of torchgeo's image encoders, and how its own forward pass is called.

DOFA: Neural Plasticity-Inspired Multimodal Foundation Model for Earth Observation, 2024, arXiv 2403.15356;
Copernicus-FM: Towards a Unified Copernicus Foundation Model for Earth Vision, 2025, arXiv 2503.11849; CROMA: Remote
Sensing Representations with Contrastive Radar-Optical Masked Autoencoders, 2023, arXiv 2311.00566; Scale-MAE: A
Scale-Aware Masked Autoencoder for Multiscale Geospatial Representation Learning, 2022, arXiv 2212.14532; Panopticon:
Advancing Any-Sensor Foundation Models for Earth Observation, 2025, arXiv 2503.10845; SSL4EO-S12, 2022, arXiv
2211.07044; SSL4EO-L, 2023, arXiv 2306.09424.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchgeo.models.scale_mae import get_2d_sincos_pos_embed_from_grid_torch

from ..contracts.backbone import Block
from .checkpoints import resize_positions
from .open_clip_timm import TimmMapTower, TimmVitTower, timm_block
from .positions import ImagePositions
from .torchgeo_bands import BandInputs
from .tower_steps import FEATURE_MAP_DEPTHS, WITH_BLOCKS, ImageTower, pre_norm_block

OPTICAL, SAR, JOINT = "optical", "sar", "joint"
METRES_PER_KILOMETRE = 1000.0


class BandTower(ImageTower):
    """An encoder of torchgeo that is told of its bands.

    Args:
        visual: of the model.
        inputs: how the channels of an image enter.
        resolution: ground sample distance in metres, or None where it is not known.
    """

    def __init__(self, visual: nn.Module, inputs: BandInputs, resolution: float | None = None):
        self.visual, self.trunk, self.inputs, self.resolution = visual, visual.trunk, inputs, resolution

    def whole(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, D) by the library's own forward pass, where that takes images of this size."""
        return self.own_forward(self.inputs.taken(pixels)) if self.is_native(pixels) else self.hidden(pixels)

    def own_forward(self, pixels: Tensor) -> Tensor:
        """(B, c, H, W) of the bands that it takes -> (B, D)."""
        return self.trunk(pixels)

    def is_native(self, pixels: Tensor) -> bool:
        """Whether the library's forward pass takes images of this size."""
        return True


class DofaTower(BandTower):
    """DOFA: the weights that cut patches are generated from the wavelengths of the bands."""

    opens = WITH_BLOCKS
    prefix = 1

    def __init__(self, visual: nn.Module, inputs: BandInputs, resolution: float | None = None):
        super().__init__(visual, inputs, resolution)
        self.blocks = [timm_block(block) for block in self.trunk.blocks]

    @property
    def side(self) -> int:
        """Of a patch."""
        return self.trunk.patch_size

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        height, width = (
            (side + 2 - self.side) // self.side + 1 for side in pixels.shape[-2:]
        )  # a pixel is added round
        return height, width

    def is_native(self, pixels: Tensor) -> bool:
        height, width = self.grid(pixels)
        return height == width and height * width == self.trunk.num_patches

    def own_forward(self, pixels: Tensor) -> Tensor:
        return self.trunk(pixels, [wave / 1000 for wave in self.inputs.wavelengths])

    def start(self, pixels: Tensor) -> Tensor:
        positions = resize_positions(self.trunk.pos_embed[0], self.grid(pixels), self.prefix) + self.everywhere()
        first = (self.trunk.cls_token + positions[:1]).expand(len(pixels), -1, -1)
        return torch.cat([first, self.patches(self.inputs.taken(pixels)) + positions[1:]], dim=1)

    def patches(self, pixels: Tensor) -> Tensor:
        """(B, c, H, W) -> (B, P, W)."""
        return self.trunk.patch_embed(pixels, self.nanometres(self.inputs.wavelengths, pixels) / 1000)[0]

    def everywhere(self) -> Tensor | float:
        """What is added to all positions, (1, W)."""
        return 0.0

    def pool(self, x: Tensor) -> Tensor:
        x = x[:, self.prefix :] if x.shape[1] > 1 else x  # one alone is a patch
        return self.trunk.fc_norm(x.mean(dim=1))

    @staticmethod
    def nanometres(values: Sequence[float], pixels: Tensor) -> Tensor:
        """(c,) on the device of the pixels."""
        return torch.tensor(values, device=pixels.device)


class CopernicusTower(DofaTower):
    """Copernicus-FM: as DOFA, with the width of each band; where it lies, when it was taken and how large a patch is on
    the ground are added to all positions, or the learned tokens of what is not known. Place and time are not known
    here; the size of a patch follows from the resolution."""

    @property
    def side(self) -> int:
        return self.trunk.patch_embed_spectral.kernel_size

    def own_forward(self, pixels: Tensor) -> Tensor:
        metadata = torch.full((len(pixels), 4), math.nan, device=pixels.device)  # longitude, latitude, time, area
        if self.resolution is not None:
            metadata[:, 3] = self._area()
        waves, widths = list(self.inputs.wavelengths), list(self.inputs.bandwidths)
        return self.trunk(pixels, metadata, wavelengths=waves, bandwidths=widths)

    def patches(self, pixels: Tensor) -> Tensor:
        waves, widths = (self.nanometres(each, pixels) for each in (self.inputs.wavelengths, self.inputs.bandwidths))
        return self.trunk.patch_embed_spectral(pixels, wavelengths=waves, bandwidths=widths)

    def everywhere(self) -> Tensor:
        trunk, scale = self.trunk, self.trunk.scale_token
        if self.resolution is not None:
            scale = trunk.get_area_pos_embed(torch.full((1,), self._area(), device=scale.device), scale.shape[-1])
        return (trunk.coord_fc(trunk.coord_token) + trunk.scale_fc(scale) + trunk.time_fc(trunk.time_token))[0]

    def _area(self) -> float:
        """Of a patch on the ground, in square kilometres."""
        return ((self.resolution or 0.0) * self.side / METRES_PER_KILOMETRE) ** 2


class CromaTower(BandTower):
    """CROMA's encoder of optical or of radar images: attention falls with the distance of patches."""

    opens = WITH_BLOCKS

    def __init__(self, visual: nn.Module, inputs: BandInputs, resolution: float | None = None):
        super().__init__(visual, inputs, resolution)
        self.kind = OPTICAL if OPTICAL in self.trunk.modalities else SAR
        name = "s2" if self.kind == OPTICAL else "s1"
        self.encoder, self.gap_ffn = getattr(self.trunk, f"{name}_encoder"), getattr(self.trunk, f"{name}_GAP_FFN")
        self.blocks = [self._block(layer) for layer in self.encoder.transformer.layers]
        self._bias = self.trunk.attn_bias

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        return pixels.shape[-2] // self.trunk.patch_size, pixels.shape[-1] // self.trunk.patch_size

    def is_native(self, pixels: Tensor) -> bool:
        return self.grid(pixels) == (self.trunk.image_size // self.trunk.patch_size,) * 2

    def own_forward(self, pixels: Tensor) -> Tensor:
        return self.trunk(**{f"x_{self.kind}": pixels})[f"{self.kind}_GAP"]

    def start(self, pixels: Tensor) -> Tensor:
        self._bias = distance_bias(self.encoder.num_heads, self.grid(pixels), pixels)  # of the blocks that follow
        side = self.trunk.patch_size
        return self.encoder.linear_input(F.unfold(self.inputs.taken(pixels), side, stride=side).transpose(1, 2))

    def pool(self, x: Tensor) -> Tensor:
        return self.gap_ffn(self.encoder.transformer.norm_out(x).mean(dim=1))

    def _block(self, layer: nn.Module) -> Block:
        attention, mlp = layer
        return pre_norm_block(
            ln_1=attention.input_norm,
            qkv=attention.to_qkv,
            out=attention.to_out,
            ln_2=mlp.input_norm,
            mlp=mlp.net,
            num_heads=attention.num_heads,
            mix=self._biased,
            module=layer,
        )

    def _biased(self, qkv: Tensor, num_heads: int, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """`attend` with less weight on what is far away; learned tokens behind the patches are near to all."""
        batch, length, _ = qkv.shape
        query, key, value = qkv.view(batch, length, 3, num_heads, -1).permute(2, 0, 3, 1, 4)  # (B, H, T, W / H)
        more = length - self._bias.shape[-1]
        bias = F.pad(self._bias, (0, more, 0, more)).to(query)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return mixed.transpose(1, 2).reshape(batch, length, -1)


class CromaJointTower(BandTower):
    """CROMA's joint encoder: radar patches that look at optical ones."""

    cell = 8

    def is_native(self, pixels: Tensor) -> bool:
        return tuple(pixels.shape[-2:]) == (self.trunk.image_size,) * 2

    def own_forward(self, pixels: Tensor) -> Tensor:
        radar, optical = self._sides(pixels)
        return self.trunk(x_sar=radar, x_optical=optical)["joint_GAP"]

    def hidden(self, pixels: Tensor) -> Tensor:
        return self._after(pixels)[0][-1].mean(dim=1)

    def tokens(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        made, grid = self._after(pixels)
        return made[-1], grid

    def maps(self, pixels: Tensor) -> list[Tensor]:
        made, grid = self._after(pixels)
        return [x.transpose(1, 2).unflatten(2, grid) for x in made]

    def pool_map(self, last: Tensor) -> Tensor:
        cells = last.flatten(2).transpose(1, 2)  # (B, P, W)
        return torch.cat([cells.mean(dim=1, keepdim=True), cells], dim=1)

    def _after(self, pixels: Tensor) -> tuple[list[Tensor], tuple[int, int]]:
        """(B, P, W) after a quarter, a half, three quarters and all of the joint layers, the last normed; the grid."""
        trunk = self.trunk
        radar, optical = self._sides(self.inputs.taken(pixels))
        grid = pixels.shape[-2] // trunk.patch_size, pixels.shape[-1] // trunk.patch_size
        bias = distance_bias(trunk.num_heads, grid, pixels)
        x = trunk.s1_encoder(imgs=radar, attn_bias=bias)
        context = trunk.s2_encoder(imgs=optical, attn_bias=bias)
        joint, made = trunk.joint_encoder, []
        for attention, crossed, mlp in joint.layers:
            x = attention(x, bias) + x
            x = crossed(x, context, bias) + x
            x = mlp(x) + x
            made.append(x)
        stops = sorted({max(1, round(share * len(made))) for share in FEATURE_MAP_DEPTHS})
        return [*(made[stop - 1] for stop in stops[:-1]), joint.norm_out(x)], grid

    def _sides(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        return pixels[:, : self.trunk.s1_channels], pixels[:, self.trunk.s1_channels :]


def distance_bias(num_heads: int, grid: tuple[int, int], like: Tensor) -> Tensor:
    """(1, H, P, P): minus the distance of two patches times the slope of a head ("Train Short, Test Long: Attention
    with Linear Biases Enables Input Length Extrapolation", 2021, arXiv 2108.12409), on the device of `like`."""
    rows, columns = (torch.arange(side, device=like.device, dtype=torch.float32) for side in grid)
    places = torch.cartesian_prod(rows, columns)  # (P, 2)
    distances = (places[:, None] - places[None]).square().sum(dim=-1).sqrt()
    slope = 2 ** -(2 ** -(math.log2(num_heads) - 3))
    slopes = slope ** torch.arange(1, num_heads + 1, device=like.device, dtype=torch.float32)
    return -(slopes[:, None, None] * distances)[None]


class ScaleMaeTower(BandTower, TimmVitTower):
    """Scale-MAE: sines and cosines of where a patch lies on the ground, in metres."""

    def __init__(self, visual: nn.Module, inputs: BandInputs, resolution: float | None = None):
        TimmVitTower.__init__(self, visual)
        self.inputs = inputs

    def own_forward(self, pixels: Tensor) -> Tensor:
        return self.visual(pixels)

    def is_native(self, pixels: Tensor) -> bool:
        return tuple(pixels.shape[-2:]) == tuple(self.trunk.patch_embed.img_size)

    def start(self, pixels: Tensor) -> Tensor:
        trunk, (height, width) = self.trunk, self.grid(pixels)
        patches = trunk.patch_embed.norm(trunk.patch_embed.proj(self.inputs.taken(pixels)).flatten(2).transpose(1, 2))
        metres = [torch.arange(side, device=pixels.device, dtype=patches.dtype) * trunk.res for side in (width, height)]
        places = torch.stack(torch.meshgrid(*metres, indexing="xy"))[:, None]  # (2, 1, h, w)
        positions = get_2d_sincos_pos_embed_from_grid_torch(trunk.embed_dim, places).to(patches)
        first = trunk.cls_token.expand(len(patches), -1, -1)
        return torch.cat([first, patches + positions], dim=1)

    def positions(self) -> ImagePositions | None:
        """None: they are computed."""
        return None


class PanopticonTower(BandTower, TimmVitTower):
    """Panopticon: each band is cut into patches by itself, and attention over the bands, with their wavelengths, makes
    one of them."""

    def __init__(self, visual: nn.Module, inputs: BandInputs, resolution: float | None = None):
        self.visual, self.trunk, self.inputs = visual, visual.trunk.model, inputs
        self.prefix = self.trunk.num_prefix_tokens
        self.blocks = [timm_block(block) for block in self.trunk.blocks]

    def grid(self, pixels: Tensor) -> tuple[int, int]:
        rows, columns = self.trunk.patch_embed.patch_size
        return pixels.shape[-2] // rows, pixels.shape[-1] // columns

    def is_native(self, pixels: Tensor) -> bool:
        return self.grid(pixels) == tuple(self.trunk.patch_embed.grid_size)

    def own_forward(self, pixels: Tensor) -> Tensor:
        return self.visual.trunk(self._with_waves(pixels))

    def start(self, pixels: Tensor) -> Tensor:
        patches = self.trunk.patch_embed(self._with_waves(self.inputs.taken(pixels)))
        return self._positioned(patches, self.grid(pixels))

    def positions(self) -> ImagePositions | None:
        """None: no layer gives the patches of all bands as a map."""
        return None

    def _with_waves(self, pixels: Tensor) -> dict[str, Tensor]:
        waves = torch.tensor(self.inputs.wavelengths, device=pixels.device)
        return {"imgs": pixels, "chn_ids": waves.expand(len(pixels), -1).clone()}  # written to by the encoder


class BandVitTower(BandTower, TimmVitTower):
    """timm's vision transformer on chosen bands."""

    def __init__(self, visual: nn.Module, inputs: BandInputs, resolution: float | None = None):
        TimmVitTower.__init__(self, visual)
        self.inputs = inputs

    def start(self, pixels: Tensor) -> Tensor:
        return TimmVitTower.start(self, self.inputs.taken(pixels))

    def is_native(self, pixels: Tensor) -> bool:
        return self._takes(pixels)


class BandMapTower(BandTower, TimmMapTower):
    """timm's ResNet on chosen bands."""

    def __init__(self, visual: nn.Module, inputs: BandInputs, resolution: float | None = None):
        TimmMapTower.__init__(self, visual)
        self.inputs = inputs

    def maps(self, pixels: Tensor) -> list[Tensor]:
        return TimmMapTower.maps(self, self.inputs.taken(pixels))
