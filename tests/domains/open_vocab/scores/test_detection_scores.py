"""Average precision: perfect is 1, order means nothing, crowds count neither way, and it is the published number."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt import ConfigError
from vladapt.core.contracts.items import Boxes, Item
from vladapt.domains.open_vocab.scores import Detected, Truth, score_detections, truth_of

NAMES = ("cat", "dog", "emu")
SQUARE = [[0, 0, 10, 0, 10, 10, 0, 10]]


def found_as(truth, score=0.9):
    return Detected(truth.boxes, [score] * len(truth.labels), truth.labels)


@st.composite
def scenes(draw, images=3, most=4):
    """Truths and detections on a coarse grid, so that boxes overlap and scores differ."""
    truths, found = [], []
    numbers = iter(draw(st.permutations(range(100))))
    for _ in range(images):
        sides = []
        for _ in range(2):
            count = draw(st.integers(0, most))
            corners = [draw(st.tuples(st.integers(0, 5), st.integers(0, 5))) for _ in range(count)]
            sizes = [draw(st.tuples(st.integers(2, 6), st.integers(2, 6))) for _ in range(count)]
            boxes = [(8.0 * x, 8.0 * y, 8.0 * (x + w), 8.0 * (y + h)) for (x, y), (w, h) in zip(corners, sizes)]
            sides.append((boxes, [draw(st.integers(0, len(NAMES) - 1)) for _ in range(count)]))
        truths.append(Truth(*sides[0]))
        found.append(Detected(sides[1][0], [next(numbers) / 100 for _ in sides[1][1]], sides[1][1]))
    return truths, found


@given(scenes())
@settings(max_examples=15)
def test_what_is_true_is_perfect(scene):
    truths = [truth for truth in scene[0] if truth.labels]
    unlike = all(len(set(zip(truth.boxes, truth.labels))) == len(truth.labels) for truth in truths)
    if not truths or not unlike:
        return
    scores = score_detections(truths, [found_as(truth) for truth in truths], NAMES)
    assert [scores.metrics[name] for name in ("AP", "AP50", "AP75", "AR")] == pytest.approx([1] * 4)
    assert all(curve["precision"] == pytest.approx([1] * 101) for curve in scores.curves.values())


@given(scenes(), st.randoms(use_true_random=False))
@settings(max_examples=15)
def test_the_order_of_images_and_of_boxes_means_nothing(scene, chance):
    truths, detected = scene
    order = list(range(len(truths)))
    chance.shuffle(order)
    shuffled = []
    for entry in (detected[n] for n in order):
        places = list(range(len(entry.labels)))
        chance.shuffle(places)
        columns = (entry.boxes, entry.scores, entry.labels)
        shuffled.append(Detected(*([values[p] for p in places] for values in columns)))
    one = score_detections(truths, detected, NAMES).metrics
    assert score_detections([truths[n] for n in order], shuffled, NAMES).metrics == pytest.approx(one)


def transcribed_ap50(truths, found, label):
    """COCO's average precision at an overlap of 0.5, word by word: the surest first takes the best free object."""
    ranked = sorted(
        (
            (score, n, box)
            for n, f in enumerate(found)
            for box, score, k in zip(f.boxes, f.scores, f.labels)
            if k == label
        ),
        key=lambda entry: -entry[0],
    )
    objects = [[box for box, k in zip(t.boxes, t.labels) if k == label] for t in truths]
    total, taken, hits = sum(map(len, objects)), set(), []
    for _, image, box in ranked:
        free = [(overlap(box, other), k) for k, other in enumerate(objects[image]) if (image, k) not in taken]
        best = max(free, key=lambda entry: (entry[0], entry[1]), default=(0, None))
        hits.append(best[0] >= 0.5)
        if hits[-1]:
            taken.add((image, best[1]))
    right = np.cumsum(hits) if hits else np.zeros(0)
    precision, recall = right / np.arange(1, len(right) + 1), right / max(total, 1)
    reached = [
        max((p for p, r in zip(precision, recall) if r >= wanted), default=0) for wanted in np.linspace(0, 1, 101)
    ]
    return float(np.mean(reached)) if total else None


def overlap(one, other):
    width = max(0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0, min(one[3], other[3]) - max(one[1], other[1]))
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


@given(scenes())
@settings(max_examples=25)
def test_ap50_of_each_class_is_the_literal_definition(scene):
    truths, found = scene
    scores = score_detections(truths, found, NAMES)
    for label, name in enumerate(NAMES):
        expected = transcribed_ap50(truths, found, label)
        assert scores.per_class[name]["AP50"] == (None if expected is None else pytest.approx(expected))


