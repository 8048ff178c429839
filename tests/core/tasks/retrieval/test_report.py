"""The report of a training on pairs says its numbers, shows what captions find, loads nothing, escapes all names."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from html_page import Page

from vladapt.core.contracts.run_info import RunInfo
from vladapt.core.errors import DataError
from vladapt.core.forgetting.score import Forgotten, GenericScore
from vladapt.core.metrics.retrieval import image_text_rankings
from vladapt.core.runs.run_sections import render_report
from vladapt.core.tasks.pretraining.examples import ExampleQuery, Match
from vladapt.core.tasks.retrieval.comparison import RetrievalComparison, RetrievalMetrics
from vladapt.core.tasks.retrieval.report import training_report
from vladapt.core.tasks.retrieval.scoring import RetrievalScores, before_and_after

SIDES = ("image_to_text", "text_to_image")
IMAGES, CAPTIONS = 120, 2


@dataclass
class Greys:
    """Three queries among eight images of one grey each, of which one cannot be read."""

    queries: tuple = (
        ExampleQuery("a dark sheet", 1),
        ExampleQuery("a light sheet", 5),
        ExampleQuery("a lost sheet", 7),
    )
    gallery: tuple = tuple(range(8))

    def load_image(self, row):
        if row == 7:
            raise DataError("grey-7: no such file")
        return np.full((30, 40, 3), 30 * row, np.uint8)


def scores(noise: float) -> RetrievalScores:
    generator = torch.Generator().manual_seed(1)
    features = torch.nn.functional.normalize(torch.randn(IMAGES, 32, generator=generator), dim=-1)
    image_of_text = torch.arange(IMAGES).repeat_interleave(CAPTIONS)
    texts = features[image_of_text] + noise * torch.randn(IMAGES * CAPTIONS, 32, generator=generator)
    rankings = image_text_rankings(features, torch.nn.functional.normalize(texts, dim=-1), image_of_text)
    metrics = {
        **{side: ranking.metrics() for side, ranking in rankings.items()},
        "images": IMAGES,
        "texts": IMAGES * CAPTIONS,
        "intervals": {side: list(ranking.recall_interval()) for side, ranking in rankings.items()},
    }
    return RetrievalScores(RetrievalMetrics.from_json(metrics), rankings, tuple(map(str, range(IMAGES))))


def generic(count: int) -> GenericScore:
    """The first so many of 100 images are right."""
    return GenericScore(count / 100, 0.7, 100, 130, "drawings", torch.arange(100) < count)


def measured(before: float | None = 1.0, after: float = 0.3) -> dict:
    old = None if before is None else scores(before)
    return {**before_and_after(old, scores(after)), **Forgotten.of_scores(generic(60), generic(41)).to_json()}


def info(metrics: dict | None = None, **changes) -> dict:
    return {
        "created": "2025-11-24T15:42:10+01:00",
        "data": {
            "name": "street scenes",
            "path": "/data/streets",
            "licence": "CC-BY-4.0",
            "images": 1400,
            "texts": 2800,
            "splits": {"train": 1120, "val": 160, "test": 120},
        },
        "backbone": {"spec": "embedded", "fingerprint": "0123456789abcdef0123", "licence": "Apache-2.0"},
        "model": "runs/streets/model.safetensors",
        "losses": {"clip": 1.0, "silc": 0.5},
        "loss_options": {"silc": {"temperature": 0.07}},
        "teacher": None,
        "settings": {"epochs": 3, "lr": 1e-5, "lock": ["image"], "amp": None, "checkpointing": False},
        "seed": 3,
        "steps": 1234,
        "best_epoch": 2,
        "trained_parameters": 4_130_000,
        "samples_per_second": 210.4,
        "seconds": 3725.2,
        "verdict": RetrievalComparison.from_json(metrics or measured()).sentence,
        "notes": ["Drawn, not photographed."],
        "skipped": [["bad.png", "zero bytes"]],
        "versions": {"torch": "2.9.9"},
        **changes,
    }


def history(epochs: int = 3) -> list[dict]:
    return [{"epoch": epoch, "loss": 3.0 / epoch, "silc.part": 1.0} for epoch in range(1, epochs + 1)]


def found(ranks=(3, 1)) -> list[list[Match]]:
    """For the first two queries four images; the third one's own cannot be read."""
    made = []
    for query, rank in zip(Greys().queries, ranks):
        rows = [row for row in range(6) if row != query.row][:4]
        if rank <= 4:
            rows[rank - 1] = query.row
        made.append([Match(row, 0.5 - 0.1 * i, row == query.row, rank, row == 0) for i, row in enumerate(rows)])
    return [*made, []]


