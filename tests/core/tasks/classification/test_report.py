"""report.html says the numbers, loads nothing, and holds whatever it is given."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from html_page import Page
from PIL import Image

from vladapt.core.contracts.judgement import Findings, Scores
from vladapt.core.contracts.run_info import RunInfo
from vladapt.core.errors import DataError
from vladapt.core.judgements.baselines import compared
from vladapt.core.judgements.calibration import Calibrated
from vladapt.core.metrics import classification_metrics, multilabel_metrics
from vladapt.core.registry import judgement_class
from vladapt.core.runs.run_sections import render_report
from vladapt.core.tasks.classification.report import ClassificationResults, classification_report
from vladapt.core.tasks.classification.task import Classification


def info(names, **changes):
    return {
        "created": "2025-11-24T15:42:10+01:00",
        "domain": "medical",
        "task": "classification",
        "adapter": "tip-adapter",
        "adapter_options": {"preset": None, "alpha": 1.17},
        "backbone": {"spec": "embedded", "fingerprint": "0123456789abcdef0123", "licence": "Apache-2.0"},
        "data": {
            "name": "blood cells",
            "path": "/data/cells",
            "kind": "labels",
            "licence": "CC-BY-4.0",
            "counts": {split: dict.fromkeys(names, 17) for split in ("train", "val", "test")},
        },
        "templates": ["a smear of {}."],
        "shots": 16,
        "seed": 3,
        "fit": {"chosen": {"beta": 5.5}, "chosen_on": "val (20 images)", "val_score": 0.9},
        "splits": {"support": ["x"] * 48, "val": ["y"] * 20},
        "notes": ["Synthetic data: drawn, not photographed."],
        "versions": {"torch": "2.9.9"},
        **changes,
    }


def one_label(
    names=("lymphocyte", "monocyte", "basophil"), n=120, *, zero_shot=True, gain=3.0, before_gain=0.0, **changes
):
    generator = torch.Generator().manual_seed(0)
    classes = len(names)
    labels = torch.arange(n) % classes
    truth = torch.nn.functional.one_hot(labels, classes)
    before = torch.randn(n, classes, generator=generator) + (before_gain or 0.0) * truth
    after = torch.randn(n, classes, generator=generator) + gain * truth
    before = after if before_gain is None else before
    metrics = {
        "zero_shot": classification_metrics(before, labels, classes) if zero_shot else None,
        "adapted": classification_metrics(after, labels, classes),
        "test_images": n,
    }
    metrics |= compared(Scores(labels, before if zero_shot else None, after, metrics), names).to_json()
    given = {
        "info": info(names),
        "class_names": list(names),
        "labels": labels,
        "zero_shot_logits": before if zero_shot else None,
        "adapted_logits": after,
        "metrics": metrics,
        "ids": [f"cell-{i}.png" for i in range(n)],
        "thumbnails": lambda i: np.full((40, 60, 3), i % 256, np.uint8),
    }
    made = {**given, **changes}
    return ClassificationResults(**{**made, "info": RunInfo.from_json(made["info"])})


def several_labels(**changes):
    generator = torch.Generator().manual_seed(1)
    names = ["opacity", "effusion", "hernia"]
    labels = (torch.rand(120, 3, generator=generator) < 0.4).float()
    before = torch.randn(120, 3, generator=generator)
    after = torch.randn(120, 3, generator=generator) + 2 * labels - 1
    labels[::7, 0] = float("nan")
    labels[:, 2] = 0
    metrics = {
        "zero_shot": multilabel_metrics(before, labels, names),
        "adapted": multilabel_metrics(after, labels, names),
        "test_images": 120,
    }
    metrics |= compared(Scores(labels, before, after, metrics), names).to_json()
    given = {
        "info": info(names),
        "class_names": names,
        "labels": labels,
        "zero_shot_logits": before,
        "adapted_logits": after,
        "metrics": metrics,
    }
    made = {**given, **changes}
    return ClassificationResults(**{**made, "info": RunInfo.from_json(made["info"])})


def html_of(given: ClassificationResults, folder: str = "runs/example") -> str:
    """The page, with what the judgements of classification find in the metrics, and of how sure the model is."""
    findings = Findings.of_metrics({name: judgement_class(name) for name in Classification.judgements}, given.metrics)
    scores = Scores(given.labels, given.zero_shot_logits, given.adapted_logits, given.metrics)
    findings["calibration"] = Calibrated(given.metrics.get("thresholds"), given.calibration, scores=scores)
    return render_report(classification_report(replace(given, findings=findings), folder))


def page(given: ClassificationResults) -> Page:
    return Page(html_of(given))


def test_it_says_the_scores_with_their_intervals():
    given = one_label()
    text = page(given).text
    for side in ("zero_shot", "adapted"):
        assert f"{100 * given.metrics[side]['accuracy']:.1f}%" in text
        low, high = given.metrics["intervals"][side]
        assert f"{100 * low:.1f}% to {100 * high:.1f}%" in text
        for score in ("macro_f1", "auroc", "ece"):
            assert f"{given.metrics[side][score]:.3f}" in text
    for baseline in given.metrics["baselines"].values():
        assert f"{100 * baseline['difference']:+.1f} points (95 % interval" in text


def test_a_method_that_read_the_test_images_together_says_so():
    names = ("lymphocyte", "monocyte", "basophil")
    for transductive, words in ((False, "that it never saw"), (True, "that it saw without their labels")):
        page = html_of(one_label(names, info=info(names, transductive=transductive)))
        assert words in page


def test_it_says_what_was_adapted_on_what_and_how_to_use_it():
    text = page(one_label()).text
    for words in (
        "tip-adapter on blood cells",
        "medical · classification",
        "up to 16 per class",
        "48 in all",
        "alpha = 1.17",
        "beta = 5.5",
        "val (20 images)",
        "0123456789abcdef",
        "CC-BY-4.0",
        "Apache-2.0",
        "a smear of {}.",
        "Synthetic data: drawn",
        "vladapt predict runs/example image.png",
        'vladapt.load_run("runs/example")',
        "torch 2.9.9",
        "51",  # 3 classes of 17 images per split
    ):
        assert words in text
    assert "preset" not in text  # an option left alone says nothing


@pytest.mark.parametrize("given", [one_label(), several_labels()], ids=["one label", "several labels"])
def test_it_loads_nothing_and_runs_nothing(given):
    html = html_of(given)
    assert "http:" not in html and "https:" not in html and "url(" not in html and "@import" not in html
    for tag, attributes in Page(html).tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        assert not any(name.startswith("on") for name in attributes)
        assert "href" not in attributes and attributes.get("src", "data:").startswith("data:")


def test_every_name_is_escaped():
    nasty = "<b onclick=x>&\"'</script>"
    given = one_label(
        names=(nasty, "plain"),
        n=60,
        gain=0.0,
        ids=[nasty] * 60,
        skipped=[(nasty, nasty)],
        info=info((nasty, "plain"), notes=[nasty], adapter=nasty, domain=nasty, templates=[nasty]),
    )
    html = html_of(given, nasty)
    assert "<b onclick" not in html and "</script>" not in html
    assert page(given).text.count(nasty) >= 8


def test_mistakes_are_shown_as_pictures_with_alternative_text():
    given = one_label(gain=1.0)
    pictures = [attributes for tag, attributes in page(given).tags if tag == "img"]
    assert len(pictures) == 12
    assert all("called" in picture["alt"] for picture in pictures)
    data = base64.b64decode(pictures[0]["src"].split(",", 1)[1])
    assert Image.open(io.BytesIO(data)).size == (60, 40)


def test_a_picture_that_is_gone_is_said_and_other_errors_are_not_hidden():
    def gone(index):
        raise DataError("cell.png: no such file")

    assert "can no longer be read" in page(one_label(thumbnails=gone)).text
    with pytest.raises(ZeroDivisionError):
        page(one_label(thumbnails=lambda index: 1 / 0))
    without = page(one_label(thumbnails=None))
    assert "no pictures" in without.text and not any(tag == "img" for tag, _ in without.tags)


def test_a_perfect_model_has_no_mistakes():
    assert "every test image is classified correctly" in page(one_label(gain=100.0)).text


def test_chance_is_told_from_more_than_chance():
    assert "The gain is more than chance" in page(one_label(gain=3.0)).text
    assert "Could be chance" in page(one_label(gain=3.0, before_gain=2.9)).text
    assert "Not shown to be better than always answering" in page(one_label(gain=0.0)).text
    worse = one_label(gain=1.5, before_gain=4.0)
    assert "made it worse, by more than chance" in page(worse).text
    same = one_label(gain=3.0, before_gain=None)
    assert "No difference" in page(same).text


def test_a_small_test_set_says_so_once():
    small = one_label(n=60)
    assert "fewer than 100: read the intervals" in page(small).text
    notes = ["The test set has 60 images; with fewer than 100 the interval is wide."]
    small = replace(small, info=small.info.with_(notes=notes))
    assert page(small).text.count("fewer than 100") == 1
    assert "fewer than 100" not in page(one_label(n=120)).text


def test_a_zero_shot_at_chance_and_a_model_below_the_commonest_class_are_said():
    assert "Zero-shot cannot be told from guessing among 3 classes (33.3%)" in page(one_label()).text
    assert "the most common class, would be right on" in page(one_label(gain=-2.0)).text
    assert "the most common class, would be right on" not in page(one_label(gain=3.0)).text
    better = one_label()
    better.metrics["intervals"]["zero_shot"] = [0.5, 0.6]
    assert "cannot be told from guessing" not in page(better).text


def test_a_zero_shot_at_chance_is_said_once():
    results = one_label()
    sentence = results.compared.words_at_chance(3)
    assert page(results).text.count("cannot be told from guessing") == 1
    noted = replace(results, info=results.info.with_(notes=[sentence]))
    assert page(noted).text.count("cannot be told from guessing") == 1


def test_without_zero_shot_only_the_adapted_model_is_shown():
    text = page(one_label(zero_shot=False)).text
    assert "The gain is more than chance" in text and "the strongest baseline, always answering" in text
    assert "Zero-shot" not in text
    assert "reaches an accuracy of" in text


def test_the_confusion_matrix_holds_the_counts():
    labels = torch.tensor([0] * 7 + [1] * 5)
    after = torch.eye(2)[[0] * 4 + [1] * 3 + [1] * 5]
    base = one_label(names=("a", "b"), n=12, labels=labels, adapted_logits=after, zero_shot_logits=after)
    cells = re.findall(r"<td[^>]*background:rgb[^>]*>(\d+)<", html_of(base))
    assert cells == ["4", "3", "5"]


def test_several_labels_have_a_table_of_labels_and_no_confusion_matrix():
    given = several_labels()
    text = page(given).text
    assert "Label by label" in text and "Which classes are confused" not in text
    assert f"{given.metrics['adapted']['auroc/opacity']:.3f}" in text
    low, high = given.metrics["intervals"]["adapted"]
    assert f"{low:.3f} to {high:.3f}" in text
    assert "The gain is more than chance" in text
    assert "one of the two values: hernia" in text
    assert re.search(r"0 of 120 – – –", text)  # hernia: never present
    assert "present" in text and "absent" in text
    assert "share of known labels that are right" in text and "share of test images classified" not in text


def test_several_labels_without_intervals_or_zero_shot_still_make_a_page():
    given = several_labels()
    for key in ("intervals", "metric_intervals", "gain_interval", "baselines", "strongest"):
        del given.metrics[key]
    assert "more than chance" not in page(given).text
    given.metrics["zero_shot"] = None
    given.zero_shot_logits = None
    assert "reaches a macro AUROC of" in page(given).text


@pytest.mark.thorough
def test_a_thousand_classes_keep_the_page_small():
    names = tuple(f"species {i}" for i in range(1000))
    html = html_of(one_label(names=names, n=2000))
    assert len(html) < 300_000
    text = Page(html).text
    assert "The test set has 1000 classes; shown are the worst and the best" in text
    assert "The 20 worst" in text and "The 20 best" in text
    assert "These pairs are confused most often" in text
    assert "17,000" in text  # images of a split


def test_up_to_25_classes_have_a_matrix_and_more_have_pairs():
    few = html_of(one_label(names=tuple(f"c{i}" for i in range(25)), n=200))
    more = html_of(one_label(names=tuple(f"c{i}" for i in range(26)), n=200))
    assert 'class="matrix"' in few and 'class="matrix"' not in more


def test_files_left_out_are_listed_with_reasons_and_long_lists_are_cut():
    text = page(one_label(skipped=[("bad.png", "zero bytes"), ("note.txt", "a text file")])).text
    assert "2 files could not be used" in text and "bad.png zero bytes" in text and "note.txt a text file" in text
    many = page(one_label(skipped=[(f"file-{i}.png", "zero bytes") for i in range(500)])).text
    assert "500 files" in many and "file-199.png" in many and "file-200.png" not in many
    assert "Files left out" not in page(one_label()).text


def test_a_run_from_features_says_that_it_takes_no_images():
    given = one_label(info=info(("a", "b", "c"), backbone=None), thumbnails=None)
    text = page(given).text
    assert "made from a file of features" in text and "vladapt predict" not in text
    assert "vladapt eval runs/example" in text


def test_little_known_of_a_run_still_makes_a_page():
    assert "Adapter on a data set" in page(one_label(info={"backbone": None})).text


def test_classes_never_trained_on_have_their_own_scores():
    given = one_label()
    given.metrics["novel"] = {
        "zero_shot": {"accuracy": 0.111, "harmonic_mean": 0.222},
        "adapted": {"accuracy": 0.333, "harmonic_mean": 0.444},
    }
    text = page(given).text
    assert all(number in text for number in ("11.1%", "22.2%", "33.3%", "44.4%"))


def test_overconfidence_is_said_in_words():
    sure = one_label(gain=1.0)
    sure.adapted_logits = sure.adapted_logits * 20
    assert "overconfident" in page(sure).text
    shy = one_label(gain=6.0)
    shy.adapted_logits = shy.adapted_logits / 10
    assert "underconfident" in page(shy).text
