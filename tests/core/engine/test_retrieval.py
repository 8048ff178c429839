"""Retrieval of pairs and of a domain's captions: each image once, in the towers' own mode, before and after."""

from __future__ import annotations

import io
import json
import re

import numpy as np
import pytest
import torch
from forked import run_ranks
from rich.console import Console

from vladapt import Captions, DataError, DomainData, FeatureStore, Item
from vladapt.core.data.pairs.sample import sample_pairs
from vladapt.core.errors import ConfigError
from vladapt.core.metrics import exact_interval
from vladapt.core.metrics.retrieval import retrieval_metrics
from vladapt.core.tasks.retrieval.comparison import RetrievalComparison
from vladapt.core.tasks.retrieval.encoding import TEXTS_AT_ONCE
from vladapt.core.tasks.retrieval.scoring import DomainPairs, before_and_after, evaluate_retrieval
from vladapt.core.tasks.retrieval.tables import retrieval_table

SIDES = ("image_to_text", "text_to_image")


@pytest.fixture(scope="module")
def pairs():
    return sample_pairs(60)


@pytest.fixture(scope="module")
def scores(small_clip, pairs):
    return evaluate_retrieval(small_clip, pairs, batch_size=4)


def captioned(count: int = 6, broken: tuple[int, ...] = (), split: str = "test") -> DomainData:
    """Images of one grey each, two captions an image; some cannot be read."""

    def load(item):
        if int(item.id) in broken:
            raise DataError(f"{item.id}: damaged image")
        return np.full((20, 20, 3), 40 * int(item.id) % 256, np.uint8)

    targets = [Captions((f"grey {i}", f"shade {i}")) for i in range(count)]
    items = [Item(str(i), f"/gone/{i}", target=target, split=split) for i, target in enumerate(targets)]
    return DomainData(items, (), load, kind="captions", name="greys")


def test_scores_are_those_of_the_features(small_clip, pairs, scores):
    test = pairs.split("test")
    pixels = torch.stack([small_clip.preprocess()(test.load_image(i)) for i in range(len(test))])
    captions = [(i, text) for i in range(len(test)) for text in test[i].captions]
    with torch.inference_mode():
        images, texts = small_clip.encode_image(pixels), small_clip.encode_text([text for _, text in captions])
    wanted = retrieval_metrics(images, texts, torch.tensor([i for i, _ in captions]))
    for side in SIDES:
        assert scores.metrics[side] == pytest.approx(wanted[side], abs=1e-9)
    assert (scores.metrics["images"], scores.metrics["texts"]) == (6, 24)
    assert scores.ids == tuple(pair.id for pair in test) and scores.skipped == []


def test_intervals_are_exact_for_images_and_of_drawn_images_for_their_texts(scores):
    images, texts = SIDES
    right = round(scores.metrics[images]["r1"] * 6)
    assert scores.metrics["intervals"][images] == pytest.approx(list(exact_interval(right, 6)))
    of_image = torch.arange(24) // 4
    assert scores.metrics["intervals"][texts] == scores.rankings[texts].intervals(of_image)["r1"]
    for side in SIDES:
        for name, (low, high) in scores.metrics["metric_intervals"][side].items():
            assert low <= scores.metrics[side][name] <= high


@pytest.mark.parametrize(("split", "images"), [("val", 6), ("train", 48), (None, 60)])
def test_the_split_says_which_images(small_clip, pairs, split, images):
    assert evaluate_retrieval(small_clip, pairs, split=split).metrics["images"] == images


def test_batches_and_threads_change_nothing(small_clip, pairs, scores):
    assert evaluate_retrieval(small_clip, pairs, batch_size=1, workers=1).metrics == scores.metrics


def test_the_store_gives_the_same_and_runs_no_tower_twice(small_clip, pairs, scores, tmp_path, monkeypatch):
    store = FeatureStore(tmp_path / "store")
    assert evaluate_retrieval(small_clip, pairs, store=store).metrics == scores.metrics

    def never(*args, **kwargs):
        raise AssertionError("the backbone ran")

    monkeypatch.setattr(small_clip, "encode_image", never)
    monkeypatch.setattr(small_clip, "encode_text", never)
    assert evaluate_retrieval(small_clip, pairs, store=FeatureStore(tmp_path / "store")).metrics == scores.metrics


