"""What a model of change computes: compared maps, losses, thresholds, scores, draws of tiles; each in closed form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from vladapt.domains.remote_sensing import RemoteSensing
from vladapt.domains.remote_sensing.changes.baselines import DateDistances, ScoreCounts, cosine_distance, vector_length
from vladapt.domains.remote_sensing.changes.scoring import mask_outcomes, ratios, verdict_on
from vladapt.domains.remote_sensing.changes.training import balancing_weight, change_steps
from vladapt.registry import MODELS

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
from vladapt.domains.remote_sensing.modules.datasets.change_windows import ChangeWindows
from vladapt.domains.remote_sensing.modules.segmentors.change_segmentor import change_dice, weighted_cross_entropy

RGB = {"mean": (0.5,) * 3, "std": (0.25,) * 3}


@MODELS.register_module()
class TwoMapsOfTests(nn.Module):
    """Maps of strides 2 and 4 with 4 and 6 channels."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 2, 2), nn.Conv2d(3, 6, 4, 4)

    def forward(self, pixels):
        return self.fine(pixels), self.coarse(pixels)


@pytest.fixture
def make():
    """make(**options): a segmentor on two small maps, the same weights each time."""

    def built(**options):
        torch.manual_seed(0)
        config = {"type": "vladapt.ChangeSegmentor", "encoder": {"type": "vladapt.TwoMapsOfTests"}, "channels": 8}
        return MODELS.build({**config, "in_channels": (4, 6), **RGB, **options}).eval()

    return built


def pairs(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def test_levels_are_compared_by_their_difference_and_both_dates(make):
    model, inputs = make(), pairs(2, 2, 3, 16, 16)
    seen = {}
    model.decode_head.register_forward_pre_hook(lambda _, given: seen.update(maps=given[0]))
    model(inputs)
    before, after = (model.encoder((inputs[:, n] - 0.5) / 0.25) for n in (0, 1))
    for made, conv, a, b in zip(seen["maps"], model.compared, before, after):
        assert torch.allclose(made, conv(torch.cat([(a - b).abs(), a, b], dim=1)), atol=1e-5)


def test_the_difference_alone_tells_where_dates_differ(make):
    model = make()
    for conv, width in zip(model.compared, (4, 6)):
        conv.weight.data[:, width:] = 0  # what is left is |a - b|
    same = pairs(1, 1, 3, 16, 16).repeat(1, 2, 1, 1, 1)
    other = pairs(1, 1, 3, 16, 16, seed=1).repeat(1, 2, 1, 1, 1)
    assert torch.allclose(model(same), model(other), atol=1e-6)
    changed = same.clone()
    changed[:, 1, :, 4:8, 4:8] = 1 - changed[:, 1, :, 4:8, 4:8]
    assert not torch.allclose(model(changed), model(same), atol=1e-3)


@pytest.mark.parametrize("head", ["fpn", "upernet"])
def test_heads_of_mmsegmentation_stand_on_the_compared_maps(make, head):
    from vladapt.domains.remote_sensing.changes.options import ChangeOptions
    from vladapt.domains.remote_sensing.changes.training import Encoder, _head

    made = _head(ChangeOptions(head=head, head_channels=8), Encoder({}, (4, 6), (2, 4)))
    model = make(**made)
    assert model(pairs(2, 2, 3, 32, 32)).shape == (2, 2, 32, 32) and "decode_head" in made
    loss = model(pairs(2, 2, 3, 32, 32), torch.ones(2, 32, 32, dtype=torch.uint8), mode="loss")
    sum(loss.values()).backward()
    assert model.compared[0].weight.grad.abs().sum() > 0


def test_ignored_pixels_change_no_loss(make):
    scores, labels = pairs(1, 2, 8, 8) * 4, (pairs(1, 8, 8) > 0.6).to(torch.uint8)
    labels[:, 0] = 255
    other = scores.clone()
    other[:, :, 0] = 9 * pairs(1, 2, 8, seed=3)
    weights = torch.tensor([1.0, 3.0])
    for loss in (lambda s: weighted_cross_entropy(s, labels, weights), lambda s: change_dice(s, labels)):
        assert torch.allclose(loss(scores), loss(other))
    plain = F.cross_entropy(scores, labels.long(), weights, ignore_index=255)
    assert torch.allclose(weighted_cross_entropy(scores, labels, weights), plain)
    nothing = torch.full_like(labels, 255)
    assert float(weighted_cross_entropy(scores, nothing, weights)) == 0 and float(change_dice(scores, nothing)) == 0


def test_dice_is_that_of_its_definition():
    labels = torch.zeros(1, 4, 4, dtype=torch.uint8)
    labels[:, :2] = 1
    sure = torch.stack([-50 * (labels * 2.0 - 1), 50 * (labels * 2.0 - 1)], dim=1)
    assert float(change_dice(sure, labels)) == pytest.approx(0, abs=1e-6)
    assert float(change_dice(-sure, labels)) == pytest.approx(1 - 1 / 17, abs=1e-6)
    half = torch.zeros(1, 2, 4, 4)
    assert float(change_dice(half, labels)) == pytest.approx(1 - (2 * 8 * 0.5 + 1) / (16 * 0.5 + 8 + 1))


def test_weights_of_the_loss_change_it(make):
    inputs, labels = pairs(2, 2, 3, 16, 16), (pairs(2, 16, 16) > 0.8).to(torch.uint8)
    losses = [make(**how)(inputs, labels, mode="loss") for how in ({}, {"change_weight": 5.0}, {"dice": 0.0})]
    assert losses[0]["loss_ce"] != losses[1]["loss_ce"] and "loss_dice" not in losses[2]


# thresholds and scores ------------------------------------------------------------------------------------------------


def best_by_hand(scores, labels):
    """The highest F1 of any threshold that is one of the bins."""
    bins, called = np.floor(scores * 2000), []
    for least in (0, *np.unique(bins)):
        called.append(bins >= least)
    told, truth = np.array(called), labels == 1
    return (2 * (told & truth).sum(axis=1) / ((told & (labels != 255)).sum(axis=1) + truth.sum())).max()


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.05, 0.9))
def test_the_threshold_of_the_highest_f1_is_chosen(seed, share):
    random = np.random.default_rng(seed)
    labels = np.where(random.random(60) < share, 1, 0)
    labels[0], labels[-5:] = 1, 255
    scores = np.clip(random.normal(0.4 + 0.2 * (labels == 1), 0.2), 0, 1)
    counts = ScoreCounts()
    counts.add([random.random(30) * 0, scores[:30]], labels[:30])
    counts.add([random.random(30) * 0, scores[30:]], labels[30:])
    chosen = counts.best()
    assert chosen.f1 == pytest.approx(best_by_hand(scores, labels))
    called = (scores >= chosen.value) if chosen.level else np.ones(60, bool)
    hits = (called & (labels == 1)).sum()
    assert 2 * hits / ((called & (labels != 255)).sum() + (labels == 1).sum()) == pytest.approx(chosen.f1)


