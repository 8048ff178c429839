"""Which pairs of image and text make up a subset, and how classes and entries are balanced in it."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np

from vladapt.core.curators import clipcov as clipcov_
from vladapt.core.curators import got_d as got_d_
from vladapt.core.curators import m4 as m4_
from vladapt.core.curators import metaclip as metaclip_
from vladapt.core.curators._entries import EntryList, spaced

from .comparison import compares
from .fixtures import Check, Fixtures, Reference


@compares("clipcov", "clipcov")
def clipcov(ref: Reference, f: Fixtures) -> Iterator[Check]:
    image, caption, names, latent = (ref[key].numpy() for key in ("image", "text", "label_text", "latent_class"))
    members = clipcov_._members_of(latent, len(names))
    sizes = np.array([len(rows) for rows in members])
    means = [np.stack([each[rows].mean(axis=0) for rows in members]) for each in (image, caption)]
    cross = np.zeros(len(latent))
    for rows in members:
        cross[rows] = clipcov_.similarity_to(image[rows], caption[rows], image[rows], caption[rows]) / len(rows)
    terms = {
        "cross": cross,
        "easy": (image * caption).sum(axis=1),
        "label": (caption * names[latent]).sum(axis=1),
        "image_centre": clipcov_.centre_terms(image, latent, means[1], sizes),
        "text_centre": clipcov_.centre_terms(caption, latent, means[0], sizes),
    }
    for name, values in terms.items():
        yield ref.check(values, f"term.{name}")
    start = clipcov_.start_scores(**terms)
    yield ref.check(start, "initial_score")

    def overlap(rows: np.ndarray, picks: np.ndarray) -> np.ndarray:
        return clipcov_.similarity_to(image[rows], caption[rows], image[picks], caption[picks])

    count, refresh = ref.setting("subset_size"), ref.setting("refresh_every")
    order, scores = clipcov_.greedy(start, cross, terms["label"], members, count, refresh, overlap, True)
    yield ref.check(order, "order")
    yield ref.check(np.isin(np.arange(len(latent)), order), "selected")
    yield ref.check(np.where(np.isinf(scores), 0, scores), "final_score")


@compares("metaclip", "metaclip")
def metaclip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    texts, entries = ref.setting("inputs.texts"), ref.setting("inputs.metadata")
    yield ref.check([len(spaced(text)) for text in texts], "spaced_text_length")
    kinds = {"matches": (False, False), "matches_ml": (True, False), "matches_ml_longest": (True, True)}
    for key, (unspaced, longest) in kinds.items():
        yield ref.check(np.stack(EntryList(entries, unspaced).matches(texts, longest), axis=1), key)
    entry, text = EntryList(entries, False).matches(texts)
    counts = np.bincount(entry, minlength=len(entries))
    yield ref.check(counts, "entry_count")
    for key, limit in ref.keys(r"t(\d+)\.entry_prob"):
        probability = metaclip_.entry_probability(counts, int(limit))
        yield ref.check(probability, key)
        keep = metaclip_.text_probability(probability[entry], text, len(texts))
        yield ref.check(keep, f"t{limit}.text_keep_prob")
        seed = ref.setting("seed")
        drawn = np.random.RandomState(seed).random(len(entry)) < probability[entry]
        yield ref.check(np.unique(text[drawn]), f"t{limit}.kept_numpy_seed{seed}", "texts kept by its own draws")
        draw = random.Random(seed)
        hits = [any(draw.random() < probability[each] for each in entry[text == n]) for n in range(len(texts))]
        yield ref.check(hits, f"t{limit}.kept_random_seed{seed}", "texts kept by draws text by text")
    many = ref["big_count"].numpy()
    for key, limit in ref.keys(r"big\.t(\d+)\.prob"):
        yield ref.check(metaclip_.entry_probability(many, int(limit)), key)
        share = metaclip_.share_below(many, int(limit))
        yield ref.check(share, f"big.t{limit}.tail_share")
        yield ref.check(metaclip_.limit_of_share(many, share), f"big.t{limit}.t_back")
        other = metaclip_.limit_of_share(many[::3] // 2 + 1, share)
        yield ref.check(other, f"big.t{limit}.t_other_language")


@compares("m4", "m4_weights")
def m4(ref: Reference, f: Fixtures) -> Iterator[Check]:
    attributes, labels, utility = (ref[key].double().numpy() for key in ("attribute", "label", "utility"))
    counts = attributes.shape[1] * labels.shape[1], attributes.shape[1]
    bounds = np.repeat([ref.setting("eps_association"), ref.setting("eps_representation")], counts)
    moments = m4_.moments_of(attributes, labels, np.broadcast_to(ref.setting("target"), attributes.shape[1]))
    problem = m4_.WeightProblem(moments, bounds, utility, ref.setting("eta"), ref.setting("Q"))
    share = np.full(len(utility), 1 / len(utility))
    q = problem.weights(problem.solve(share, ref.setting("V")))
    yield ref.check(q, "weight")
    yield ref.check(moments.mean(axis=0), "moment_before")
    yield ref.check(q @ moments / q.sum(), "moment_after")
    yield ref.check(problem.objective(q, share, ref.setting("V")), "objective")


@compares("got-d", "got_d")
def got_d(ref: Reference, f: Fixtures) -> Iterator[Check]:
    pool, target = ref["candidate"].numpy(), ref["target"].numpy()
    ref.require("cost", "1 - cosine")
    yield ref.check(1 - pool @ target.T, "cost")
    cut = len(pool) // 3  # three blocks and a rest
    blocks = [pool[first : first + cut] for first in range(0, len(pool), cut)]
    transport = got_d_.log_sinkhorn(lambda: blocks, target, ref.setting("regularisation"), 1000, 1e-6)
    yield ref.check(transport.cost, "entropic_plan_cost")
    yield ref.check(transport.pool - transport.pool.mean(), "potential.entropic_centred")
    gradient = got_d_.calibrated(transport.pool)
    yield ref.check(gradient, "calibrated.entropic")
    chosen = np.sort(np.argsort(gradient, kind="stable")[: ref.setting("select")])
    yield ref.check(chosen, "select_entropic")
    nearest = np.argsort(-(pool @ target.T).max(axis=1), kind="stable")[: ref.setting("select")]
    yield ref.check(np.sort(nearest), "nearest_neighbour", "the candidates nearest to the target, in contrast")


GROUPS = (clipcov, metaclip, m4, got_d)
DEVIATIONS = {
    "clipcov": "by default the scores of a class are lowered after every (all picks) / 1400 picks of it, where the "
    "released 200 hold for any pool; `variant=gain` subtracts each pick once, the released code all earlier ones again",
    "metaclip": "a text is drawn once, by the hash of its id, with the keep probability of the released samplers; with "
    "`longest` it is the leftmost of overlapping matches that counts, and of those the longest",
}