def test_mixed_precision_and_the_transform_reach_the_towers(small_clip, pairs):
    dark = small_clip.preprocess()

    def black(image):
        return dark(np.zeros_like(image))

    plain = evaluate_retrieval(small_clip, pairs, split=None)
    assert evaluate_retrieval(small_clip, pairs, split=None, transform=black).metrics != plain.metrics
    assert evaluate_retrieval(small_clip, pairs, split=None, amp="bf16").metrics != plain.metrics
    with pytest.raises(ConfigError, match="--amp int4"):
        evaluate_retrieval(small_clip, pairs, amp="int4")


def test_towers_are_evaluated_in_eval_mode_and_left_as_they_were(small_clip, pairs, scores):
    modules, tower = list(small_clip.model.modules()), small_clip.model.visual
    tower.training = True
    modes = [module.training for module in modules]
    try:
        seen = []
        handle = tower.register_forward_pre_hook(
            lambda module, inputs: seen.append(
                module.training or torch.is_grad_enabled() or torch.is_inference_mode_enabled()
            )
        )
        assert evaluate_retrieval(small_clip, pairs).metrics == scores.metrics
        handle.remove()
        assert [module.training for module in modules] == modes and seen and not any(seen)
    finally:
        small_clip.model.eval()


def test_equal_captions_have_equal_features_whatever_batch_they_fall_in(small_clip):
    """The same words many batches apart: of 300 images, each finds its caption behind all the others."""
    data = captioned(300)
    data = data.with_items([item.with_(target=Captions(("the same words",))) for item in data.items])
    data.load = lambda item: np.full((20, 20, 3), int(item.id) % 256, np.uint8)
    assert len(data.items) > TEXTS_AT_ONCE
    found = evaluate_retrieval(small_clip, DomainPairs.of(data))
    assert found.rankings["image_to_text"].best.unique().tolist() == [300]


def test_rows_of_one_image_are_one_image(small_clip, pairs, scores):
    twice = pairs.select([*range(60), *range(60)])
    assert evaluate_retrieval(small_clip, twice).metrics == scores.metrics


def test_an_unreadable_image_leaves_with_its_captions(small_clip):
    found = evaluate_retrieval(small_clip, DomainPairs.of(captioned(40, broken=(3,))))
    assert (found.metrics["images"], found.metrics["texts"]) == (39, 78)
    assert found.skipped == [("3", "3: damaged image")] and "3" not in found.ids
    with pytest.raises(DataError):
        evaluate_retrieval(small_clip, DomainPairs.of(captioned(40, broken=(3, 4, 5))))


def test_a_missing_file_is_left_out_with_a_store_too(small_clip, tmp_path):
    found = evaluate_retrieval(
        small_clip, DomainPairs.of(captioned(40, broken=(3,))), store=FeatureStore(tmp_path / "store")
    )
    assert found.metrics["images"] == 39 and [name for name, _ in found.skipped] == ["3"]


def test_a_domains_captions_are_pairs():
    data = captioned(3)
    data.items[0] = data.items[0].with_(split="val", target=Captions(("grey 0", "shade 0"), 2), decode={"frame": 1})
    pairs = DomainPairs.of(data)
    assert (len(pairs), len(pairs.split("val")), pairs.splits) == (3, 1, ("val", "test"))
    pair = pairs[0]
    assert (pair.id, pair.captions, pair.label, pair.split, pair.decode) == (
        *("0", ("grey 0", "shade 0")),
        *(2, "val", {"frame": 1}),
    )
    assert np.array_equal(pairs.load_image(1), data.load(data.items[1]))


def test_what_cannot_be_evaluated_is_refused_in_one_line(small_clip):
    data = captioned(3)
    with pytest.raises(DataError, match="greys: no image has a caption"):
        DomainPairs.of(data.with_items([item.with_(target=None) for item in data.items]))
    with pytest.raises(DataError, match=r"--split val: .* no such pairs; give one of its splits: test"):
        evaluate_retrieval(small_clip, DomainPairs.of(data), split="val")


# Before and after


def shuffled_towers(small_clip):
    """The scores of another model: the images' projection turned round."""
    from vladapt.core.backbones.load import load_backbone

    other = load_backbone(small_clip.spec, device="cpu")
    with torch.no_grad():
        other.model.visual.proj.copy_(other.model.visual.proj.flip(1))
    return other


