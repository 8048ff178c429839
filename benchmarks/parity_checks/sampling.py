"""Which frames and which crops of a video are looked at."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import torch

from vladapt.domains.video import sampling as rules

from .comparison import compares
from .fixtures import Check, Fixtures, Reference, UnreadableFixture, stated_in

BEYOND = {"loop": rules.LOOP, "repeat_last": rules.LAST}
NAMES: dict[str, Callable] = {
    r"mm\.clip(\d+)x(\d+)x(\d+)\.(loop|repeat_last)": lambda length, interval, clips, beyond: (
        lambda n, rng: rules.even_clips(n, int(length), int(interval), int(clips), BEYOND[beyond])
    ),
    r"mm\.tsn(\d+)": lambda segments: lambda n, rng: rules.segment_centres(n, int(segments)),
    r"mm\.tsn(\d+)\.twice": lambda segments: lambda n, rng: rules.segment_centres_and_starts(n, int(segments)),
    r"mm\.uniform(\d+)x(\d+)": lambda frames, clips: lambda n, rng: rules.uniform(n, int(frames), int(clips)),
    r"mm\.train\.tsn(\d+)": lambda segments: lambda n, rng: rules.random_in_segments(n, int(segments), rng),
    r"sf\.ssv2_(\d+)": lambda frames: lambda n, rng: rules.segment_middles(n, int(frames)),
    r"pllava(\d+)": lambda frames: lambda n, rng: rules.segments_after_half(n, int(frames)),
    r"clip4clip(\d+)": lambda frames: lambda n, rng: rules.first_to_last(n, int(frames)),
    r"sf\.(\d+)x(\d+)x(\d+)\.fps(\d+)(\.offset)?": lambda frames, rate, views, fps, offset: (
        lambda n, rng: rules.slowfast_views(
            n, int(frames), int(rate), int(views), float(fps), to_the_end=offset is not None
        )
    ),
}
"""Tensor -> the rule it was made by, whose settings its name says."""


def rule_of(reference, name: str) -> Callable:
    """Those whose settings only the fixture's words say, and those of `NAMES`."""
    words = reference.meaning(name)
    columns = reference[name].shape[1]
    if name == "mm.fps":
        wanted, own = (int(number) for number in re.search(r"target_fps (\d+) on a (\d+) fps", words).groups())
        length, interval, clips = (
            int(number) for number in re.search(r"(\d+) frames, interval (\d+), (\d+) clips", words).groups()
        )
        return lambda n, rng: rules.even_clips(n, length, interval, clips, rates=(wanted, own))
    if name == "mm.dense":
        frames, reach = (int(number) for number in re.search(r"(\d+) frames of a (\d+)-frame", words).groups())
        return lambda n, rng: rules.dense(n, frames, columns // frames, reach)
    if name == "mm.train.uniform":
        return lambda n, rng: rules.random_uniform(n, int(stated_in(words, "UniformSample")), rng)
    if name == "mm.train.clip":
        length, interval = (int(number) for number in re.search(r"(\d+)x(\d+) clip", words).groups())
        return lambda n, rng: rules.random_clips(n, length, interval, columns // length, rng)
    for pattern, build in NAMES.items():
        if match := re.fullmatch(pattern, name):
            return build(*match.groups())
    raise UnreadableFixture(f"no rule for {name}")


@compares("frames", "video_sampling")
def frames(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Of videos of each length; -1 stands behind the last frame of a shorter row."""
    lengths, seed = ref["lengths"].tolist(), ref.setting("train_seed")
    for name, *_ in ref.keys(r"(?!lengths|crop\.).+"):
        rule, table = rule_of(ref, name), torch.full_like(ref[name], -1)
        for row, length in zip(table, lengths, strict=True):
            ours = torch.as_tensor(rule(length, np.random.RandomState(seed)))
            row[: len(ours)] = ours
        yield ref.check(table, name)


@compares("crops", "video_sampling")
def crops(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for key, name in ref.keys(r"crop\.(mm_.+)"):
        side = int(re.search(r"\((\d+)\)", ref.meaning(key))[1])
        yield ref.check(torch.tensor([CROPS[name](*size, side) for size in ref["crop.sizes"].tolist()]), key)


CROPS = {"mm_three": rules.three_crops, "mm_ten": rules.five_crops}
GROUPS = (frames, crops)
