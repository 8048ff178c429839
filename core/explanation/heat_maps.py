"""Where in a picture the score of a class comes from: three ways, each for the towers that it suits.

A map is an aid to the eye, not a proof: what it marks was not shown to be the cause.

* Occlusion: "Visualizing and Understanding Convolutional Networks" (Zeiler and Fergus, 2014, arXiv 1311.2901). A square
  of the picture's mean colour goes over it, and how far the score falls is written where it lay. For any tower.
* Grad-CAM: "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (Selvaraju et al., 2017,
  arXiv 1610.02391), on the map that a convolutional tower pools.
* Attention rollout: "Quantifying Attention Flow in Transformers" (Abnar and Zuidema, 2020, arXiv 2005.00928). It says
  what the tower looked at, whatever the class.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.adapter import Adapter
from ..contracts.backbone import Backbone
from ..contracts.features import Batch
from ..errors import CapabilityError, ConfigError

GRAD_CAM, OCCLUSION, ROLLOUT = "grad-cam", "occlusion", "rollout"
METHODS = (GRAD_CAM, OCCLUSION, ROLLOUT)
SIDE_SHARE = 2 / 7
"""Of the shorter side of the picture, the side of the square that covers it: two cells of seven."""
AT_ONCE = 16
SAME = 1e-3
"""How far features may lie from the tower's own, relative to them, where its attention was taken apart."""
READS = frozenset({"features", "pre_projection", "text_encoder"})
"""What a method may need of an image for its score to be followed from the pixels."""


@dataclass(frozen=True)
class Seen:
    """An image tower and the method on it, from pixels to the score of a class.

    The score is the logit of the class above the mean of the others, which is all of a logit that decides: what is
    added to all of them alike changes no answer. With several labels per image it is the label's own logit.
    """

    towers: Backbone
    adapter: Adapter

    def score(self, pixels: Tensor, target: int) -> Tensor:
        """(B,) of pixels (B, 3, H, W)."""
        hidden = self.towers.hidden(pixels) if "pre_projection" in self.adapter.at_predict else None
        return self.of_features(self.towers.encode_image(pixels, normalize=False), target, hidden)

    def of_features(self, features: Tensor, target: int, hidden: Tensor | None = None) -> Tensor:
        """(B,) of features (B, D)."""
        logits = self.adapter.logits(Batch(features=features.float(), pre_projection=hidden)).float()  # (B, C)
        own, others = logits[:, target], logits.shape[1] - 1
        if self.adapter.multilabel_ or not others:
            return own
        return own - (logits.sum(dim=1) - own) / others


def default_method(towers: Backbone) -> str:
    """The method of a tower where none is named."""
    if "image_blocks" in towers.capabilities:
        return ROLLOUT
    return GRAD_CAM if "feature_maps" in towers.capabilities else OCCLUSION


def check_method(method: str, seen: Seen) -> None:
    """Refuse a method that cannot look into a tower, or a score that cannot be followed.

    Raises:
        ConfigError: no such method. CapabilityError: it cannot, and why.
    """
    if method not in METHODS:
        raise ConfigError(f"--explain-method {method}: give one of {', '.join(METHODS)}")
    towers, adapter = seen.towers, seen.adapter
    if why := _not_followed(adapter):
        raise CapabilityError(f"adapter '{adapter.name}' {why}, so its score cannot be located in one picture")
    if towers.joint is not None:
        raise CapabilityError(
            f"backbone '{towers.spec}' encodes the parts of a sample together, so there is no heat map"
        )
    blocks, maps = ("image_blocks" in towers.capabilities, "feature_maps" in towers.capabilities)
    other = f"give --explain-method {OCCLUSION}"
    if method == ROLLOUT and not blocks:
        raise CapabilityError(f"rollout: backbone '{towers.spec}' has no attention to follow; {other}")
    if method == GRAD_CAM and (blocks or not maps):
        raise CapabilityError(f"grad-cam: backbone '{towers.spec}' is not convolutional; {other}")
    if method == GRAD_CAM and "pre_projection" in adapter.at_predict:
        raise CapabilityError(f"grad-cam: adapter '{adapter.name}' reads features before the projection; {other}")


def _not_followed(adapter: Adapter) -> str:
    """Why the score of one image is no function of its pixels; "" where it is."""
    if "streams" in adapter.can:
        return "learns from the images it predicts"
    if adapter.transductive:
        return "reads all images together"
    if "parts" in adapter.at_predict:
        return "reads the parts of a sample"
    if "images" in adapter.needs:
        return "tunes itself on views of each image"
    further = sorted(adapter.at_predict - READS)
    return f"needs more of an image than its features ({', '.join(further).replace('_', ' ')})" if further else ""


def heat_map(method: str, seen: Seen, pixels: Tensor, target: int) -> Tensor:
    """How much each pixel counts for the score of a class, (H, W) float32 on the CPU, 0 to 1; the largest is 1 unless
    nothing counts for it.

    Args:
        pixels: (3, H, W) as the tower takes them.
        target: class index.

    Raises:
        ConfigError, CapabilityError: as `check_method`, or the score has no gradient.
    """
    check_method(method, seen)
    made = {GRAD_CAM: _grad_cam, OCCLUSION: _occlusion, ROLLOUT: _rollout}[method](
        seen, pixels.to(seen.towers.device), target
    )
    made = made.detach().float().cpu().clamp(min=0)
    top = made.max()
    return made / top if top > 0 else made


