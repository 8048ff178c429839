from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from vladapt.adapters.crops.gc_clip import clipped, hold_back, squared, with_margin
from vladapt.core.contracts import Batch, FeatureSet, TextClassifier
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.registry import build_adapter

BOX = (10, 5, 22, 17)  # where the patches of the colour images lie
RED, GREEN, BLUE = 0, 1, 2
SPOTS = (RED, BLUE, GREEN)  # the patches' colours; the ground is most of each image


def gc(problem, boxes=None, **options):
    return problem.fit(build_adapter("gc-clip", **options), boxes=boxes or {})


def mean_of(images, boxes, margins, problem, square=True):
    """Logits of the average unit feature over margins, each crop cut by hand."""
    rows = []
    for image, box in zip(images, boxes, strict=True):
        height, width = image.shape[:2]
        core = squared(box, height, width) if square else box
        crops = [with_margin(core, margin, height, width) for margin in margins]
        parts = [image[y0:y1, x0:x1] for x0, y0, x1, y1 in crops]
        rows.append(F.normalize(problem.features(parts), dim=-1).mean(dim=0))
    return problem.classifier.logit_scale * torch.stack(rows) @ problem.classifier.weights.T


# what a box does -----------------------------------------------------------------------------------------------------


def test_the_box_decides_what_is_seen(colours, found):
    assert colours.zero_shot().argmax(dim=1).tolist() == [BLUE, GREEN, RED]
    adapter = gc(colours, margins=(0.0,))
    logits = adapter.logits(colours.batch(boxes=[[found(BOX)]] * 3))
    assert logits.argmax(dim=1).tolist() == list(SPOTS)
    expected = mean_of(colours.images, [BOX] * 3, (0.0,), colours)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)