def test_finding_a_crowd_counts_neither_way_and_many_may_match_it():
    crowd = Truth([(0, 0, 10, 10), (20, 0, 60, 40)], [0, 0], ignored=[False, True])
    inside = [(0, 0, 10, 10), (22, 2, 30, 10), (40, 4, 50, 20)]
    scores = score_detections([crowd], [Detected(inside, [0.5, 0.9, 0.8], [0, 0, 0])], NAMES)
    assert scores.metrics["AP"] == pytest.approx(1) and scores.per_class["cat"]["objects"] == 1
    plain = Truth(crowd.boxes, crowd.labels)
    assert score_detections([plain], [Detected(inside, [0.5, 0.9, 0.8], [0, 0, 0])], NAMES).metrics["AP"] < 0.5


def test_base_and_novel_classes_have_their_own_and_a_harmonic_mean():
    truth = Truth([(0, 0, 10, 10), (20, 20, 40, 40)], [0, 2])
    half = Detected([(0, 0, 10, 10), (60, 60, 90, 90), (20, 20, 40, 40)], [0.9, 0.9, 0.5], [0, 2, 2])
    metrics = score_detections([truth], [half], NAMES, novel=("emu",)).metrics
    assert metrics["base_AP50"] == pytest.approx(1) and metrics["novel_AP50"] == pytest.approx(0.5)
    assert metrics["harmonic_AP50"] == pytest.approx(2 / 3)
    assert "novel_AP50" not in score_detections([truth], [half], NAMES).metrics


def test_sizes_and_frequencies_are_told_apart():
    truth = Truth([(0, 0, 10, 10), (0, 0, 50, 50), (0, 0, 200, 200)], [0, 1, 2])
    found = Detected([(0, 0, 10, 10), (0, 0, 200, 200)], [0.9, 0.9], [0, 2])
    metrics = score_detections([truth], [found], NAMES, frequency="rcf").metrics
    assert (metrics["AP_small"], metrics["AP_medium"], metrics["AP_large"]) == pytest.approx((1, 0, 1))
    assert (metrics["AP_rare"], metrics["AP_common"], metrics["AP_frequent"]) == pytest.approx((1, 0, 1))


def test_only_classes_that_were_looked_for_count_and_partial_ones_forgive():
    truth = {"boxes": [(0, 0, 10, 10)], "labels": [0]}
    found = Detected([(0, 0, 10, 10), (20, 20, 40, 40), (50, 50, 70, 70)], [0.5, 0.9, 0.9], [0, 0, 1])
    other = Truth([(0, 0, 10, 10)], [1], absent=())
    found_other = Detected([(0, 0, 10, 10)], [0.5], [1])

    def ap50(**facts):
        per_class = score_detections([Truth(**truth, **facts), other], [found, found_other], NAMES).per_class
        return per_class["cat"]["AP50"], per_class["dog"]["AP50"]

    assert ap50() == pytest.approx((0.5, 0.5))
    assert ap50(absent=()) == pytest.approx((0.5, 1))
    assert ap50(absent=(1,)) == pytest.approx((0.5, 0.5))
    assert ap50(absent=(), partial=(0,)) == pytest.approx((1, 1))


def test_outlines_are_compared_where_asked():
    triangle = [[0, 0, 10, 0, 0, 10]]
    mask = np.zeros((12, 12), bool)
    mask[:10, :10] = True
    found = Detected([(0, 0, 10, 10)], [0.9], [0], outlines=[mask])
    truth = Truth([(0, 0, 10, 10)], [0], outlines=[triangle], size=(12, 12))
    assert score_detections([truth], [found], NAMES).metrics["AP75"] == pytest.approx(1)
    assert score_detections([truth], [found], NAMES, outlines=True).metrics["AP75"] == 0
    square = Truth([(0, 0, 10, 10)], [0], outlines=[SQUARE], size=(12, 12))
    assert score_detections([square], [found], NAMES, outlines=True).metrics["AP"] == pytest.approx(1)


def test_fewer_boxes_count_where_asked():
    truth = Truth([(0, 0, 10, 10)], [0])
    found = Detected([(50, 50, 60, 60), (0, 0, 10, 10)], [0.9, 0.5], [0, 0])
    assert score_detections([truth], [found], NAMES, most=1).metrics["AP50"] == 0


def test_nothing_found_is_zero_nothing_there_is_unknown(capsys):
    truth = Truth([(0, 0, 10, 10)], [0])
    scores = score_detections([truth], [Detected([], [], [])], NAMES)
    assert scores.metrics["AP"] == 0 and "AP_large" not in scores.metrics
    assert scores.per_class["dog"] == {"AP": None, "AP50": None, "objects": 0}
    assert score_detections([Truth([], [])], [Detected([], [], [])], NAMES).metrics == {}
    assert capsys.readouterr().out == ""


