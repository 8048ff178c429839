"""Variances of AUROCs, what follows from a threshold, ranks, recall and average precision of retrieval and of person
search, and which images are labelled next."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from vladapt.adapters.selection.selectors.badge import gradient_factors
from vladapt.core.contracts.selector import Pool
from vladapt.core.metrics.operating_point import decision_curve, predictive_values, rates_at
from vladapt.core.metrics.retrieval import IMAGE_TO_TEXT, TEXT_TO_IMAGE, Ranking, rankings
from vladapt.core.metrics.score_intervals import components
from vladapt.core.metrics.sentence_ranks import LOWER, MEAN, OWN_SENTENCES, sentence_video_metrics
from vladapt.core.registry import build_selector

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

SIDES = {"t2v": TEXT_TO_IMAGE, "v2t": IMAGE_TO_TEXT}
NAMES = {"R1": "r1", "R5": "r5", "R10": "r10", "MedianR": "median_rank", "MedR": "median_rank", "MeanR": "mean_rank"}
MEDIANS = {"t2v": LOWER, "v2t": MEAN}
"""Of an even number of ranks CLIP4Clip takes the lower of the middle two from text, and their mean from video."""
DEVIATIONS = {"retrieval metrics": "none; at equal scores the wrong items come first, or the mean place counts"}


def ranked_from(similarity: Tensor, query_labels: Sequence[int], gallery_labels: Sequence[int], **options) -> Ranking:
    """Rankings of a given similarity (Q, G): the gallery is the identity, so that products are the similarity."""
    labels = (torch.as_tensor(query_labels), torch.as_tensor(gallery_labels))
    return rankings(similarity.contiguous(), torch.eye(similarity.shape[1]), *labels, **options)


def in_percent(found: Ranking, ref: Reference) -> list[float]:
    """In the fixture's order: recalls as R1, R5 ..., and ranks, which are no shares."""
    metrics = found.metrics()
    ranks = {"MedianR": metrics["median_rank"], "MeanR": metrics["mean_rank"]}
    return [ranks[name] if name in ranks else 100 * found.recall(int(name[1:])) for name in ref.setting("order")]