def page(metrics=None, given=None, rows=(), **shown) -> Page:
    metrics = measured() if metrics is None else metrics
    return Page(html(metrics, given, rows, **shown))


def html(metrics=None, given=None, rows=(), **shown) -> str:
    metrics = measured() if metrics is None else metrics
    given = RunInfo.from_json(info(metrics) if given is None else given)
    compared = RetrievalComparison.from_json(metrics)
    abilities = Forgotten.from_json(metrics).section() if Forgotten.is_in(metrics) else []
    return render_report(training_report("runs/streets", given, compared, rows, **shown, abilities=abilities))


def test_it_says_the_scores_before_and_after_with_intervals_and_change():
    metrics = measured()
    text = page(metrics).text
    for side in SIDES:
        for key, name in (("zero_shot", "Before"), ("adapted", "After")):
            low, high = metrics["intervals"][key][side]
            r1 = f"{100 * metrics[key][f'{side}/r1']:.1f}%"
            assert f"{name} {r1} {100 * low:.1f}% to {100 * high:.1f}%" in text
            assert f"{100 * metrics[key][f'{side}/map']:.1f}%" in text
            assert f"{metrics[key][f'{side}/mean_rank']:.1f}" in text
        gain = 100 * (metrics["adapted"][f"{side}/r5"] - metrics["zero_shot"][f"{side}/r5"])
        assert f"{gain:+.1f}".replace("-", "−") in text
    assert "Of 240 texts about 120 test images" in text and "Guessing 0.8%" in text
    first = [f"{100 * metrics[key]['text_to_image/r1']:.1f}%" for key in ("adapted", "zero_shot")]
    assert f"{first[0]} find their image first, compared with {first[1]} before the training." in text


@pytest.mark.parametrize(
    ("change", "tone"), [((5.0, 2.0), "up"), ((2.0, 5.0), "down"), ((2.0, 2.0), "")], ids=["better", "worse", "same"]
)
def test_a_falling_rank_is_a_gain_and_a_falling_share_a_loss(change, tone):
    metrics = measured(0.6, 0.6)
    metrics["zero_shot"]["text_to_image/mean_rank"], metrics["adapted"]["text_to_image/mean_rank"] = change
    metrics["zero_shot"]["text_to_image/r5"], metrics["adapted"]["text_to_image/r5"] = (0.2 / rank for rank in change)
    block = html(metrics).split("A text finds its image</th>")[1]
    for name in ("R@5", "Mean rank"):
        row = re.search(rf'<tr><th scope="row" class="name">{name} [↑↓]<small>.*?</tr>', block).group()
        assert re.search(r'<td class="num ?(\w*)">[^<]*</td></tr>', row).group(1) == tone


def test_the_sentences_on_both_directions_are_shown():
    metrics = measured()
    lines = RetrievalComparison.from_json(metrics).sentence.splitlines()
    text = page(metrics).text
    assert len(lines) == 2 and all(line in text for line in lines)


