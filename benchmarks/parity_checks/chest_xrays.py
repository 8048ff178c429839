"""Maps of phrases, their scores, zero-shot and retrieval of chest radiographs beside the released code."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from vladapt import TextClassifier, build_loss
from vladapt.core.metrics import Ranking
from vladapt.domains.medical.grounding import maps, scores

from .comparison import compares
from .fixtures import Check, Fixtures, Reference


@compares("phrase-grounding", "cxr_eval")
def phrase_grounding(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """The smoothed map, then for each image the map in its pixels and all scores."""
    patches, phrase = ref["patch_embeddings"], maps.phrase_feature(ref["text_embedding"])
    grid = maps.smoothed(maps.phrase_cosines(patches.flatten(0, 1), phrase, patches.shape[:2]))
    yield ref.check(grid, "similarity_map")
    for number, (width, height, resize, crop, interpolation) in enumerate(ref.setting("resize")):
        heat = maps.Region.cropped((height, width), resize, crop).spread(grid, interpolation)
        yield ref.check(heat.nan_to_num(9.0), f"resized{number}", where=~ref[f"resized{number}"].isnan())
        missing = heat.isnan() == ref[f"resized{number}"].isnan()
        yield Check(ref.method, ref.name, f"margins {number}", float((~missing).sum()), float((~missing).sum()))
        boxes = [(x, y, x + w, y + h) for x, y, w, h in ref[f"boxes{number}"].tolist()]
        masks = scores.inside_boxes(boxes, (height, width))
        ours = scores.phrase_scores(heat, masks)
        key = f"grounding{number}"
        yield ref.check(ours["absolute_cnr"], f"{key}.cnr_abs_per_box")
        yield ref.check(ours["cnr"], f"{key}.cnr_signed_per_box")
        yield ref.check(ours["miou"], f"{key}.miou_union")
        yield ref.check(ours["union_cnr"], f"OWN.{key}.cnr_signed_union")
        yield ref.check(torch.tensor(scores._overlaps(heat, masks.any(dim=0))), f"OWN.{key}.iou_per_threshold")
        yield ref.check(torch.tensor(int(ours["pointing"])), f"OWN.{key}.pointing_hit")


@compares("gloria", "cxr_eval")
def gloria_similarities(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Words and patches of each image and each prompt, as the released code scores them after the training."""
    loss = build_loss("gloria", project=False, together="max")
    patches = ref["gloria.image_local"].flatten(2).mT  # (B, P, D)
    words = ref["gloria.text_local"].flatten(0, 1).mT  # (K x prompts, L, D)
    place, lengths = torch.arange(words.shape[1]), ref["gloria.cap_lens"].flatten()[:, None]
    local = loss.local_similarities(patches, words, (place >= 1) & (place <= lengths))
    yield ref.check(local, "gloria.local")
    image, text = (F.normalize(ref[f"gloria.{side}_global"], dim=-1) for side in ("image", "text"))
    yield ref.check(image @ text.flatten(0, 1).T, "gloria.global")


@compares("zero-shot findings", "cxr_eval")
def zero_shot_findings(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """The probability of a finding against its absence."""
    sides = {side: F.normalize(ref[f"chexzero.{side}"], dim=-1) for side in ("pos", "neg")}
    classifier = TextClassifier(sides["pos"], negative=sides["neg"], logit_scale=1.0)
    probability = classifier.logits(F.normalize(ref["chexzero.image"], dim=-1)).sigmoid()
    yield ref.check(probability, "chexzero.prob")


@compares("precision by finding", "cxr_eval")
def precision_by_finding(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """The mean over queries at each K, and of each finding."""
    query, gallery = (F.normalize(ref[f"retrieval.{side}"], dim=-1) for side in ("query", "candidates"))
    labels, of = ref["retrieval.query_class"], ref["retrieval.candidate_class"]
    for key, numbers in ref.keys(r"OWN\.retrieval\.precision_at_(\d+(?:_\d+)*)"):
        ks = list(map(int, numbers.split("_")))
        values = Ranking.precision_at(query @ gallery.T, labels, of, ks)
        yield ref.check(torch.stack([values[k].mean() for k in ks]), key)
    for key, k in ref.keys(r"OWN\.retrieval\.precision_at_(\d+)_per_class"):
        values = Ranking.precision_at(query @ gallery.T, labels, of, [int(k)])[int(k)]
        yield ref.check(torch.stack([values[labels == name].mean() for name in labels.unique()]), key)


GROUPS = (phrase_grounding, gloria_similarities, zero_shot_findings, precision_by_finding)