def test_before_and_after_have_the_shape_of_metrics_json(small_clip, pairs):
    before = evaluate_retrieval(small_clip, pairs, split=None)
    after = evaluate_retrieval(shuffled_towers(small_clip), pairs, split=None)
    metrics = before_and_after(before, after)
    assert json.loads(json.dumps(metrics)) == metrics
    assert (metrics["test_images"], metrics["test_texts"]) == (60, 240)
    for side in SIDES:
        assert metrics["zero_shot"][f"{side}/r1"] == before.metrics[side]["r1"]
        assert metrics["adapted"][f"{side}/map"] == after.metrics[side]["map"]
        gained = int(((before.rankings[side].best > 1) & (after.rankings[side].best == 1)).sum())
        lost = int(((before.rankings[side].best == 1) & (after.rankings[side].best > 1)).sum())
        assert (metrics["mcnemar"][side]["gained"], metrics["mcnemar"][side]["lost"]) == (gained, lost)
        assert metrics["intervals"]["zero_shot"][side] == before.metrics["intervals"][side]
    alone = before_and_after(None, after)
    assert alone["zero_shot"] is None and alone["mcnemar"] is None


def test_scores_of_different_sets_are_not_compared(small_clip, pairs, scores):
    with pytest.raises(DataError, match="different images or texts"):
        before_and_after(evaluate_retrieval(small_clip, pairs, split="val"), scores)


def printed(table) -> str:
    console = Console(file=io.StringIO(), width=160)
    console.print(table)
    return console.file.getvalue()


def test_the_table_shows_both_the_change_and_the_interval(scores):
    metrics = before_and_after(scores, scores)
    metrics["zero_shot"]["text_to_image/r5"], metrics["adapted"]["text_to_image/r5"] = 0.25, 0.5
    metrics["zero_shot"]["image_to_text/mean_rank"], metrics["adapted"]["image_to_text/mean_rank"] = 1234.5, 7.25
    text = printed(retrieval_table(metrics))
    rows = {line.split("  ")[0].strip(): line for line in text.splitlines() if ": " in line}
    assert "25.0%" in rows["text to image: R@5 ↑"] and "+25.0 points" in rows["text to image: R@5 ↑"]
    assert "1,234.5" in rows["image to text: mean rank ↓"] and "−1,227.2" in rows["image to text: mean rank ↓"]
    for name, key in (("R@1", "r1"), ("R@10", "r10"), ("mAP", "map")):
        low, high = metrics["metric_intervals"]["adapted"][f"image_to_text/{key}"]
        assert rows[f"image to text: {name} ↑"].count(f"({100 * low:.0f}–{100 * high:.0f}%)") == 2
    assert "6 images, 24 texts" in text and len(rows) == 12
    recalls = [scores.metrics[side][key] for side in ("image_to_text", "text_to_image") for key in ("r1", "r5", "r10")]
    assert scores.metrics["mean_recall"] == metrics["adapted"]["mean_recall"] == pytest.approx(sum(recalls) / 6)
    assert f"mean recall, both ways ↑  {sum(recalls) / 6:.1%}" in re.sub(r"  +", "  ", text)


def test_without_scores_before_there_is_one_column(scores):
    for metrics in (scores.metrics, before_and_after(None, scores)):
        text = printed(retrieval_table(metrics))
        assert "zero-shot" not in text and "change" not in text and "image to text: R@10" in text
        low, high = scores.metrics["intervals"]["accuracy"]
        named = f"class, named by captions ↑ {scores.metrics['accuracy']:.1%} ({100 * low:.0f}–{100 * high:.0f}%)"
        assert named in re.sub(r"  +", " ", text)


def test_the_verdict_says_whether_it_could_be_chance(scores):
    metrics = before_and_after(scores, scores)
    assert RetrievalComparison.from_json(metrics).sentence.count("the same") == 2
    metrics["mcnemar"] = {
        "image_to_text": {"gained": 20, "lost": 2, "p_value": 0.0001},
        "text_to_image": {"gained": 2, "lost": 3, "p_value": 0.9},
    }
    first, second, _classes = RetrievalComparison.from_json(metrics).sentence.splitlines()
    assert first.startswith("Image to text: 20 images") and "a gain beyond chance" in first
    assert second.startswith("Text to image: 2 texts") and "could be chance" in second
    metrics["mcnemar"]["image_to_text"] = {"gained": 1, "lost": 20, "p_value": 0.0001}
    assert "a LOSS beyond chance" in RetrievalComparison.from_json(metrics).sentence
    assert RetrievalComparison.from_json(before_and_after(None, scores)).sentence == ""


# Two processes

