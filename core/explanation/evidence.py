"""What an answer rests on: the labelled images that a run learned from, and where in a picture the score comes from.

Of the labelled images a run keeps features, labels and where their pictures lie, in one safetensors file in its folder,
tensors in the body and JSON in the header. No pickle.

A heat map says where in a picture the score of a class comes from: four ways, each for what it suits. It is
an aid to the eye, not a proof: what it marks was not shown to be the cause.

* Occlusion: "Visualizing and Understanding Convolutional Networks" (Zeiler and Fergus, 2014, arXiv 1311.2901). A square
  of the picture's mean colour goes over it, and how far the score falls is written where it lay. For any tower.
* Grad-CAM: "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization" (Selvaraju et al., 2017,
  arXiv 1610.02391), on the map that a convolutional tower pools.
* Attention: of a method whose classes look at patches, where the class looks.
* Attention rollout: "Quantifying Attention Flow in Transformers" (Abnar and Zuidema, 2020, arXiv 2005.00928). It says
  what the tower looked at, whatever the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..contracts.adapter import Adapter
from ..contracts.backbone import Backbone
from ..contracts.features import Batch, FeatureSet
from ..contracts.items import Item
from ..errors import CapabilityError, ConfigError, DataError
from ..runs.folder import without_place
from ..runs.redaction import Redaction
from ..runtime.files import read_tensors, write_tensors

LABELLED = "labelled.safetensors"
FORMAT = 1
MOST_KEPT = 2000
"""Labelled images that a run keeps; of more, evenly so many in the order of the fit."""
NEAREST = 5
GRAD_CAM, OCCLUSION, ROLLOUT, ATTENTION = "grad-cam", "occlusion", "rollout", "attention"
METHODS = (GRAD_CAM, OCCLUSION, ROLLOUT, ATTENTION)
SIDE_SHARE = 2 / 7
"""Of the shorter side of the picture, the side of the square that covers it: two cells of seven."""
AT_ONCE = 16
SAME = 1e-3
"""How far features may lie from the tower's own, relative to them, where its attention was taken apart."""
READS = frozenset({"features", "pre_projection", "text_encoder"})
"""What a method may need of an image for its score to be followed from the pixels."""


