"""Pictures from above: the map and the scores of semantic localisation, and retrieval with several captions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F

from vladapt.core.metrics.retrieval import mean_recall, retrieval_metrics
from vladapt.domains.remote_sensing.localization.heat import HeatMap, mean_cells, windows_of
from vladapt.domains.remote_sensing.localization.scores import localization_scores, region_mask

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

DEVIATIONS = {
    "localize": "windows and maps are not stored as JPEG in between; a side larger than the picture is left out; where "
    "regions overlap their union counts, and not, by the even-odd rule, a hole, which `even_odd=True` leaves",
    "retrieval": "of equal scores the wrong ones come first; a gallery of fewer than k items has R@k of 100 %, where "
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
    heat = HeatMap.of(size, windows, cosines, ref.setting("median"))
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


GROUPS = (selo_map, selo_metrics, georsclip_retrieval)
