"""Maps of phrases, their scores, zero-shot and retrieval of chest radiographs beside the released code."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from vladapt.domains.medical.grounding import maps, scores

from .comparison import compares
from .fixtures import Check, Fixtures, Reference


@compares("phrase-grounding", "cxr_eval")
def phrase_grounding(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """The smoothed map, then for each image the map in its pixels and all scores."""
    patches, phrase = ref["patch_embeddings"], maps.phrase_feature(ref["text_embedding"])
    grid = maps.smoothed(maps.cosine_map(patches.flatten(0, 1), phrase, patches.shape[:2]))
    yield ref.check(grid, "similarity_map")
    for number, (width, height, resize, crop, interpolation) in enumerate(ref.setting("resize")):
        heat = maps.Region.cropped((height, width), resize, crop).spread(grid, interpolation)
        yield ref.check(heat.nan_to_num(9.0), f"resized{number}", where=~ref[f"resized{number}"].isnan())
        missing = heat.isnan() == ref[f"resized{number}"].isnan()
        yield Check(ref.method, ref.name, f"margins {number}", float((~missing).sum()), float((~missing).sum()))
        boxes = [(x, y, x + w, y + h) for x, y, w, h in ref[f"boxes{number}"].tolist()]
        masks = scores.box_masks(boxes, (height, width))
        ours = scores.phrase_scores(heat, masks)
        key = f"grounding{number}"
        yield ref.check(ours["absolute_cnr"], f"{key}.cnr_abs_per_box")
        yield ref.check(ours["cnr"], f"{key}.cnr_signed_per_box")
        yield ref.check(ours["miou"], f"{key}.miou_union")
        yield ref.check(ours["union_cnr"], f"OWN.{key}.cnr_signed_union")
        yield ref.check(torch.tensor(scores.overlaps(heat, masks.any(dim=0))), f"OWN.{key}.iou_per_threshold")
        yield ref.check(torch.tensor(int(ours["pointing"])), f"OWN.{key}.pointing_hit")


GROUPS = (phrase_grounding,)
