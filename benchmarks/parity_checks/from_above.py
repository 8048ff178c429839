"""Remote sensing: semantic localisation, retrieval with several captions, and windows blended into a map."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F

from vladapt.core.metrics.retrieval import mean_recall, retrieval_metrics
from vladapt.domains.remote_sensing.localization.heat import SentenceHeatMap, mean_cells, windows_of
from vladapt.domains.remote_sensing.localization.scores import localization_scores, region_mask
from vladapt.domains.remote_sensing.maps.blending import RowBlender, window_grid, window_weights

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

DEVIATIONS = {
    "localize": "windows and maps are not stored as JPEG in between; a side larger than the picture is left out; "
    "where regions overlap their union counts; the released even-odd rule leaves a hole, as `even_odd=True` does",
    "mapping": "windows are used up to their edges without padding; the released code cuts a margin off each window "
    "and pads the picture by reflection, or not; its margins and padding are reproduced for these rows",
    "retrieval": "at equal scores the wrong items come first; a gallery of fewer than k items has R@k of 100 %, where "
    "the released code fails",
}


@compares("localize", "selo_map")
def selo_map(ref: Reference, f: Fixtures) -> Iterator[Check]:
    size = tuple(ref["size"].tolist())
    windows = windows_of(*size, ref["steps"].tolist())
    theirs = ref["windows"].numpy()
    place = {tuple(window): number for number, window in enumerate(theirs.tolist())}
    order = [place.get(tuple(window), 0) for window in windows.tolist()]
    yield ref.check(windows[np.argsort(order)], "windows")
    cosines = ref["similarity"].numpy()[order]
    heat = SentenceHeatMap.of(size, windows, cosines, ref.setting("median"))
    rows, columns, mean = mean_cells(size, windows, cosines)
    step = max(1, round(size[0] / ref["average"].shape[0]))
    rows_of, columns_of = (
        np.searchsorted(borders, np.arange(0, length, step), side="right") - 1
        for borders, length in zip((rows, columns), size)
    )
    yield ref.check(mean[rows_of][:, columns_of], "average")
    yield ref.check(heat.before_filter(0, size[0]).astype(float), "before_blur")
    yield ref.check(heat.whole().astype(float), "probability_map")


@compares("localize", "selo_metrics")
def selo_metrics(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for key, name in ref.keys(r"(.+)\.map"):
        heat = ref[key].numpy().astype(np.uint8)
        regions = [ref[of].tolist() for of, _ in ref.keys(rf"{name}\.region(\d+)")]
        scores = localization_scores(heat, regions, even_odd=True)
        yield ref.check(scores.area, f"{name}.mask_area")
        yield ref.check(scores.centres, f"{name}.centers")
        yield ref.check(scores.regions, f"{name}.center_radius")
        yield ref.check([scores.rsu, scores.rda, scores.ras, scores.rmi], f"{name}.metrics")
        if f"{name}.mask" in ref:
            yield ref.check(region_mask(heat.shape, regions, even_odd=True), f"{name}.mask")


@compares("retrieval", "georsclip_retrieval")
def georsclip_retrieval(ref: Reference, f: Fixtures) -> Iterator[Check]:
    images, texts = (F.normalize(ref[f"{side}_features"], dim=-1) for side in ("image", "text"))
    metrics = retrieval_metrics(images, texts, ref["text_image"])
    for key, side, k in ref.keys(r"(image2text|text2image)-R@(\d+)"):
        ours = metrics[side.replace("2", "_to_")][f"r{k}"]
        yield ref.check(round(100 * ours, 2), key)
    yield ref.check(round(100 * mean_recall(metrics), 2), "mean-recall")
    ordered = ref["image_order"]
    place = torch.empty_like(ordered)
    place[ordered] = torch.arange(len(ordered))
    moved = retrieval_metrics(images[ordered], texts, place[ref["text_image"]])
    yield ref.check(round(100 * mean_recall(moved), 2), "mean-recall", "mean recall in their order of images")


@compares("mapping", "rs_tiling")
def rs_tiling(ref: Reference, f: Fixtures) -> Iterator[Check]:
    size, stride, margin = (int(ref.setting(name)) for name in ("crop", "stride", "delta"))
    image, side = ref["image"][0], (size, size)
    yield ref.check(window_weights(side, stride, margin), "terratorch.mask", "weights of a window")
    tops, lefts, _ = window_grid(*(length + 2 * margin for length in image.shape[1:]), size, stride)
    kept = [(top + margin, top + size - margin, left + margin, left + size - margin) for top in tops for left in lefts]
    place = {tuple(window): number for number, window in enumerate(ref["terratorch.windows"].tolist())}
    yield ref.check(sorted(kept, key=lambda window: place.get(window, 0)), "terratorch.windows")
    padded = F.pad(image[None], (margin,) * 4, mode="reflect")[0]
    for how in ("blend", "mean"):
        weights = {
            off: window_weights(side, stride, off) if how == "blend" else np.ones((size - 2 * off,) * 2, np.float32)
            for off in (0, margin)
        }
        ours = _tiled(padded, size, stride, weights, lambda *border: margin)
        yield ref.check(ours[None, :, margin:-margin, margin:-margin], f"terratorch.reflect.{how}")
        ours = _tiled(image, size, stride, weights, lambda *border: 0 if any(border) else margin)
        yield ref.check(ours[None], f"terratorch.nopad.{how}")


def _tiled(
    image: torch.Tensor, size: int, stride: int, weights: dict[int, np.ndarray], cut: Callable[..., int]
) -> np.ndarray:
    """(2, H, W) of (C, H, W): the fixture's model on windows, blended by rows.

    Args:
        weights: pixels that are cut off a window's prediction -> weights of what is left.
        cut: whether it is in the first row or column, the last row, or column -> pixels that are cut off.
    """
    tops, lefts, _ = window_grid(*image.shape[1:], size, stride)
    blender, strips = RowBlender(2, image.shape[2]), []
    ramp = torch.linspace(-1, 1, size)
    for row, top in enumerate(tops):
        for column, left in enumerate(lefts):
            off = cut(row == 0, column == 0, top == tops[-1], left == lefts[-1])
            chip = image[:, top : top + size, left : left + size]
            scores = torch.stack([chip.sum(dim=0) * (1 + 0.2 * ramp[:, None]), chip[0] - ramp]).numpy()
            blender.add(top + off, left + off, scores[:, off : size - off, off : size - off], weights[off])
        strips.append(blender.take(tops[row + 1] if row + 1 < len(tops) else image.shape[1])[0])
    return np.concatenate(strips, axis=1)


GROUPS = (selo_map, selo_metrics, georsclip_retrieval, rs_tiling)