@dataclass(frozen=True)
class Example:
    """A labelled image beside a new one.

    Attributes:
        row: its place among the labelled images of the fit.
        id: its name; in a redacted run a number.
        labels: names of its classes; none where it has none of the labels.
        similarity: cosine of the two images' features, -1 to 1; None where its features were not kept.
        part: what it adds to the score, in units of the logit; None where the method is no sum over examples.
        share: `part` as a share of all examples' parts together, none below zero; None where there is no part.
    """

    row: int
    id: str
    labels: tuple[str, ...]
    similarity: float | None
    part: float | None = None
    share: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        facts: dict[str, Any] = {"id": self.id, "labels": list(self.labels), "similarity": self.similarity}
        return facts if self.part is None else {**facts, "part": self.part, "share": self.share}


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images of a fit.

    Attributes:
        features: (M, D) unit features by the towers of the run.
        labels: (M,) class indices, or (M, C) 0/1 with NaN where unknown.
        class_names: C names.
        ids: M names.
        rows: (M,) int64, the place of each among all images of the fit.
        total: how many the fit had.
        places: of each the file, the part of it (`Item.decode`) and a digest of what it shows; None where a run is not
            to say, or its images were no files.
    """

    features: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    ids: tuple[str, ...]
    rows: Tensor
    total: int
    places: tuple[dict[str, Any], ...] | None = None
    _row: dict[int, int] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self):
        self._row.update({row: position for position, row in enumerate(self.rows.tolist())})

    @classmethod
    def of(cls, kept: FeatureSet, rows: Sequence[int], total: int, class_names: Sequence[str]) -> LabelledImages:
        """Of features with ids and labels.

        Args:
            kept: M labelled images, of the towers of the run.
            rows: the places of these among the `total` images of the fit, as `kept_rows` gives them.
        """
        ids = kept.ids or tuple(f"labelled image {row + 1}" for row in rows)
        labels = kept.labels.detach().cpu()
        return cls(kept.unit.detach().cpu(), labels, tuple(class_names), ids, torch.tensor(list(rows)), total)

    def with_places(self, items: Sequence[Item], digests: Sequence[str]) -> LabelledImages:
        """With where each picture lies.

        Args:
            items: M of them. digests: of what they show, "" for those that are no files.
        """
        if not all(digests):
            return self
        pairs = zip(items, digests)
        places = ({"source": str(item.source), "decode": item.decode, "digest": digest} for item, digest in pairs)
        return replace(self, places=tuple(without_place(list(places))))

    def redacted(self, redaction: Redaction) -> LabelledImages:
        """With numbers for names, and without the places."""
        return replace(self, ids=tuple(map(redaction.name, self.ids)), places=None)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def multilabel(self) -> bool:
        return self.labels.ndim == 2

    def names(self, position: int) -> tuple[str, ...]:
        """Of the classes of one of the M images."""
        if not self.multilabel:
            return (self.class_names[int(self.labels[position])],)
        return tuple(name for name, value in zip(self.class_names, self.labels[position].tolist()) if value == 1)

    def position(self, row: int) -> int | None:
        """Where among the M that are kept an image of the fit is; None where it is not kept."""
        return self._row.get(row)

    def similarities(self, features: Tensor) -> Tensor:
        """(N, M) cosines of new images' features (N, D) with the labelled ones.

        Raises:
            CapabilityError: features of another width, so of another backbone.
        """
        if features.shape[1] != self.features.shape[1]:
            widths = f"{features.shape[1]} wide, those of the labelled images {self.features.shape[1]}"
            raise CapabilityError(f"the features are {widths}; use the backbone of the run")
        return F.normalize(features.detach().float().cpu(), dim=1) @ self.features.T

    def nearest(self, features: Tensor, count: int = NEAREST) -> list[list[Example]]:
        """Of each of N new images (N, D) the labelled images that are most similar, the nearest first.

        Raises:
            CapabilityError: features of another width, so of another backbone.
        """
        similarities = self.similarities(features)
        best = similarities.topk(min(count, len(self)), dim=1)
        pairs = zip(best.values.tolist(), best.indices.tolist())
        return [[self._example(place, value) for value, place in zip(*pair)] for pair in pairs]

    def by_part(self, features: Tensor, parts: Tensor, count: int = NEAREST) -> list[list[Example]]:
        """Of each of N new images the labelled images that add most to a score, or take most from it.

        Args:
            features: (N, D).
            parts: (N, total), what each image of the fit adds to the score.
        """
        similarities, parts = self.similarities(features), parts.detach().double().cpu()
        whole = parts.abs().sum(dim=1).tolist()
        best = parts.abs().topk(min(count, parts.shape[1]), dim=1).indices.tolist()
        return [
            [self._with_part(row, float(parts[n, row]), whole[n], similarities[n]) for row in rows if parts[n, row]]
            for n, rows in enumerate(best)
        ]

    def _with_part(self, row: int, part: float, whole: float, similarities: Tensor) -> Example:
        place, share = self.position(row), abs(part) / whole
        if place is None:
            return Example(row, f"labelled image {row + 1}", (), None, part, share)
        return replace(self._example(place, float(similarities[place])), part=part, share=share)

    def _example(self, place: int, similarity: float) -> Example:
        return Example(int(self.rows[place]), self.ids[place], self.names(place), round(similarity, 6))

    # the file --------------------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> Path:
        """Write the file into a run folder; returns its path."""
        tensors = {"features": self.features.half(), "labels": self.labels, "rows": self.rows}
        header = {"format": FORMAT, "class_names": self.class_names, "ids": self.ids, "total": self.total}
        header["places"] = self.places
        return write_tensors(Path(folder) / LABELLED, tensors, header)

    @classmethod
    def load(cls, folder: str | Path) -> LabelledImages | None:
        """Those of a run folder; None where the run has none (one of an older version, or fitted without labels).

        Raises:
            DataError: damaged, or of another format.
        """
        path = Path(folder) / LABELLED
        if not path.is_file():
            return None
        header, tensors = read_tensors(path)
        if fault := _fault(header, tensors):
            raise DataError(f"{path}: damaged, {fault}; copy the run again, or fit again")
        places = header["places"]
        return cls(
            F.normalize(tensors["features"].float(), dim=1),
            tensors["labels"],
            tuple(header["class_names"]),
            tuple(header["ids"]),
            tensors["rows"],
            header["total"],
            None if places is None else tuple(places),
        )


def kept_rows(count: int) -> range:
    """Which of the labelled images of a fit are kept: all, or evenly some of many."""
    return range(0, count, max(1, -(-count // MOST_KEPT)))


def _fault(header: Any, tensors: dict[str, Tensor]) -> str:
    """What is wrong with a file's content, or ""."""
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        return f"not of format {FORMAT}"
    if lacking := [name for name in ("features", "labels", "rows") if name not in tensors]:
        return f"lacks {lacking[0]}"
    names, ids, total = header.get("class_names"), header.get("ids"), header.get("total")
    for what, texts in (("class_names", names), ("ids", ids)):
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            return f"{what} is not a list of names"
    features, labels, rows, count = tensors["features"], tensors["labels"], tensors["rows"], len(ids)
    if features.ndim != 2 or len(features) != count or not count or not features.isfinite().all():
        return "features are not (M, D) finite numbers"
    if type(total) is not int or total < count or rows.shape != (count,) or rows.is_floating_point():
        return "rows do not match the images"
    if bool((rows < 0).any() or (rows >= total).any() or len(rows.unique()) < count):
        return "rows do not match the images"
    if labels.shape not in ((count,), (count, len(names))):
        return "labels do not match the images"
    if labels.ndim == 1 and (labels.is_floating_point() or labels.min() < 0 or labels.max() >= len(names)):
        return "labels are not class indices"
    if labels.ndim == 2 and not bool((labels.isnan() | (labels == 0) | (labels == 1)).all()):
        return "labels are not 0, 1 or NaN"
    places = header.get("places")
    if places is not None and not (isinstance(places, list) and len(places) == count and all(map(_is_place, places))):
        return "places do not match the pictures"
    return ""


