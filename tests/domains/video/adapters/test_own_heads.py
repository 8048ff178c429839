"""Our own heads on frames: they start at averaged frames, use the order where it helps, and leave it where not."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vladapt import Batch, FeatureSet, TextClassifier, build_adapter
from vladapt.core.contracts.prepared import NoValidation
from vladapt.domains.video.adapters._frames import average_of_unit, legendre, masked_mean, times, valid_first
from vladapt.domains.video.adapters.attention_pool import FrameAttention
from vladapt.domains.video.adapters.temporal_adapter import CourseNetwork, right_of
from vladapt.domains.video.adapters.temporal_tip import at_moments

WIDTH, FRAMES = 16, 6
ORDER_FREE = ("mean-pool", "attention-pool")
OURS = (*ORDER_FREE, "temporal-adapter")


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def clips_of(count, seed=0, order=True):
    """Clips that go along one of two lines, and their reverses: four classes. Without `order` two classes of two."""
    ways, start = drawn(2, WIDTH, seed=99), drawn(2, WIDTH, seed=98)
    pair = torch.arange(2).repeat_interleave(count)
    shares = torch.linspace(-1, 1, FRAMES)[None, :, None]
    frames = start[pair, None] + shares * ways[pair, None] + 0.3 * drawn(2 * count, FRAMES, WIDTH, seed=seed)
    labels = torch.cat([2 * pair, 2 * pair + 1]) if order else torch.cat([pair, pair])
    groups = tuple(str(i) for i in range(2 * count)) * 2
    return FeatureSet.of_parts(torch.cat([frames, frames.flip(1)]), labels=labels, groups=groups)


@pytest.fixture(scope="module")
def texts():
    return TextClassifier(drawn(4, WIDTH, seed=3), logit_scale=20.0)


@pytest.fixture(scope="module")
def learned(texts):
    """name -> the head, fitted to 8 clips of each class."""
    support, options = clips_of(8), {"temporal-adapter": {"use": "order"}}
    heads = {name: build_adapter(name, epochs=30, lr=5e-3, **options.get(name, {})) for name in OURS}
    for head in heads.values():
        head.fit(support, texts)
    return heads


def within_pairs(logits, labels):
    own, other = logits.gather(1, labels[:, None]), logits.gather(1, (labels ^ 1)[:, None])
    return float(((own > other).double() + 0.5 * (own == other).double()).mean())


@pytest.mark.parametrize("name", OURS)
def test_before_the_first_step_it_is_frame_averaging(name, texts):
    """Exactly: the added part and the residual are 0."""
    clips = clips_of(3)
    adapter = build_adapter(
        name, epochs=1, lr=1e-30, weight_decay=0.0, **({"use": "order"} if "temporal" in name else {})
    )
    adapter.fit(clips, texts)
    wanted = 20.0 * average_of_unit(clips.parts, clips.parts_mask) @ texts.weights.T
    assert torch.equal(adapter.logits(clips), wanted) or torch.allclose(
        adapter.logits(clips), wanted, atol=1e-5, rtol=0
    )


def test_the_added_part_starts_at_nothing_exactly():
    clips = clips_of(3)
    added = CourseNetwork(WIDTH, 8, 3)(clips.parts, clips.parts_mask)
    assert torch.equal(added, average_of_unit(clips.parts, clips.parts_mask))
    even = FrameAttention(WIDTH, 8).weights(clips.unit_parts, clips.parts_mask)
    assert torch.equal(even, torch.full_like(even, 1 / FRAMES))


@pytest.mark.parametrize("name", ORDER_FREE)
def test_of_a_clip_and_its_reverse_an_average_says_the_same(name, learned):
    """So that within pairs it is right half of the time, exactly."""
    test = clips_of(10, seed=5)
    logits = learned[name].logits(test)
    assert torch.equal(logits[:20], logits[20:]) or torch.allclose(logits[:20], logits[20:], atol=1e-4)
    rounded = logits.mul(1000).round()
    assert within_pairs(rounded, test.labels) == 0.5


def test_where_order_matters_ours_beats_the_mean(learned):
    test = clips_of(10, seed=5)
    right = {
        name: float((head.logits(test).argmax(1) == test.labels).double().mean()) for name, head in learned.items()
    }
    assert right["temporal-adapter"] > 0.9 > 0.6 > right["mean-pool"]
    assert within_pairs(learned["temporal-adapter"].logits(test), test.labels) > 0.95


@pytest.mark.parametrize("order", [True, False])
@pytest.mark.parametrize("given", ["val", "folds"])
def test_the_order_is_used_where_it_helps_and_left_where_not(texts, order, given):
    support, val = clips_of(3, order=order), clips_of(3, seed=4, order=order) if given == "val" else None
    some = texts if order else texts.select([0, 2])
    fits = {}
    for name in ("temporal-adapter", "mean-pool"):
        fits[name] = build_adapter(name, epochs=15, lr=1e-2)
        fits[name].report = fits[name].fit(support, some, val=val)
    ours, report = fits["temporal-adapter"], fits["temporal-adapter"].report
    assert report.chosen["use"] == ("order" if order else "mean") and ours.ordered == order
    words = "val (12 clips)" if given == "val" else "the support, 3 folds of clips left out in turn"
    assert report.chosen_on == words and f"is {'used' if order else 'not used'}: right with it" in report.notes[0]
    test = clips_of(5, seed=6, order=order)
    if not order:
        torch.testing.assert_close(ours.logits(test), fits["mean-pool"].logits(test))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_eight_clips_of_val_do_not_decide_alone(texts, seed):
    """12 clips per class that move left or right in noise, 4 of val: 100 % and 75 % of 8 clips differ by less than two
    standard errors."""

    def clips(count, drawn_with):
        shares = torch.linspace(-0.5, 0.5, FRAMES)[None, :, None]
        frames = drawn(WIDTH, seed=98) + shares * drawn(WIDTH, seed=99)
        frames = frames + 1.2 * drawn(2 * count, FRAMES, WIDTH, seed=drawn_with)
        frames = torch.cat([frames[:count], frames[count:].flip(1)])
        return FeatureSet.of_parts(frames, labels=torch.arange(2).repeat_interleave(count))

    adapter = build_adapter("temporal-adapter", epochs=15, lr=1e-2)
    report = adapter.fit(clips(12, seed), texts.select([0, 1]), val=clips(4, 100 + seed), seed=seed)
    assert report.chosen_on == "val (8 clips) and the support, 4 folds of clips left out in turn"
    test = clips(100, 1000)
    assert report.chosen["use"] == "order"
    assert float((adapter.logits(test).argmax(dim=1) == test.labels).double().mean()) > 0.9


def test_with_one_clip_per_class_nothing_is_left_out(texts):
    clips = clips_of(1)
    report = build_adapter("temporal-adapter", epochs=1).fit(clips, texts)
    assert report.chosen["use"] == "mean" and report.chosen_on.startswith("defaults: most classes have only one clip")
    told = build_adapter("temporal-adapter", epochs=1).fit(clips_of(4), texts, val=NoValidation.beside(clips))
    assert told.chosen["use"] == "mean" and told.chosen_on == "defaults: no validation"


def test_what_is_added_has_two_terms_and_each_counts():
    """The course over time tells left from right; the area tells a turn, where all courses are alike."""
    network, there = CourseNetwork(4, 2, 1), torch.ones(1, 9, dtype=torch.bool)
    angle = torch.linspace(0, 2 * torch.pi, 10)[:9]
    turn = torch.stack([angle.cos(), angle.sin(), 0 * angle, 0 * angle], dim=1)[None]
    network.enter.weight.data = torch.tensor([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    round_and_back = [network.course(path - path.mean(dim=1, keepdim=True), there)[0] for path in (turn, turn.flip(1))]
    torch.testing.assert_close(round_and_back[0], -round_and_back[1])
    assert round_and_back[0][2] > 1 and round_and_back[0][3] == 0  # area of the first pair of rows, and of the second
    line = torch.linspace(-1, 1, 9)[None, :, None] * torch.tensor([1.0, 1, 0, 0])
    along = network.course(line, there)[0]
    assert along[0] > 0.5 and along[2].abs() < 1e-6


def test_a_longer_clip_of_the_same_course_says_the_same(learned):
    """Time is a share of the length."""
    shares, way, start = torch.linspace(-1, 1, 40), drawn(WIDTH, seed=99), drawn(WIDTH, seed=98)
    path = start + shares[:, None] * way
    scores = [learned["temporal-adapter"].logits(Batch(parts=path[None, ::step])) for step in (1, 3)]
    assert F.cosine_similarity(*scores).item() > 0.99


@pytest.mark.parametrize("name", [*OURS, "temporal-tip"])
def test_padding_says_nothing(name, texts, learned):
    clips = clips_of(3)
    head = learned.get(name)
    if head is None:
        head = build_adapter(name, alpha=1.0, beta=2.0)
        head.fit(clips, texts)
    frames = torch.zeros(12, FRAMES + 3, WIDTH)
    mask = torch.zeros(12, FRAMES + 3, dtype=torch.bool)
    places = [0, 2, 3, 5, 6, 8]
    frames[:, places], mask[:, places] = clips.parts, True
    torch.testing.assert_close(
        head.logits(Batch(parts=frames, parts_mask=mask)), head.logits(clips), atol=1e-4, rtol=1e-4
    )


# a cache of clips -----------------------------------------------------------------------------------------------------


def test_a_cache_of_clips_knows_their_order():
    """Of itself, where texts say nothing."""
    support, test = clips_of(8), clips_of(10, seed=5)
    told, silent = {}, TextClassifier.without_texts(tuple("abcd"), WIDTH)
    for match in ("time", "mean"):
        head = build_adapter("temporal-tip", match=match)
        report = head.fit(support, silent)
        told[match] = within_pairs(head.logits(test).mul(1000).round(), test.labels)
        assert report.chosen_on.startswith("8 images held out") and report.val_score is not None
    assert told["time"] > 0.95 and told["mean"] == 0.5


def test_a_cache_on_means_is_tip_adapter_on_averaged_frames(texts):
    support, test = clips_of(4), clips_of(3, seed=5)
    ours, theirs = (build_adapter(name, alpha=2.0, beta=3.0, **o) for name, o in (
        ("temporal-tip", {"match": "mean"}), ("tip-adapter", {"views": 0})))  # fmt: skip
    ours.fit(support, texts)
    averaged = [FeatureSet(average_of_unit(s.parts, s.parts_mask), s.labels) for s in (support, test)]
    theirs.fit(averaged[0], texts)
    torch.testing.assert_close(ours.logits(test), theirs.logits(averaged[1]))


def test_moments_are_shares_of_each_clip():
    frames = torch.arange(5.0)[None, :, None].repeat(2, 1, 1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    picked = at_moments(frames.masked_fill(~mask[..., None], 0), mask, 5)[..., 0]
    torch.testing.assert_close(picked, torch.tensor([[0.0, 1, 2, 3, 4], [0, 0.5, 1, 1.5, 2]]))


# frames ---------------------------------------------------------------------------------------------------------------


def test_times_and_polynomials():
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]]).bool()
    torch.testing.assert_close(times(mask), torch.tensor([[-1.0, 0, 1, 0], [0, 0, 0, 0]]))
    t = torch.linspace(-1, 1, 7)
    wanted = torch.stack([t, (3 * t**2 - 1) / 2, (5 * t**3 - 3 * t) / 2], dim=-1)
    torch.testing.assert_close(legendre(t, 3), wanted)
    frames, front = valid_first(drawn(1, 4, 3), torch.tensor([[0, 1, 0, 1]]).bool())
    assert front.tolist() == [[True, True, False, False]] and torch.equal(frames[0, :2], drawn(1, 4, 3)[0, [1, 3]])
    assert torch.equal(masked_mean(frames, front), masked_mean(frames[:, [1, 0, 2, 3]], front))


def test_several_labels_are_judged_by_the_share_that_is_right():
    logits, labels = torch.tensor([[1.0, -1, 2], [1, 1, 1]]), torch.tensor([[1.0, 0, torch.nan], [0, 0, 1]])
    assert right_of(logits, labels).tolist() == pytest.approx([1.0, 1 / 3])
    assert right_of(logits, torch.tensor([2, 1])).tolist() == [1.0, 0.0]


def test_attention_is_the_equation_of_the_paper():
    pool = FrameAttention(4, 3)
    pool.score.weight.data = drawn(1, 3, seed=7)
    unit = F.normalize(drawn(1, 5, 4), dim=-1)
    mask = torch.tensor([[1, 1, 1, 1, 0]]).bool()
    scores = [pool.score(torch.tanh(pool.attend(h)) * torch.sigmoid(pool.gate(h))) for h in unit[0, :4]]
    weights = torch.cat(scores).softmax(dim=0)
    torch.testing.assert_close(pool(unit, mask)[0], weights @ unit[0, :4])