def test_logits_are_the_average_over_the_margins(random_clip, found):
    boxes = [(3, 2, 20, 9), (0, 0, 8, 20), (5, 5, 9, 9), (1, 10, 28, 30)]
    margins = (0.0, 0.3, 0.3, 1.0)
    for square in (True, False):
        adapter = gc(random_clip, margins=margins, square=square)
        logits = adapter.logits(random_clip.batch(boxes=[[found(box)] for box in boxes]))
        expected = mean_of(random_clip.images, boxes, margins, random_clip, square)
        torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-4)
        each = [
            gc(random_clip, margins=(m,), square=square).logits(random_clip.batch(boxes=[[found(b)] for b in boxes]))
            for m in margins
        ]
        torch.testing.assert_close(logits, torch.stack(each).mean(dim=0), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("top_k", [1, 2, 5])
def test_the_margin_of_the_whole_image_alone_is_zero_shot(random_clip, found, top_k):
    adapter = gc(random_clip, margins=(1.0,), top_k=top_k)
    logits = adapter.logits(random_clip.batch(boxes=[[found((1, 1, 9, 9))]] * 4))
    torch.testing.assert_close(logits, random_clip.zero_shot(), atol=1e-4, rtol=1e-5)


def test_a_box_around_everything_is_zero_shot(colours, found):
    square = tuple(image[:36, :36] for image in colours.images)
    logits = gc(colours).logits(colours.batch(square, boxes=[[found((-3, 0, 36, 99))]] * 3))
    torch.testing.assert_close(logits, colours.zero_shot(square), atol=1e-4, rtol=1e-5)


def test_an_image_without_a_usable_box_keeps_its_zero_shot_logits(colours, found):
    outside, empty = found((70, 70, 90, 90)), found((5, 5, 5, 9))
    odd, turned = found((0, float("nan"), 5, 5)), found((9, 9, 4, 4))
    logits = gc(colours).logits(colours.batch(boxes=[[], [found(BOX)], [outside, empty, odd, turned]]))
    torch.testing.assert_close(logits[[0, 2]], colours.zero_shot()[[0, 2]])
    assert not torch.allclose(logits[1], colours.zero_shot()[1], atol=0.1)
    assert torch.equal(gc(colours).logits(colours.batch(boxes=[[], [], []])), colours.zero_shot())


# which box -----------------------------------------------------------------------------------------------------------


def chosen(colours, boxes, **options):
    """Of the first image (blue, a red patch), what is said with these boxes."""
    logits = gc(colours, margins=(0.0,), **options).logits(colours.batch(colours.images[:1], boxes=[boxes]))
    return int(logits.argmax())


GROUND = (40, 20, 52, 32)


def test_the_highest_score_counts(colours, found):
    assert chosen(colours, [found(BOX, 0.4), found(GROUND, 0.5)]) == BLUE
    assert chosen(colours, [found(GROUND, 0.5), found(BOX, 0.6)]) == RED


def test_a_box_of_a_likely_class_goes_before_a_nameless_one(colours, found):
    assert chosen(colours, [found(GROUND, 0.9), found(BOX, 0.1, "red")]) == RED
    assert chosen(colours, [found(GROUND, 0.9), found(BOX, 0.1)]) == BLUE
    assert chosen(colours, [found(GROUND, 0.2, "blue"), found(BOX, 0.3, "red")]) == RED


@pytest.mark.parametrize("label", ["Red", "RED", " red ", "red"])
def test_labels_are_compared_loosely(colours, found, label):
    assert chosen(colours, [found(GROUND, 0.9), found(BOX, 0.1, label)]) == RED


def test_underscores_hyphens_and_case_of_class_names_are_spoken(random_clip, found):
    boxes = [[found((0, 0, 9, 9), 0.9), found((9, 9, 20, 20), 0.1, label)] for label in
             ("Polka dotted", "x_ray", "Annual-Crop_Land", "SEA")]  # fmt: skip
    adapter = gc(random_clip, margins=(0.0,))
    logits = adapter.logits(random_clip.batch(boxes=boxes))
    expected = mean_of(random_clip.images, [(9, 9, 20, 20)] * 4, (0.0,), random_clip)
    torch.testing.assert_close(logits, expected, atol=1e-3, rtol=1e-4)


def test_a_label_that_names_no_class_says_nothing(colours, found):
    assert chosen(colours, [found(GROUND, 0.5, "racoon"), found(BOX, 0.6, "kite")]) == RED


def test_a_box_of_an_unlikely_class_is_left_aside(colours, found):
    image = colours.images[:1]
    least = int(colours.zero_shot(image).argmin())
    name = colours.classifier.class_names[least]
    logits = gc(colours, top_k=2).logits(colours.batch(image, boxes=[[found(BOX, 0.9, name)]]))
    torch.testing.assert_close(logits, colours.zero_shot(image))
    assert not torch.allclose(
        gc(colours, top_k=3).logits(colours.batch(image, boxes=[[found(BOX, 0.9, name)]])), logits, atol=0.1
    )


def test_only_likely_classes_can_win(colours, found):
    """Red is third in the first image: with two likely classes even a box of pure red does not make it win."""
    shades = colours.images[0].copy()
    shades[..., 1] = 60
    shades[5:17, 10:22] = (255, 0, 0)
    assert colours.zero_shot((shades,)).argsort(dim=1, descending=True).tolist() == [[BLUE, GREEN, RED]]
    batch = colours.batch((shades,), boxes=[[found(BOX)]])
    free, held = (gc(colours, top_k=k, margins=(0.0,)).logits(batch) for k in (3, 2))
    assert int(free.argmax()) == RED and int(held.argmax()) in (BLUE, GREEN)
    first = colours.zero_shot((shades,))[0]
    torch.testing.assert_close(held[0, :RED], free[0, :RED])
    torch.testing.assert_close(held[0, [GREEN, BLUE]], free[0, [GREEN, BLUE]])
    assert float(held[0].topk(3).values[1] - held[0, RED]) == pytest.approx(float(first[GREEN] - first[RED]), abs=1e-3)


@given(st.integers(1, 6), st.integers(0, 99))
def test_holding_back_keeps_the_likely_and_the_order_of_the_others(top_k, seed):
    generator = torch.Generator().manual_seed(seed)
    refined, first = torch.randn(2, 3, 6, generator=generator, dtype=torch.float64)
    likely = first.topk(top_k, dim=1).indices
    held = hold_back(refined, first, likely)
    assert torch.equal(held.gather(1, likely), refined.gather(1, likely))
    for row in range(3):
        others = [c for c in range(6) if c not in likely[row].tolist()]
        assert int(held[row].argmax()) in likely[row].tolist()
        torch.testing.assert_close(held[row, others].diff(), first[row, others].diff())
    torch.testing.assert_close(hold_back(first, first, likely), first)


# the cut -------------------------------------------------------------------------------------------------------------

SIDES = {"height": st.integers(1, 60), "width": st.integers(1, 60)}
EDGE = st.floats(-20, 80, allow_nan=False)


@given(box=st.tuples(EDGE, EDGE, EDGE, EDGE), margin=st.floats(0, 1), **SIDES)
def test_a_cut_lies_in_the_image_and_holds_the_box(box, margin, height, width):
    frame = clipped(box, height, width)
    x0, y0, x1, y1 = box
    if frame is None:
        assert min(x1, width) <= max(x0, 0) or min(y1, height) <= max(y0, 0)
        return
    assert frame == (max(x0, 0), max(y0, 0), min(x1, width), min(y1, height))
    core = squared(frame, height, width)
    sides = core[2] - core[0], core[3] - core[1]
    longest = max(frame[2] - frame[0], frame[3] - frame[1])
    assert sides == pytest.approx((min(longest, width), min(longest, height)))
    for start in (frame, core):
        left, top, right, bottom = with_margin(start, margin, height, width)
        assert 0 <= left < right <= width and 0 <= top < bottom <= height
        assert left <= frame[0] + 1e-6 and right >= frame[2] - 1e-6
        assert top <= frame[1] + 1e-6 and bottom >= frame[3] - 1e-6
    assert with_margin(core, 1.0, height, width) == (0, 0, width, height)


def test_margins_go_evenly_to_the_edges():
    assert with_margin((10, 5, 22, 17), 0.0, 40, 60) == (10, 5, 22, 17)
    assert with_margin((10, 5, 22, 17), 0.5, 40, 60) == (5, 2, 41, 29)
    assert squared((0, 10, 4, 30), 40, 60) == (0, 10, 20, 30)
    assert squared((28, 10, 32, 30), 40, 60) == (20, 10, 40, 30)
    assert squared((10, 10, 60, 12), 40, 60) == (10, 0, 60, 40)


# the adapter ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [1, 3, 1000])
def test_neither_the_chunk_nor_the_batch_changes_a_result(random_clip, found, at_once):
    boxes = [[found((3, 2, 20, 7))], [], [found((0, 9, 9, 30))], [found((5, 5, 6, 6))]]
    together = gc(random_clip).logits(random_clip.batch(boxes=boxes))
    adapter = gc(random_clip, crops_at_once=at_once)
    alone = [adapter.logits(random_clip.batch((i,), boxes=[b])) for i, b in zip(random_clip.images, boxes, strict=True)]
    torch.testing.assert_close(adapter.logits(random_clip.batch(boxes=boxes)), together, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(torch.cat(alone), together, atol=1e-4, rtol=1e-5)


def test_features_that_are_not_given_are_computed(random_clip, found):
    boxes = [[found((3, 2, 20, 7))], [], [], []]
    adapter = gc(random_clip)
    given_ = adapter.logits(random_clip.batch(boxes=boxes))
    torch.testing.assert_close(adapter.logits(Batch(images=random_clip.images, boxes=boxes)), given_)
    assert adapter.logits(Batch(images=(), boxes=())).shape == (0, 4)


def test_the_transform_of_the_batch_is_what_parts_go_through(random_clip, found):
    boxes = [[found((3, 2, 20, 7))]] * 4
    usual = random_clip.backbone.preprocess()
    same, dark = (
        gc(random_clip).logits(random_clip.batch(boxes=boxes, transform=t)) for t in (usual, lambda p: usual(p // 4))
    )
    torch.testing.assert_close(same, gc(random_clip).logits(random_clip.batch(boxes=boxes)))
    assert not torch.allclose(same, dark, atol=1e-3)


def test_the_order_of_classes_does_not_matter(random_clip, found):
    order = [2, 0, 3, 1]
    names = tuple(random_clip.classifier.class_names[i] for i in order)
    support = FeatureSet(random_clip.support.features, random_clip.support.labels, names)
    turned = replace(random_clip, classifier=random_clip.classifier.select(order), support=support)
    boxes = [[found((3, 2, 20, 7), 0.5, "sea"), found((3, 2, 9, 9), 0.6, "x ray")]] * 4
    logits = gc(turned, top_k=2).logits(turned.batch(boxes=boxes))
    expected = gc(random_clip, top_k=2).logits(random_clip.batch(boxes=boxes))[:, order]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-5)


def test_scale_and_bias_of_the_model_are_kept(random_clip, found):
    boxes = [[found((3, 2, 20, 7))]] * 4
    plain = gc(random_clip, top_k=2).logits(random_clip.batch(boxes=boxes))
    scaled = replace(random_clip, classifier=replace(random_clip.classifier, logit_scale=430.0, logit_bias=-9.0))
    logits = gc(scaled, top_k=2).logits(scaled.batch(boxes=boxes))
    torch.testing.assert_close(logits, plain * 430 / random_clip.classifier.logit_scale - 9, atol=1e-2, rtol=1e-4)


def test_many_classes_and_no_names(colours, found):
    text = F.normalize(torch.randn(1000, 3, generator=torch.Generator().manual_seed(0)), dim=-1)
    many = replace(colours, classifier=TextClassifier(text), support=FeatureSet(text[:2], torch.arange(2)))
    logits = gc(many).logits(colours.batch(boxes=[[found(BOX, 0.9, "red")]] * 3))
    assert logits.shape == (3, 1000) and torch.isfinite(logits).all()


def test_the_report_says_what_is_ours_and_which_labels_mean_nothing(colours, found):
    boxes = {"a": [found(BOX, 0.5, "Red"), found(BOX, 0.5, "kite")], "b": [found(BOX, 0.5)]}
    notes = gc(colours, boxes).report.notes
    assert notes[-1].startswith("experimental") and "margins" in notes[-1]
    assert notes[0].endswith(": kite")
    assert len(gc(colours, {"a": [found(BOX, 0.5, "RED")]}).report.notes) == 1
    many = {"a": [found(BOX, 0.5, f"kite {n}") for n in range(7)]}
    assert gc(colours, many).report.notes[0].endswith("kite 4 and 2 more")


def test_what_is_refused_says_so(colours, found):
    adapter = gc(colours)
    with pytest.raises(CapabilityError, match="boxes="):
        adapter.logits(colours.batch())
    with pytest.raises(CapabilityError, match="1 images for 3"):
        adapter.logits(colours.batch(boxes=[[]]))
    with pytest.raises(CapabilityError, match="images="):
        adapter.logits(Batch(features=colours.features(), boxes=[[], [], []]))
    clip = np.stack([colours.images[0]] * 4)
    with pytest.raises(CapabilityError, match="clip"):
        adapter.logits(Batch(features=colours.features()[:1], images=[clip], boxes=[[found(BOX)]]))
    with pytest.raises(CapabilityError, match="boxes from a detector"):
        build_adapter("gc-clip").fit(colours.support, colours.classifier, backbone=colours.backbone)
    several = FeatureSet(colours.support.features, torch.eye(3), colours.support.class_names)
    with pytest.raises(CapabilityError, match="one label"):
        gc(replace(colours, support=several))


@pytest.mark.parametrize("margins", [(), (1.5,), (-0.1, 0)])
def test_margins_that_are_no_shares_are_refused(margins):
    with pytest.raises(ConfigError, match="option margins="):
        build_adapter("gc-clip", margins=margins)


@pytest.mark.thorough
def test_small_things_are_named_better_in_their_boxes_by_the_embedded_towers(embedded, drawn_small, problem, found):
    names = ("umbrella", "candle", "sailboat", "mushroom", "butterfly", "traffic light", "snail", "clock")
    images, boxes = drawn_small(names * 2, side=64)
    task, labels = problem(embedded, names, images), torch.arange(len(names)).repeat(2)
    guided = gc(task, top_k=8, margins=(0.1,)).logits(task.batch(boxes=[[found(box)] for box in boxes]))
    right = [int((logits.argmax(dim=1) == labels).sum()) for logits in (task.zero_shot(), guided)]
    assert right[1] >= right[0] + 2
