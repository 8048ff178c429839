"""Which frames and crops are looked at, beside the tables of public code (fixture `video_sampling`), and what holds of
every rule."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.sampling import NAMES, crops, frames

from vladapt.core.errors import ConfigError
from vladapt.domains.video import sampling as rules
from vladapt.domains.video.clips import RULES, Sampling


@pytest.mark.parametrize("comparison", [frames, crops], ids=["frames", "crops"])
def test_agrees_with_the_public_code(agrees, comparison):
    agrees(comparison)


OF_100 = {
    "clip4clip12": [0, 9, 18, 27, 36, 45, 54, 63, 72, 81, 90, 99],
    "mm.clip8x8x1.loop": [21, 29, 37, 45, 53, 61, 69, 77],
    "mm.tsn8": [6, 18, 31, 43, 56, 68, 81, 93],
    "mm.tsn8.twice": [6, 18, 31, 43, 56, 68, 81, 93, 0, 12, 25, 37, 50, 62, 75, 87],
    "mm.uniform12x1": [4, 12, 20, 29, 37, 45, 54, 62, 70, 78, 86, 95],
    "pllava16": [3, 9, 15, 22, 28, 34, 40, 46, 53, 59, 65, 71, 77, 83, 90, 96],
    "sf.ssv2_16": [3, 9, 15, 22, 28, 34, 40, 46, 53, 59, 65, 71, 77, 83, 90, 96],
}
"""Rule -> which frames of a video of 100 the public code takes, cut from the fixture; and below of one of 33."""
OF_33 = {"mm.clip8x8x1.loop": [0, 8, 16, 24, 32, 7, 15, 23], "mm.clip8x8x1.repeat_last": [0, 8, 16, 24, 32, 32, 32, 32]}


@pytest.mark.parametrize(("frames", "wanted"), [(100, OF_100), (33, OF_33)])
def test_frames_of_two_videos_are_those_of_the_public_code(frames, wanted):
    for name, numbers in wanted.items():
        (rule,) = (build(*m.groups()) for pattern, build in NAMES.items() if (m := re.fullmatch(pattern, name)))
        assert rule(frames, np.random.RandomState(0)).tolist() == numbers, name


@settings(max_examples=60)
@given(
    rule=st.sampled_from(sorted(RULES)),
    n=st.integers(1, 400),
    frames=st.integers(1, 40),
    interval=st.integers(1, 20),
    clips=st.integers(1, 5),
    fps=st.floats(0.5, 60),
)
def test_every_rule_gives_frames_that_are_there_in_a_number_that_is_stated(rule, n, frames, interval, clips, fps):
    clips = clips if "clips" in RULES[rule].options else 1
    frames = min(frames, 32) if rule == "dense" else frames
    how = Sampling(rule, frames, interval, fps, clips)
    times = np.arange(n) / 25.0
    positions, drawn = how.positions(times), how.positions(times, seed=n)
    assert drawn.min() >= 0 and drawn.max() < n and (len(drawn) == len(positions))
    assert drawn.tolist() == how.positions(times, seed=n).tolist() and (
        how.draws or drawn.tolist() == positions.tolist()
    )
    assert len(positions) and positions.min() >= 0 and positions.max() < n
    if rule in ("first-to-last", "fps"):
        assert len(positions) <= frames and len(set(positions.tolist())) == len(positions)
    else:
        assert len(positions) == frames * clips * (2 if rule == "segment-twice" else 1)
    assert Sampling.of(how.as_decode()).positions(times).tolist() == positions.tolist()


@settings(max_examples=40)
@given(n=st.integers(1, 300), segments=st.integers(1, 32), seed=st.integers(0, 99))
def test_frames_drawn_from_segments_are_in_order_and_the_seed_alone_decides(n, segments, seed):
    drawn = rules.random_in_segments(n, segments, np.random.default_rng(seed))
    assert drawn.tolist() == rules.random_in_segments(n, segments, np.random.default_rng(seed)).tolist()
    assert (np.diff(drawn) >= 0).all() and drawn.min() >= 0 and drawn.max() < n
    if n >= segments:
        share = n // segments
        assert (drawn // share == np.arange(segments)).all()


def test_a_fixed_rate_follows_the_times_and_not_the_numbers_of_frames():
    steady = np.arange(100) / 25.0
    assert Sampling("fps", frames=12, fps=1.0).positions(steady).tolist() == [0, 25, 50, 75]
    assert Sampling("fps", frames=2, fps=1.0).positions(steady).tolist() == [0, 75]
    slow_start = np.concatenate([np.arange(3) * 2.0, 4.0 + np.arange(1, 51) / 25.0])
    assert Sampling("fps", frames=12, fps=1.0).positions(slow_start).tolist() == [0, 1, 2, 27, 52]


def test_a_stretch_of_pyslowfast_begins_anywhere_in_training_and_its_views_reach_the_end():
    times = np.arange(300) / 30.0  # a stretch of 4 frames, 16 apart, has 64: it begins at 0 to 236
    how = Sampling("slowfast-random", frames=4, interval=16, clips=3)
    assert how.positions(times).tolist() == [0, 21, 42, 63, 118, 139, 160, 181, 236, 257, 278, 299]
    starts = [how.positions(times, seed=seed).reshape(3, 4)[:, 0] for seed in range(40)]
    assert min(map(min, starts)) < 20 and max(map(max, starts)) > 216
    assert Sampling("slowfast", frames=4, interval=16, clips=3).positions(times, seed=5)[0] == 0


def test_several_clips_are_refused_by_rules_that_give_one():
    several = "uniform, stretches, dense, slowfast, slowfast-random"
    with pytest.raises(ConfigError, match=f"--clips 3: for the sampling {several}; omit it"):
        Sampling("first-to-last", clips=3)
    with pytest.raises(ConfigError, match="--frames 65: the sampling dense takes at most 64"):
        Sampling("dense", frames=65)