def _is_place(place: Any) -> bool:
    if not isinstance(place, dict):
        return False
    texts = all(isinstance(place.get(key), str) for key in ("source", "digest"))
    return texts and isinstance(place.get("decode"), dict)


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


def default_method(towers: Backbone, adapter: Adapter | None = None) -> str:
    """The way of a method on a tower where none is named."""
    if adapter is not None and "attention" in adapter.can:
        return ATTENTION
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
    if method == ATTENTION:
        if "attention" not in adapter.can:
            raise CapabilityError(f"attention: adapter '{adapter.name}' has none of its own; omit --explain-method")
        return
    if why := _not_followed(adapter):
        raise CapabilityError(f"adapter '{adapter.name}' {why}, so its score cannot be located in one picture")
    if towers.joint is not None:
        raise CapabilityError(
            f"backbone '{towers.spec}' encodes the parts of a sample together, so there is no heat map"
        )
    if towers.in_rows:
        raise CapabilityError(
            f"backbone '{towers.spec}' takes images as rows of patches, so there is no heat map; omit #patches"
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
    made = {GRAD_CAM: _grad_cam, OCCLUSION: _occlusion, ROLLOUT: _rollout, ATTENTION: _attention}[method](
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
            rows, columns = _square(place, side)
            picture[:, rows, columns] = colour
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


@torch.no_grad()
def _attention(seen: Seen, pixels: Tensor, target: int) -> Tensor:
    tokens, grid = seen.towers.image_tokens(pixels[None])  # (1, P, D)
    patches = tokens.float().unflatten(1, grid)[:, None]  # (1, 1, h, w, D)
    cells = seen.adapter.attention_maps(Batch(patch_tokens=patches))[0, target]
    return _enlarged(cells - cells.min(), pixels)


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