@compares("retrieval metrics", "metrics_retrieval")
def retrieval(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """One caption per video in both directions, then several."""
    for name, similarity in (("t2v", ref["similarity"]), ("v2t", ref["similarity"].T)):
        own = range(len(similarity))
        found = ranked_from(similarity, own, own)
        yield ref.check(in_percent(found, ref), name)
        if f"ranks_{name}" in ref:
            yield ref.check(found.best - 1, f"ranks_{name}")
    similarity, counts = ref["multi_similarity"], ref["multi_counts"]
    videos = torch.arange(len(counts))
    video_of = videos.repeat_interleave(counts)
    sentences = torch.cat([similarity[i, : counts[i]] for i in videos])
    yield ref.check(in_percent(ranked_from(sentences, video_of, videos), ref), "multi_t2v")
    by_video = ranked_from(sentences.T, videos, video_of, one_per_label=True)
    yield ref.check(in_percent(by_video, ref), "multi_v2t")


@compares("retrieval metrics", "metrics_retrieval_multi")
def sentences_of_videos(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """CLIP4Clip's counts without ties, and those of collaborative-experts with them."""
    video_of = torch.arange(len(ref["counts"])).repeat_interleave(ref["counts"])
    untied = {side: sentence_video_metrics(ref["untied"], video_of, median=of) for side, of in MEDIANS.items()}
    for key, side, name in ref.keys(r"untied\.(t2v|v2t)\.(R1|R5|R10|MedianR|MeanR)"):
        yield ref.check(_as_told(untied[side], side, name), key)
    tied = sentence_video_metrics(ref["similarity"], video_of, rule=OWN_SENTENCES, median=MEAN)
    for key, side, name in ref.keys(r"ce\.(t2v|v2t)\.(R1|R5|R10|MedR|MeanR)"):
        yield ref.check(_as_told(tied, side, name), key)


def _as_told(of: dict[str, dict[str, float]], side: str, name: str) -> float:
    """A metric as the fixture writes it: shares in percent."""
    value = of[SIDES[side]][NAMES[name]]
    return 100 * value if name.startswith("R") else value


@compares("person search", "metrics_reid")
def person_search(ref: Reference, f: Fixtures) -> Iterator[Check]:
    found = ranked_from(ref["similarity"], ref["query_pids"], ref["gallery_pids"])
    yield ref.check([100 * share for share in found.cmc(ref.setting("max_rank"))], "cmc")
    metrics = found.metrics(penalty=True)
    yield ref.check(100 * metrics["map"], "mAP")
    yield ref.check(100 * metrics["minp"], "mINP")


@compares("selectors", "pcb")
def selectors(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Entropy, core-set, BADGE and PCB on the fixture's pool, with its seed."""
    scale, seed = float(ref.setting("logits").split("*")[0]), int(ref.setting("seed"))
    features, nobody = f.test_set.features, torch.zeros(0, dtype=torch.int64)
    probabilities = (scale * features @ f.common["text_features"].T).softmax(dim=1)
    pool = Pool(features, ref["pool_index"], nobody, torch.zeros(probabilities.shape[1]), probabilities)
    certainty = build_selector("entropy").certainty(probabilities[pool.candidates])
    yield ref.check(certainty, "entropy_scores")
    chosen = torch.tensor(build_selector("entropy").select(pool, len(ref["entropy_selected"])))
    yield ref.check(chosen, "entropy_selected")
    both = torch.cat([features, ref["coreset_labeled_features"]])
    covered = replace(pool, features=both, labelled=torch.arange(len(features), len(both)))
    chosen = torch.tensor(build_selector("coreset").select(covered, len(ref["coreset_selected"])))
    yield ref.check(chosen, "coreset_selected")
    rows = pool.candidates[: len(ref["badge_gradient_embedding_64"])]
    embedded = gradient_factors(probabilities[rows])[:, :, None] * features[rows][:, None]
    yield ref.check(embedded, "badge_gradient_embedding_64")
    positions = ref["badge_selected_positions_np_seed"]
    chosen = torch.tensor(build_selector("badge").select(replace(pool, candidates=rows), len(positions), seed))
    yield ref.check((chosen[:, None] == rows).int().argmax(dim=1), "badge_selected_positions_np_seed")
    yield ref.check_choice(probabilities[pool.candidates].argmax(dim=1), "pcb_predicted_class",
                           probabilities[pool.candidates])  # fmt: skip
    balanced = replace(pool, counts=ref["pcb_statistics_before"])
    chosen = build_selector("pcb").balanced(balanced, len(ref["pcb_selected_py_seed"]), seed)
    yield ref.check(torch.tensor(chosen), "pcb_selected_py_seed")


@compares("delong", "clinical_metrics")
def delong_as_released(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Two AUROCs of the same images, their covariance, and z of their difference."""
    truth, images = ref["delong.labels"].numpy(), np.arange(len(ref["delong.labels"]))
    scores = (ref[f"delong.score_{name}"].double().numpy() for name in "ab")
    values, influence, _ = zip(*(components(each, truth, images, len(images)) for each in scores))
    covariance = torch.from_numpy(np.stack(influence) @ np.stack(influence).T)  # (2, 2)
    yield ref.check(torch.tensor(values), "delong.auc", "AUROCs")
    yield ref.check(covariance, "delong.cov", "covariance")
    error = (covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]).sqrt()
    yield ref.check(abs(values[0] - values[1]) / error, "OWN.delong.z", "z of the difference")


@compares("operating point", "clinical_metrics")
def operating_point_as_released(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Net benefit of two models and of acting on all, rates at a cut, and predictive values at prevalences."""
    present, thresholds = ref["delong.labels"].bool(), torch.tensor(ref.setting("thresholds"), dtype=torch.float64)
    curves = {name: decision_curve(ref[f"delong.score_{name}"], present, thresholds) for name in "ab"}
    for name, curve in curves.items():
        yield ref.check(curve.model, f"OWN.net_benefit_{name}", f"net benefit, model {name}")
    yield ref.check(curves["a"].everyone, "OWN.net_benefit_all", "net benefit of acting on all")
    rates = rates_at(ref.setting("cut"), ref["delong.score_a"], present)
    both = torch.tensor([rates.sensitivity, rates.specificity])
    yield ref.check(both, "OWN.sens_spec_a", "sensitivity and specificity")
    true, false, missed, clear = rates.counts
    made = [predictive_values(true, true + missed, clear, clear + false, p) for p in ref["prevalence"].tolist()]
    yield ref.check(torch.tensor([each.ppv for each in made]), "OWN.ppv_at_prevalence", "positive predictive values")
    yield ref.check(torch.tensor([each.npv for each in made]), "OWN.npv_at_prevalence", "negative predictive values")


GROUPS = (delong_as_released, operating_point_as_released, retrieval, sentences_of_videos, person_search, selectors)