def test_forgetting_is_told_with_its_numbers():
    metrics = measured()
    source = html(metrics)
    assert '<div class="verdict bad"><b>It forgot some of what it knew' in source
    assert re.search(r"its name comes first 60.0% \S+ to \S+ 41.0% \S+ to \S+ −19.0 ", Page(source).text)


def test_warnings_and_notes_stand_below_the_verdict():
    rows = [{"epoch": 1, "loss": 1.0}, {"epoch": 2, "loss": 2.0}]
    text = page(measured(99.0), rows=rows).text
    assert "cannot be told from guessing among 120 images" in text and "The loss did not fall" in text
    assert "Notes of the run Drawn, not photographed." in text


def test_curves_are_pictures_with_words_the_parts_apart():
    shown = page(rows=history())
    assert [picture["alt"].split(" over")[0] for picture in shown.of("img")] == ["Loss", "silc: part"]
    assert all(picture["src"].startswith("data:image/png;base64,") for picture in shown.of("img"))
    assert "How the training went Loss mean of each epoch" in shown.text
    assert "Parts of the losses, and the gradient silc: part" in shown.text
    whole = [{"epoch": 1, "loss": 1.0}]
    assert "Parts of the losses" not in page(rows=whole).text


def test_queries_show_what_they_find_before_and_after():
    shown = page(examples=Greys(), before=found((3, 40)), after=found((1, 2)))
    pictures = [attributes["alt"] for attributes in shown.of("img")][-18:]
    assert pictures[0] == "The image of this caption"
    first = [
        "Before, result 1: the same words",
        "Before, result 2",
        "Before, result 3: the right one",
        "Before, result 4",
    ]
    assert pictures[1:5] == first
    assert pictures[5].startswith("After, result 1: the right one")
    assert "“a dark sheet”" in shown.text and "Before rank 3" in shown.text and "After rank 1" in shown.text
    assert "Before rank 40" in shown.text and "searching 8 test images" in shown.text
    assert "0.5000" in shown.text and "0.2000" in shown.text


def test_the_right_image_is_framed_and_its_rank_coloured():
    source = html(examples=Greys(), before=found((3, 1)), after=found((1, 40)))
    assert source.count('<figure class="right">') == 3 and source.count('<figure class="own right">') == 2
    assert re.findall(r'<b class="(\w*)">rank (\d+)', source) == [("", "3"), ("up", "1"), ("", "1"), ("down", "40")]
    assert 'class="same"' in source


def test_a_query_whose_image_is_unreadable_is_counted_and_lost_pictures_say_so():
    text = page(examples=Greys(), before=found(), after=found()).text
    assert "a lost sheet" not in text and "1 more is left out" in text
    lost = found()
    lost[0][1] = Match(7, 0.4, False, 3)
    assert "can no longer be read" in page(examples=Greys(), after=lost).text


def test_examples_of_one_side_alone_or_of_none():
    after_only = page(examples=Greys(), after=found())
    assert "After rank 3" in after_only.text and "Before rank" not in after_only.text
    assert "What captions find" not in page(examples=Greys()).text
    assert "What captions find" not in page().text


def test_it_says_what_was_trained_on_what_and_how_to_use_it():
    text = page(rows=history()).text
    for words in (
        "embedded, trained on street scenes",
        "Trained with clip + 0.5 × silc on 1,120 pairs of images and texts for 3 epochs",
        "0.5 × silc, temperature = 0.07",
        "/data/streets",
        "1,400 images with 2,800 texts",
        "train 1,120 · val 160 · test 120",
        "4.1 million parameters",
        "the weights of epoch 2 were kept",
        "1 h 2 min",
        "210.4 images per second",
        "0123456789abcdef",
        "CC-BY-4.0",
        "Apache-2.0",
        "epochs = 3, lr = 1e-05, lock = image, checkpointing = no",
        "Drawn, not photographed.",
        "1 sample could not be used",
        "bad.png zero bytes",
        "--backbone runs/streets/model.safetensors",
        "vladapt.load_backbone('runs/streets/model.safetensors')",
        "torch 2.9.9",
    ):
        assert words in text