def test_without_change_the_threshold_is_a_half():
    counts = ScoreCounts()
    counts.add([np.random.default_rng(0).random(9)], np.zeros(9, int))
    assert counts.best().value == 0.5 and np.isnan(counts.best().f1)


def test_distances_are_those_of_their_definitions():
    maps = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0], [-1.0, 0.0]])[..., None, None]  # two pairs of (D,)
    assert cosine_distance(maps, 2).flatten().tolist() == pytest.approx([0.5**0.5, 1.0])
    dates = torch.zeros(1, 2, 2, 1, 1)
    dates[0, 1] = torch.tensor([3.0, 4.0])[:, None, None]
    assert float(vector_length(dates)) == pytest.approx(5 / 6)


def test_scores_are_of_all_pixels_that_are_not_ignored():
    from sklearn.metrics import f1_score, jaccard_score, precision_score, recall_score

    random = np.random.default_rng(0)
    labels, called = random.choice([0, 1, 255], (3, 8, 8)), random.random((3, 8, 8)) < 0.4
    sums = torch.from_numpy(mask_outcomes(called, labels).sum(axis=0)).double()
    there = labels != 255
    truth, told = labels[there], called[there].astype(int)
    scorers = {"f1": f1_score, "IoU": jaccard_score, "precision": precision_score, "recall": recall_score}
    for name, value in ratios(sums).items():
        assert float(value) == pytest.approx(scorers[name](truth, told))


@pytest.mark.parametrize(
    ("gain", "bounds", "tone", "words"),
    [
        (0.1, [0.05, 0.15], "good", "10.0 points above"),
        (-0.1, [-0.2, -0.05], "bad", "use the threshold"),
        (0.02, [-0.03, 0.07], "open", "neither is shown to be better"),
        (0.2, None, "open", "of one place"),
    ],
)
def test_nothing_is_praised_that_chance_explains(gain, bounds, tone, words):
    text, said = verdict_on(gain, bounds, "feature difference", 7)
    assert said == tone and words in text