def test_class_numbers_without_a_name_and_lists_of_other_length_are_refused():
    truth = Truth([(0, 0, 10, 10)], [0])
    with pytest.raises(ConfigError, match=r"the detector has class number 7, but there are 3 names \(cat, dog, emu\)"):
        score_detections([truth], [Detected([(0, 0, 1, 1)], [0.5], [7])], NAMES)
    with pytest.raises(ConfigError, match="detections of 0 images for 1 images"):
        score_detections([truth], [], NAMES)


def test_the_truth_of_an_item_knows_crowds_and_what_was_looked_for():
    boxes = Boxes(((0, 0, 1, 1),), (1,), ignored=(True,), facts={"absent": [2]})
    item = Item("a", __file__, target=boxes)
    truth = truth_of(item)
    assert truth.ignored == (True,) and truth.absent == [2] and truth.labels == (1,)
    assert truth_of(item.with_(target=replace(boxes, facts=None))).absent is None


def random_scene(images=12, seed=0):
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(images):
        boxes = [[8.0 * x, 8.0 * y, 8.0 * x + 16, 8.0 * y + 16] for x, y in rng.integers(0, 6, size=(4, 2))]
        labels = rng.integers(0, 2, size=4).tolist()  # emu is never there
        moved = (np.array(boxes) + rng.choice([0, 2, 20], size=(4, 1))).tolist()
        truths.append(Truth(boxes, labels, ignored=[False, False, False, rng.random() < 0.3]))
        found.append(Detected(moved, rng.random(4).tolist(), rng.integers(0, 2, size=4).tolist()))
    return truths, found


def test_a_draw_has_the_average_precision_of_the_drawn_images(monkeypatch):
    from vladapt.core.metrics.significance import drawn_weights
    from vladapt.domains.open_vocab.scores import intervals

    truths, found = random_scene()
    monkeypatch.setattr(intervals, "SAMPLES", 1)
    monkeypatch.setattr(
        intervals, "_around", lambda found, units: {name: [float(of[1])] * 2 for name, of in found.items()}
    )
    (weight,) = drawn_weights(12, None, 1)
    rows = np.repeat(np.arange(12), weight[0].long())
    options = {"novel": ("dog",), "most": 100, "frequency": "rcf"}
    got = score_detections(truths, found, NAMES, intervals=True, **options).intervals
    wanted = score_detections([truths[n] for n in rows], [found[n] for n in rows], NAMES, **options).metrics
    for name, value in wanted.items():
        assert got[name] == pytest.approx([value] * 2, abs=1e-9), name


def test_all_scores_of_a_detector_have_an_interval():
    """Objects of two sizes; there are no large ones."""
    truths, found = random_scene()
    for n in (0, 1):
        grown = [[4.0 * side for side in box] for box in truths[n].boxes]
        truths[n], found[n] = replace(truths[n], boxes=grown), replace(found[n], boxes=grown)
    scores = score_detections(truths, found, NAMES, intervals=True, frequency="rcf")
    assert set(scores.metrics) >= {"AP", "AR", "AP_small", "AP_medium", "AP_rare"} and "AP_large" not in scores.metrics
    assert set(scores.intervals) == set(scores.metrics)
    for name, (low, high) in scores.intervals.items():
        assert low < scores.metrics[name] < high, name


def test_objects_of_one_image_alone_have_no_interval():
    """Whatever is drawn, their score is the same."""
    truths, found = random_scene()
    boxes = [[4.0 * side for side in box] for box in truths[0].boxes]
    truths[0], found[0] = replace(truths[0], boxes=boxes), replace(found[0], boxes=boxes)
    scores = score_detections(truths, found, NAMES, intervals=True)
    assert 0 < scores.metrics["AP_medium"] < 1 and "AP_medium" not in scores.intervals and "AP" in scores.intervals


def test_average_precision_has_intervals_that_draw_groups():
    truths, found = random_scene(6)
    truths, found = [each for each in truths for _ in range(5)], [each for each in found for _ in range(5)]
    groups = [str(n // 5) for n in range(30)]
    alone, grouped = (score_detections(truths, found, NAMES, intervals=True, groups=each) for each in (None, groups))
    for name in ("AP", "AP50"):
        (low, high), (lowest, highest) = alone.intervals[name], grouped.intervals[name]
        assert low < alone.metrics[name] < high
        assert highest - lowest > 1.4 * (high - low)
    assert score_detections(truths, found, NAMES).intervals == {}
    nothing = [replace(each, scores=[], boxes=[], labels=[]) for each in found]
    low, high = score_detections(truths, nothing, NAMES, intervals=True).intervals["AP"]
    assert low == 0 and high > 0.05  # 30 images without a find do not prove that there is none
