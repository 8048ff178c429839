"""Earlier pairs in the batches of a later set: a share of the set itself, or stored features where it is gone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...contracts.backbone import Backbone
from ...contracts.sources import SHARE, NamedSource, SourceOptions
from ...data.pairs.joined_pairs import JoinedPairs
from ...data.pairs.shard_set import ShardPairs
from ...data.pairs.text_pairs import TextPairs
from ...losses.stored_replay import PROBE
from ...runtime.distributed import is_main
from ...runtime.files import write_tensors
from ...runtime.progress import Reporter
from ..retrieval.encoding import PairEncoding, features_of
from .pairs import ImageSet, PairSplits
from .pretrain import PretrainPlan
from .several import SeveralSplits

STORED = "replay.safetensors"
LOSS = "stored-replay"
"""On stored features."""


def with_earlier(plan: PretrainPlan, earlier: Sequence[tuple[str, int]], share: float, own_size: int) -> PretrainPlan:
    """The training on a set, with a share of earlier ones in each batch. There are as many steps as without them.

    "Simple and Scalable Strategies to Continually Pre-train Large Language Models" (Ibrahim et al., 2024,
    arXiv 2403.08763): replay at equal compute.

    Args:
        earlier: (path, pairs to train on) of each.
        share: of all earlier sets together.
        own_size: pairs of the set itself.
    """
    whole = sum(size for _, size in earlier)
    sources = [NamedSource(plan.data, 1 - share), *(NamedSource(path, share * n / whole) for path, n in earlier)]
    return replace(plan, sources=sources, mixing=SourceOptions(weights=SHARE, samples=own_size))


def with_stored(plan: PretrainPlan, files: Sequence[str], share: float) -> PretrainPlan:
    """The same with stored pairs, which have their share in the loss.

    Args:
        files: as `store_pairs` writes them.
    """
    if not files:
        return plan
    losses = {**plan.losses, LOSS: sum(plan.losses.values()) * share / (1 - share)}
    return replace(plan, losses=losses, loss_options={**plan.loss_options, LOSS: {"files": tuple(files)}})


def store_pairs(
    backbone: Backbone, read: PairSplits | SeveralSplits, most: int, plan: PretrainPlan, path: Path, reporter: Reporter
) -> str:
    """Store the features of some training images, with a caption of each as the text tower reads it.

    Args:
        most: pairs, drawn by the seed.

    Returns:
        A sentence where nothing can be stored, else "".
    """
    train = read.train
    parts = train.parts if isinstance(train, JoinedPairs) else ()
    if isinstance(train, ShardPairs) or any(isinstance(part, ShardPairs) for part in parts):
        return f"{read.name}: is read in sequence, so no pairs of it are stored for replay."
    if isinstance(train, ImageSet | TextPairs):
        return f"{read.name}: holds no images with texts, so no pairs of it are stored for replay."
    count, settings = len(train), plan.settings
    rows = np.sort(np.random.default_rng(settings.seed).permutation(count)[:most])
    view = read.view(backbone, False) or backbone.preprocess(False)
    how = PairEncoding(view, None, settings.workers, settings.amp, reporter, None, settings.tolerate)
    features = features_of(backbone, train.select(rows), how)
    if is_main():
        captions: dict[int, str] = {}
        for image, caption in zip(features.image_of_text.tolist(), features.captions):
            captions.setdefault(image, caption)
        tensors = {
            "images": features.images[list(captions)],
            "tokens": backbone.tokenize(list(captions.values())).cpu(),
            "probe": backbone.tokenize([PROBE]).cpu(),
        }
        write_tensors(path, tensors, {"backbone": backbone.fingerprint})
    return ""
