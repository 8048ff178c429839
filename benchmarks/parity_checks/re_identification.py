"""People found again: samplers of identities, random erasing, scores under the rule of cameras, re-ranking."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import chain, islice

import numpy as np
import torch
from torch import Tensor

from vladapt.domains.person.camera_ranking import CameraRanking, SoughtPeople, ranked
from vladapt.domains.person.random_erasing import RandomErasing
from vladapt.domains.person.reciprocal import K1, K2, WEIGHT, re_ranked, re_ranked_by
from vladapt.domains.person.samplers import balanced, naive, random_identity

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

SAMPLED = {"random_identity": random_identity, "fastreid_naive": naive, "fastreid_balanced": balanced}
HALF_STEP = 2**-11
"""Of float16 from 0.5 to 1: of a distance of BoT's, a sum of some k1 terms, each may be rounded by half of it."""
DEVIATIONS = {
    "identity sampler": "none; all epochs of a training run have equally many steps, with draws seeded by epoch",
    "random erasing": "by default the mean colour is painted; `fill=released` writes the numbers of the mean into "
    "pixels that are already normalised",
    "re-identification": "at equal distances the gallery's order decides; the released code leaves it to its sort",
    "re-ranking": "none; BoT's code keeps weights and Jaccard distances in float16, so it is compared within k1 steps "
    "of float16 below 1 (0.01 at k1 20): in a test the same computation in float16 gives its values to the last digit",
}


def ranked_by_distance(
    distance: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor,
    query_cameras: Tensor | None = None,
    gallery_cameras: Tensor | None = None,
) -> CameraRanking:
    """As `ranked`, of a matrix of distances (Q, G)."""
    sought = SoughtPeople(query_ids, gallery_ids, query_cameras, gallery_cameras)
    return ranked(lambda rows: distance[rows], sought)


def re_ranked_distances(
    query_gallery: Tensor,
    query_query: Tensor,
    gallery_gallery: Tensor,
    k1: int = K1,
    k2: int = K2,
    weight: float = WEIGHT,
) -> Tensor:
    """As `re_ranked`, of Euclidean distances (Q, G), (Q, Q) and (G, G)."""
    upper = torch.cat([query_query, query_gallery], dim=1)
    lower = torch.cat([query_gallery.T, gallery_gallery], dim=1)
    whole, count = torch.cat([upper, lower]).float().square().cpu().numpy(), len(query_query)  # (N, N)
    return re_ranked_by(lambda some: whole[some], np.arange(count), count, len(whole), k1, k2, weight)


@compares("identity sampler", "reid_samplers")
def samplers(ref: Reference, f: Fixtures) -> Iterator[Check]:
    rows = ref["pid"].tolist(), ref["cam"].tolist(), ref.setting("P"), ref.setting("K"), int(ref.setting("seed"))
    for name, sampler in SAMPLED.items():
        yield ref.check(list(islice(chain.from_iterable(sampler(*rows)), len(ref[name]))), name)


@compares("random erasing", "random_erasing")
def erasing(ref: Reference, f: Fixtures) -> Iterator[Check]:
    ref.require("attempts", 100)
    (height, width), smallest = ref["size"].tolist(), ref.setting("r1")
    erased = RandomErasing(ref.setting("probability"), (ref.setting("sl"), ref.setting("sh")), smallest)
    drawn = [erased.box(height, width, random.Random(seed)) or (-1,) * 4 for seed in range(len(ref["boxes"]))]
    yield ref.check(drawn, "boxes")


@compares("re-identification", "metrics_reid_camera")
def camera_metrics(ref: Reference, f: Fixtures) -> Iterator[Check]:
    ids, cameras = (ref["query_pid"], ref["gallery_pid"]), (ref["query_cam"], ref["gallery_cam"])
    ranking = ranked_by_distance(ref["distance"], *ids, *cameras)
    yield ref.check(len(ranking), "valid_queries")
    yield ref.check(ranking.average_precision, "AP")
    yield ref.check(ranking.inverse_penalty, "INP")
    yield ref.check(ranking.cmc(ref["cmc"].numel()), "cmc")
    yield ref.check(ranking.metrics()["map"], "mAP")
    yield ref.check(ranking.metrics()["minp"], "mINP")
    free = ranked_by_distance(ref["distance"], *ids)
    yield ref.check([100 * share for share in free.cmc(ref["nocam_cmc"].numel())], "nocam_cmc")
    yield ref.check(100 * free.metrics()["map"], "nocam_mAP")
    yield ref.check(100 * free.metrics()["minp"], "nocam_mINP")


@compares("re-ranking", "reid_rerank")
def reranking(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for key, k1, k2, share in ref.keys(r"final_k(\d+)_(\d+)_l(\d+)"):
        options = {"k1": int(k1), "k2": int(k2), "weight": int(share) / 100}
        yield ref.check(re_ranked(ref["query"], ref["gallery"], **options), key)
        known = (ref["q_g_dist"], ref["q_q_dist"], ref["g_g_dist"])
        yield ref.check(torch.as_tensor(re_ranked_distances(*known, **options)), key, f"{key}, of distances")
    for key, k1, k2, share in ref.keys(r"final_bot_k(\d+)_(\d+)_l(\d+)"):
        ours = re_ranked(ref["query"], ref["gallery"], int(k1), int(k2), int(share) / 100)
        yield ref.check(ours, key, f"{key}, in float16", atol=int(k1) * HALF_STEP)


GROUPS = (samplers, erasing, camera_metrics, reranking)