def test_of_few_places_the_verdict_is_careful_and_the_better_threshold_is_that_of_the_test_split():
    from vladapt.core.contracts import Item
    from vladapt.domains.remote_sensing.changes.scoring import _evaluation

    items = [Item(str(n), None, {}, None, group=str(n)) for n in range(20)]
    hits = torch.tensor([60.0, 50.0, 52.0]).repeat(7)[:20]
    table = torch.stack([torch.stack([hits, 100 - hits, 100 - hits], -1)] + [torch.full((20, 3), 48.0)] * 2, dim=1)
    table[:, 1, 1:] = 60
    thresholds = {name: {"value": 0.5, "f1": f1} for name, f1 in zip(("model", *DateDistances.NAMES), (0.6, 0.9, 0.1))}
    few, many = (_evaluation(table[:n].double(), items[:n], thresholds, []) for n in (3, 20))
    assert "image difference" in few.notes[0] and "neither is shown" in few.notes[0]
    assert few.sections[0].tone == "open" and many.sections[0].tone == "good"
    widths = [high - low for low, high in (few.intervals["f1"], many.intervals["f1"])]
    assert widths[0] > 2 * widths[1]


# draws of tiles -------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiles(tmp_path):
    """Four pairs whose second date is the negative of the first, and whose mask is the first where it is bright."""
    random = np.random.default_rng(0)
    for number in range(4):
        bright = np.kron(random.random((3, 3)) > 0.5, np.ones((4, 4), bool))
        bright[0, 0] = True
        light = np.repeat(np.where(bright, 180, 60).astype(np.uint8)[..., None], 3, axis=2)
        for folder, pixels in (("A", light), ("B", 240 - light), ("label", bright.astype(np.uint8))):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / folder / f"{number}.png")
    data = RemoteSensing().read(tmp_path, "change")
    return data, [{"source": str(i.source), "decode": i.decode, "mask": i.target.to_json()} for i in data.items]


def test_dates_and_mask_turn_alike_and_each_date_has_a_light_of_its_own(tiles):
    drawn = ChangeWindows(tiles[1], (16, 16), draws=12, seed=3)
    views = set()
    for number in range(12):
        made = drawn[number]
        (before, after), labels = made["inputs"][:, :, :12, :12], made["labels"]
        inside = labels[:12, :12] == 1
        for date, sign in ((before, 1), (after, -1)):
            gap = sign * (date[:, inside].mean() - date[:, ~inside].mean())
            assert gap > 0.2, "the mask does not lie where the picture is bright"
        assert (labels[12:] == 255).all() and (labels[:, 12:] == 255).all()
        views.add(inside.numpy().tobytes())
        assert abs(float(before.max() + after.min()) - 240 / 255) > 1e-4
    assert len(views) > 4
    again = ChangeWindows(tiles[1], (16, 16), draws=12, seed=3)[5]
    assert torch.equal(again["inputs"], drawn[5]["inputs"])
    assert not torch.equal(ChangeWindows(tiles[1], (16, 16), draws=12, seed=4)[5]["inputs"], drawn[5]["inputs"])


def test_all_tiles_are_drawn_before_one_comes_again_and_without_augmentation_as_they_are(tiles):
    plain = ChangeWindows(tiles[1], (12, 12), draws=8, augment=False)
    order = [plain.place(number) for number in range(8)]
    assert sorted(order[:4]) == sorted(order[4:]) == [0, 1, 2, 3]
    data = tiles[0]
    shown = torch.from_numpy(data.load(data.items[order[0]])).permute(0, 3, 1, 2) / 255
    assert torch.allclose(plain[0]["inputs"], shown.float())


def test_how_long_and_with_which_weight_is_trained(tiles):
    assert change_steps(None, 8, 8) == 240 and change_steps(None, 400, 8) == 1000 and change_steps(3, 20, 8) == 9
    counts = np.bincount(np.concatenate([tiles[0].load_mask(item).ravel() for item in tiles[0].items]))
    assert balancing_weight(tiles[0].items) == pytest.approx(max(1, (counts[0] / counts[1]) ** 0.5), abs=1e-3)


def test_a_difference_and_its_interval_have_one_sign():
    text, _ = verdict_on(-0.05, (-0.08, 0.01), "image difference", 7)
    assert "5.0 points below" in text and "interval -1.0 to 8.0" in text