@torch.no_grad()
def _occlusion(seen: Seen, pixels: Tensor, target: int) -> Tensor:
    """(H, W): the mean fall of the score under the squares that covered each pixel."""
    height, width = pixels.shape[-2:]
    side = max(1, round(SIDE_SHARE * min(height, width)))
    step = max(1, side // 2)
    places = [(y, x) for y in _starts(height, side, step) for x in _starts(width, side, step)]
    colour, whole = pixels.mean(dim=(1, 2))[:, None, None], seen.score(pixels[None], target)
    fall, covered = torch.zeros(2, height, width, device=pixels.device).unbind()
    for start in range(0, len(places), AT_ONCE):
        some = places[start : start + AT_ONCE]
        pictures = pixels.repeat(len(some), 1, 1, 1)
        for picture, place in zip(pictures, some):
            picture[(slice(None), *_square(place, side))] = colour
        for place, score in zip(some, seen.score(pictures, target)):
            fall[_square(place, side)] += whole[0] - score
            covered[_square(place, side)] += 1
    return _smooth(fall / covered, step)


def _starts(length: int, side: int, step: int) -> range:
    """Where squares begin along a side: the first and the last hang over by half, so that all pixels are covered as
    often."""
    return range(-step, length - side + step + 1, step)


def _square(place: tuple[int, int], side: int) -> tuple[slice, slice]:
    return tuple(slice(max(0, start), max(0, start + side)) for start in place)


def _smooth(values: Tensor, step: int) -> Tensor:
    """Means over a step, so that the map has a middle rather than plateaus."""
    size = step | 1
    padded = F.pad(values[None, None], (size // 2,) * 4, mode="replicate")
    return F.avg_pool2d(padded, size, stride=1)[0, 0]


def _grad_cam(seen: Seen, pixels: Tensor, target: int) -> Tensor:
    with torch.no_grad():
        cells, pool = seen.towers.pooled_map(pixels[None])  # (1, D, h, w)
    cells = cells.detach().requires_grad_()
    try:
        with torch.enable_grad():
            (slopes,) = torch.autograd.grad(seen.of_features(pool(cells), target).sum(), cells)  # (1, D, h, w)
    except RuntimeError as error:
        why = f"the score of adapter '{seen.adapter.name}' has no gradient ({' '.join(str(error).split())[:80]})"
        raise CapabilityError(f"grad-cam: {why}; give --explain-method {OCCLUSION}") from error
    weights = slopes.mean(dim=(2, 3), keepdim=True)  # (1, D, 1, 1)
    return _enlarged((weights * cells.detach()).sum(dim=1)[0].relu(), pixels)


@torch.no_grad()
def _rollout(seen: Seen, pixels: Tensor, target: int) -> Tensor:
    """The product over blocks of the mean attention, half of each token staying where it is; of what is pooled."""
    towers, rolled = seen.towers, []

    def attention(index: int, block, x: Tensor) -> Tensor:
        batch, length, _ = x.shape
        stacked = block.qkv(x)
        query, key, value = stacked.view(batch, length, 3, block.num_heads, -1).permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) / query.shape[-1] ** 0.5).softmax(dim=-1)  # (B, heads, T, T)
        mean = (weights.mean(dim=1)[0] + torch.eye(length, device=x.device)) / 2
        rolled.append(mean if not rolled else mean @ rolled.pop())
        return block.out((weights @ value).transpose(1, 2).reshape(batch, length, -1))

    x = towers.run_blocks("image", towers.embed_image(pixels[None]), attention=attention)
    features, own = towers.pool_image(x, normalize=False), towers.encode_image(pixels[None], normalize=False)
    if (features - own).norm() > SAME * own.norm():
        why = f"backbone '{towers.spec}' does not have plain attention"
        raise CapabilityError(f"rollout: {why}; give --explain-method {OCCLUSION}")
    first, (height, width) = towers.image_prefix, towers.image_grid(pixels[None])
    pooled = rolled[0][0] if first else rolled[0].mean(dim=0)  # (T,): of the class token, or of all where there is none
    patches = pooled[first : first + height * width].view(height, width)
    return _enlarged(patches - patches.min(), pixels)


def _enlarged(cells: Tensor, pixels: Tensor) -> Tensor:
    """(h, w) -> (H, W)."""
    return F.interpolate(cells[None, None].float(), pixels.shape[-2:], mode="bilinear", align_corners=False)[0, 0]


def as_seen(pixels: Tensor, towers: Backbone) -> np.ndarray:
    """(H, W, 3) uint8: the picture as the tower takes it, cut and resized, of more channels the first three."""
    mean, std = (torch.tensor(values[:3])[:, None, None] for values in (towers.image_mean, towers.image_std))
    shown = (pixels[:3].float().cpu() * std + mean).clamp(0, 1)
    return (shown * 255).round().byte().permute(1, 2, 0).numpy()


def overlaid(picture: np.ndarray, heat: Tensor) -> np.ndarray:
    """The map over the picture: where nothing counts the picture is grey and dim, where much counts red to yellow.

    Args:
        picture: (H, W, 3) uint8.
        heat: (H, W) in 0..1.
    """
    from matplotlib import colormaps

    share = heat.numpy()[..., None]
    dim = 0.25 * 255 + 0.6 * picture.mean(axis=2, keepdims=True)
    colours = 255 * colormaps["inferno"](0.25 + 0.7 * heat.numpy())[..., :3]
    opacity = 0.75 * share**0.8
    return (dim * (1 - opacity) + colours * opacity).clip(0, 255).round().astype(np.uint8)