CODE = """
import json
from vladapt.core.backbones.load import load_backbone
from vladapt.core.data.pairs.sample import sample_pairs
from vladapt.core.tasks.retrieval.comparison import RetrievalComparison
from vladapt.core.tasks.retrieval.scoring import evaluate_retrieval
from vladapt.core.runtime.distributed import start_from_environment, stop
start_from_environment()
tower = load_backbone({spec!r}, device="cpu")
ran = []
encode = tower.encode_image
tower.encode_image = lambda pixels, normalize=True: ran.append(len(pixels)) or encode(pixels, normalize)
scores = evaluate_retrieval(tower, sample_pairs(60), split="train", batch_size=4)
print(json.dumps([sum(ran), dict(scores.metrics)]))
stop()
"""


def test_two_ranks_share_the_work_and_say_the_same(small_clip, small_clip_spec, pairs):
    told = run_ranks(["-c", CODE.format(spec=small_clip_spec)])
    assert [done.returncode for done in told] == [0, 0], told
    ran, metrics = zip(*(json.loads(done.stdout) for done in told))
    assert ran == (24, 24) and metrics[0] == metrics[1]
    alone = evaluate_retrieval(small_clip, pairs, split="train", batch_size=4).metrics
    for side in SIDES:
        assert metrics[0][side] == pytest.approx(alone[side], abs=1e-9)


# Real images


@pytest.mark.thorough
def test_captions_of_real_photographs_are_found_by_the_default_backbone(data_dir, tmp_path):
    pytest.importorskip("efficientnet_lite_pytorch", reason="extra embedded is not installed")
    from vladapt import load_backbone
    from vladapt.core.data.files import loader
    from vladapt.core.data.images import IMAGE

    folder = data_dir / "detection_seg" / "coco_val128"
    if not (folder / "captions.json").is_file():
        pytest.skip("no coco_val128 here")
    listed = json.loads((folder / "captions.json").read_text())
    captions: dict[int, list[str]] = {}
    for row in listed["annotations"]:
        captions.setdefault(row["image_id"], []).append(row["caption"])
    items = [
        Item(row["file_name"], folder / row["file_name"], target=Captions(tuple(captions[row["id"]])), split="test")
        for row in listed["images"]
    ]
    data = DomainData(items, (), loader((IMAGE,)), kind="captions", name="coco_val128")
    found = evaluate_retrieval(load_backbone("embedded", device="cpu"), DomainPairs.of(data)).metrics
    assert found["images"] == 77 and found["texts"] == 386
    assert found["text_to_image"]["r1"] > 0.35 and found["text_to_image"]["r10"] > 0.8
    assert found["image_to_text"]["r1"] > 0.3


def test_pairs_with_classes_also_say_how_often_the_class_is_named(small_clip, pairs, scores):
    assert scores.metrics["accuracy"] == pytest.approx(float(scores.right.float().mean()))
    compared = before_and_after(scores, scores)
    assert compared["adapted"]["accuracy"] == compared["zero_shot"]["accuracy"] == scores.metrics["accuracy"]
    assert compared["accuracy_mcnemar"] == {"gained": 0, "lost": 0, "p_value": 1.0}
    assert "Classes: 0 images are named correctly" in RetrievalComparison.from_json(compared).sentence
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(retrieval_table(compared))
    assert "class, named by captions" in console.export_text()
    assert evaluate_retrieval(small_clip, DomainPairs.of(captioned())).right is None


def test_images_of_one_group_are_drawn_and_exchanged_together(small_clip):
    """Ten copies of each of four images, as ten pictures of each of four patients."""
    alone, data = captioned(4), captioned(40)
    items = [
        item.with_(group=f"patient {n % 4}", id=str(n % 4 + 4 * n), target=alone.items[n % 4].target)
        for n, item in enumerate(data.items)
    ]
    grouped = evaluate_retrieval(small_clip, DomainPairs.of(data.with_items(items)))
    apart = evaluate_retrieval(small_clip, DomainPairs.of(data.with_items([item.with_(group=None) for item in items])))
    assert grouped.metrics["groups"] == 4 and "groups" not in apart.metrics
    for side in SIDES:
        assert grouped.units[side].unique().tolist() == [0, 1, 2, 3]
        (low, high), (lowest, highest) = (of.metrics["metric_intervals"][side]["r10"] for of in (apart, grouped))
        assert highest - lowest >= high - low
    both = before_and_after(
        evaluate_retrieval(shuffled_towers(small_clip), DomainPairs.of(data.with_items(items))), grouped
    )
    assert both["test_groups"] == 4
    assert {test["exchanged"] for test in both["mcnemar"].values()} == {"groups"}
    assert all(test["p_value"] >= 2 / 2**4 for test in both["mcnemar"].values())
