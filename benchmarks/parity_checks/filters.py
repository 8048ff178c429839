"""Filters of pairs of image and text: scores, and which pairs are kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from vladapt.core.contracts.curator import PairTable
from vladapt.core.curators import _captions, clip_score, hype, norm_sim, s_cliploss
from vladapt.core.curators._ranks import best
from vladapt.core.registry import build_curator

from .comparison import compares
from .fixtures import Check, Fixtures, Reference


@compares("s-cliploss", "s_cliploss")
def s_cliploss_(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """With the released permutations and their short last batch; the second step is NormSim's."""
    image, text, orders = (ref[name].numpy() for name in ("image", "text", "permutation"))
    passes = (s_cliploss.cut_batches(order, int(ref.setting("batch")), as_released=True) for order in orders)
    by_text, by_image = s_cliploss.norms_of_batches(
        lambda rows: (image[rows], text[rows]), passes, ref.setting("temperature"), len(image)
    )
    yield ref.check(by_text, "norm_text")
    yield ref.check(by_image, "norm_image")
    pairs = PairTable.of([f"{number:06d}" for number in range(len(image))], image_features=image, caption_features=text)
    cosines = clip_score._cosines(pairs)
    yield ref.check(cosines, "clip_score")
    scores = cosines - by_text - by_image
    yield ref.check(scores, "s_cliploss")
    first = best(scores, int(ref.setting("keep_first") * len(image)))
    for key, norm in ref.keys(r"normsim_(.+)"):
        similar = np.where(first, similarity(ref, norm), -np.inf)
        keep = best(similar, int(ref.setting("keep_final") * len(image)))
        yield ref.check(flags(keep), f"keep_{norm}", what=f"kept after {key}")


@compares("norm-sim", "s_cliploss")
def norm_sim_(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for key, norm in ref.keys(r"normsim_(.+)"):
        yield ref.check(similarity(ref, norm), key)
    yield ref.check(similarity(ref, "2") ** 2 / len(ref["proxy"]), "vas")


@compares("clip-score", "datacomp_filters")
def clip_score_(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for key, encoder, fraction in ref.keys(r"keep\.(l14|b32)\.f([\d.]+)"):
        scores = ref[f"score.{encoder}"].numpy()
        yield ref.check(clip_score.score_at(scores, float(fraction)), f"{encoder}.f{fraction}.threshold")
        yield ref.check(kept_of(ref, "clip-score", column=f"score_{encoder}", fraction=float(fraction)), key)


@compares("basic", "datacomp_filters")
def basic(ref: Reference, f: Fixtures) -> Iterator[Check]:
    yield ref.check(torch.tensor([len(text.split()) for text in ref.setting("inputs")["text"]]), "split_words")
    yield ref.check(kept_of(ref, "basic"), "keep.basic")


@compares("caption", "datacomp_filters")
def caption(ref: Reference, f: Fixtures) -> Iterator[Check]:
    tokens = [_captions.fasttext_tokens(text) for text in ref.setting("inputs")["text"]]
    yield ref.check(torch.tensor(tokens), "fasttext_tokens")
    yield ref.check(kept_of(ref, "caption"), "keep.caption_filter")


@compares("text-based", "datacomp_filters")
def text_based(ref: Reference, f: Fixtures) -> Iterator[Check]:
    inputs = ref.setting("inputs")
    with TemporaryDirectory() as folder:
        entities, synsets = Path(folder) / "entities.txt", Path(folder) / "synsets.tsv"
        entities.write_text("".join(f"n{offset:08d}\n" for offset in inputs["entity_offsets"]))
        synsets.write_text("".join(f"{word}\t{first}\n" for word, (first, *_) in inputs["first_synsets"].items()))
        keep = kept_of(ref, "text-based", entities=str(entities), synsets=str(synsets))
    yield ref.check(keep, "keep.text_based")


@compares("image-based", "datacomp_filters")
def image_based(ref: Reference, f: Fixtures) -> Iterator[Check]:
    with TemporaryDirectory() as folder:
        files = {name: f"{folder}/{name}.npy" for name in ("target", "pool")}
        for name, path in files.items():
            np.save(path, ref[name].numpy())
        options = {"target": files["target"], "centroids": files["pool"]}
        survey = build_curator("image-based", **options).survey(pool(ref))
        keep = kept_of(ref, "image-based", **options)
    yield ref.check(torch.from_numpy(survey.whole["target_clusters"]), "target_centroids")
    yield ref.check(in_their_order(ref, survey.rows["cluster"]), "pool_centroid")
    yield ref.check(keep, "keep.image_based")
    fraction = ref.stated("keep.image_based_and_clip", "top")
    keep = keep * kept_of(ref, "clip-score", column="score_l14", fraction=fraction)
    yield ref.check(keep, "keep.image_based_and_clip")


@compares("hype", "hype_scores")
def hype_(ref: Reference, f: Fixtures) -> Iterator[Check]:
    c, aperture = ref.setting("curvature"), ref.setting("aperture_constant")
    names = ("image", "text", "reference_image", "reference_text")
    image, text, images, texts = (hype.exponential_map(ref[name].numpy(), c) for name in names)
    yield ref.check(image, "image_space")
    yield ref.check(hype._times(image, c), "image_time")
    yield ref.check(hype.cone_violations(text, image, c, aperture), "entail")
    rows = [-hype.distances_of_pairs(np.broadcast_to(each, text.shape), text, c) for each in image]
    yield ref.check(np.stack(rows), "similarity")
    yield ref.check(hype.cone_violations(texts, image, c, aperture).mean(axis=0), "specificity_image")
    yield ref.check(hype.cone_violations(text, images, c, aperture).mean(axis=1), "specificity_text")


def similarity(ref: Reference, norm: str) -> np.ndarray:
    """(N,) NormSim of the fixture's images towards its targets."""
    image, target = ref["image"].numpy(), ref["proxy"].numpy()
    if norm == "inf":
        return norm_sim.norm_sim_inf(image, target)
    return norm_sim.norm_of_moment(image, norm_sim.second_moment([target]))


def pool(ref: Reference) -> PairTable:
    """DataComp's pairs of the fixture."""
    inputs = ref.setting("inputs")
    columns = {name: np.array(inputs[name]) for name in ("width", "height")}
    columns |= {f"score_{encoder}": ref[f"score.{encoder}"].numpy() for _, encoder in ref.keys(r"score\.(\w+)")}
    texts = {name: inputs[name] for name in ("text", "language")}
    return PairTable.of(inputs["uid"], **texts, **columns, image_features=ref["image"].numpy())


def kept_of(ref: Reference, name: str, **options: Any) -> torch.Tensor:
    """(n,) 1 for each pair that a curator keeps, as the fixture counts them."""
    return in_their_order(ref, flags(build_curator(name, **options).decide_all(pool(ref)).keep))


def in_their_order(ref: Reference, values: Any) -> torch.Tensor:
    """Values of pairs in the order of their ids -> in that of the fixture."""
    place = {uid: number for number, uid in enumerate(sorted(ref.setting("inputs")["uid"]))}
    return torch.as_tensor(values)[[place[uid] for uid in ref.setting("inputs")["uid"]]]


def flags(keep: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(keep).long()


GROUPS = (s_cliploss_, norm_sim_, clip_score_, basic, caption, text_based, image_based, hype_)
