"""Which pairs of image and text make up a subset, and how classes and entries are balanced in it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vladapt.core.curators import clipcov as clipcov_

from .comparison import compares
from .fixtures import Check, Fixtures, Reference


@compares("clipcov", "clipcov")
def clipcov(ref: Reference, f: Fixtures) -> Iterator[Check]:
    image, caption, names, latent = (ref[key].numpy() for key in ("image", "text", "label_text", "latent_class"))
    members = clipcov_.members_of(latent, len(names))
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


GROUPS = (clipcov,)