def test_a_run_of_an_adapter_names_its_method_and_can_be_scored_again():
    text = page(given=info(adapter="lora", domain="medical", task="retrieval")).text
    assert "Method lora" in text and "medical · retrieval" in text and "vladapt eval runs/streets" in text
    assert "history.json" not in text
    pretrained = page().text
    assert "vladapt eval" not in pretrained and "Method" not in pretrained
    assert "the values of each epoch in history.json." in pretrained


def test_paths_in_a_spec_stay_out_of_the_title():
    spec = "open_clip:/home/me/small.json@/home/me/small.safetensors"
    text = page(given=info(backbone={"spec": spec})).text
    assert "open_clip:small.json@small.safetensors, trained on" in text and spec in text
    assert "hf:org/model, trained on" in page(given=info(backbone={"spec": "hf:org/model"})).text


def test_it_loads_nothing_and_runs_nothing():
    source = html(examples=Greys(), before=found(), after=found())
    assert "http:" not in source and "https:" not in source and "url(" not in source and "@import" not in source
    for tag, attributes in Page(source).tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        assert not any(name.startswith("on") for name in attributes)
        assert "href" not in attributes and attributes.get("src", "data:").startswith("data:")


def test_every_name_is_escaped():
    nasty = "<b onclick=x>&\"'</script>"
    given = info(
        data={"name": nasty, "path": nasty + "/", "licence": nasty, "splits": {"train": 4}},
        backbone={"spec": nasty, "fingerprint": nasty},
        model=nasty,
        losses={nasty: 2.0},
        loss_options={nasty: {nasty: nasty}},
        settings={nasty: nasty},
        notes=[nasty],
        skipped=[[nasty, nasty]],
        verdict=nasty,
        versions={nasty: nasty},
    )
    examples = Greys(queries=(ExampleQuery(nasty, 1), ExampleQuery(nasty, 5), ExampleQuery(nasty, 7)))
    rows = [{"epoch": 1, "loss": 1.0, nasty: 2.0, f"{nasty}.part": 1.0}]
    source = html(given=given, rows=rows, examples=examples, before=found(), after=found())
    assert "<b onclick" not in source and "</script>" not in source
    assert Page(source).text.count(nasty) >= 15


def test_without_scores_before_only_the_trained_model_is_shown():
    metrics = measured(None)
    text = Page(html(metrics, info(verdict=""))).text
    assert "Nothing to compare with" in text and "compared with" not in text
    retrieval = text.split("What the towers still know")[0]
    assert " Before " not in retrieval and "Change" not in retrieval


@pytest.mark.parametrize("metrics", [{}, {"zero_shot": None, "adapted": None, "mcnemar": None, "generic": None}])
def test_nothing_measured_still_makes_a_page(metrics):
    text = page(metrics, info(verdict="")).text
    assert "The data has no test pairs" in text and "Retrieval in numbers" not in text
    assert "still know" not in text and "How the training went" not in text


def test_little_known_of_a_run_still_makes_a_page():
    text = Page(render_report(training_report("runs/x", RunInfo(), RetrievalComparison(), []))).text
    assert "a backbone, trained on pairs of images and texts" in text and "How to use it" not in text
    assert "What was trained" not in text and "not known; find out before you share" in text
    empty = RunInfo.from_json(dict.fromkeys(info(), None))
    text = Page(render_report(training_report("runs/x", empty, RetrievalComparison(), []))).text
    assert "a backbone, trained on pairs of images and texts" in text


def test_long_lists_of_skipped_samples_are_cut():
    given = info(skipped=[[f"file-{i}.png", "zero bytes"] for i in range(500)])
    text = page(given=given).text
    assert "500 samples" in text and "file-199.png" in text and "file-200.png" not in text
    assert "Samples left out" not in page(given=info(skipped=[])).text
