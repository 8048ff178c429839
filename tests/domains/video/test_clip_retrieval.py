"""Clips and sentences find each other: several sentences per clip, the dual softmax, EgoMCQ's questions."""

from __future__ import annotations

import json
from io import StringIO

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import vladapt
from vladapt.core.errors import DataError
from vladapt.core.registry import load_adapter
from vladapt.core.tasks.retrieval.multiple_choice import choice_scores
from vladapt.core.tasks.retrieval.task import Retrieval
from vladapt.domains.video import Video

pytest.importorskip("av", reason="extra video is not installed")
SAID = ("a bow", "someone claps", "a dive", "one hops", "a kick", "a run")


@pytest.fixture(scope="module")
def folder(clip_bytes, tmp_path_factory):
    """Eight clips, two sentences each, and questions with two of them to choose from."""
    root, rows = tmp_path_factory.mktemp("captions"), ["video,caption,split"]
    for number in range(8):
        (root / f"{number}.mp4").write_bytes(clip_bytes[number % len(clip_bytes)] + b"\0" * number)
        split = "train" if number < 3 else "val" if number < 4 else "test"
        rows += [f"{number}.mp4,{text} {number},{split}" for text in (SAID[number % 6], "this is clip")]
    (root / "captions.csv").write_text("\n".join(rows))
    (root / "egomcq.json").write_text(json.dumps({str(n): question(n, n % 2) for n in range(4)}))
    for number in range(2):
        place = root / "generic" / ("cat", "dog")[number] / "0.png"
        place.parent.mkdir(parents=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 20, 3), np.uint8)).save(place)
    return root


def question(number, answer):
    """Of three quarter seconds of each of two clips; the right one is clip `number`."""
    clips = [{"video_uid": str(n), "clip_start": 0.0, "clip_end": 0.3, "clip_text": SAID[n]} for n in (number, 5)]
    choices = clips if answer == 0 else clips[::-1]
    numbered = {str(at): clip for at, clip in enumerate(choices)}
    return {"query": clips[0], "choices": numbered, "answer": answer, "types": 1 + answer}


@pytest.fixture(scope="module")
def fitted(folder, small_clip_spec, tmp_path_factory):
    """One step of training; the score of it is of no concern."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLADAPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        return vladapt.fit(
            domain="video",
            task="retrieval",
            data={"path": str(folder / "captions.csv"), "frames": 2},
            adapter={"name": "full", "epochs": 1, "lr": 1e-3},
            backbone=small_clip_spec,
            generic=str(folder / "generic"),
            seed=1,
            out=str(tmp_path_factory.mktemp("runs")),
            dual_softmax=True,
        )


def printed(task, metrics):
    console = Console(file=StringIO(), width=200)
    console.print(task.table(metrics))
    return console.file.getvalue()


def test_clips_with_several_sentences_are_scored_both_ways(fitted):
    told = fitted.metrics["sentences"]
    for side in ("zero_shot", "adapted"):
        assert len(told[side]) == 6 and all(set(of) > {"r1", "r5", "r10", "mean_rank"} for of in told[side].values())
        plain, found = told[side]["text_to_image"], fitted.metrics[side]
        assert plain["r1"] == found["text_to_image/r1"] and plain["mean_rank"] == found["text_to_image/mean_rank"]
    page, table = (fitted.run / "report.html").read_text(), printed(fitted.task, fitted.metrics)
    assert "of equal scores the wrong ones come first" in table and "Equal scores share the mean" in table
    assert "image to text, by best sentence, dual softmax, adapted" in table
    assert "Several sentences per clip" in page and "reads all queries before it answers one" in page


def test_teachers_are_named_on_the_command_line(folder, small_clip_spec, tmp_path, monkeypatch):
    """A run needs no teacher where it is used."""
    from vladapt.cli import main

    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    teachers = [small_clip_spec, f"{small_clip_spec.partition('@')[0]}@random:1"]
    flags = ["--data", folder / "captions.csv", "--frames", 2, "--backbone", small_clip_spec, "--epochs", 1]
    flags += ["--adapter", "full", "--loss", "teach-text", "--batch-size", 3, "--generic", folder / "generic"]
    flags += [word for teacher in teachers for word in ("--teacher", teacher)]
    with pytest.raises(SystemExit) as ended:
        main([str(each) for each in ("fit", "--domain", "video", "--task", "retrieval", *flags, "--out", tmp_path)])
    assert ended.value.code == 0
    run = next(tmp_path.glob("*-video-full-*"))
    assert json.loads((run / "run.json").read_text())["adapter_options"]["teacher"] == teachers
    assert vladapt.evaluate(run, data=str(folder / "captions.csv"))["adapted"]


def test_a_run_is_asked_the_questions_of_egomcq(fitted, folder, small_clip):
    asked = vladapt.evaluate(fitted.run, data=str(folder / "egomcq.json"))
    data = Video().read(folder / "egomcq.json", "retrieval", frames=2)
    assert {item.split for item in data.items} == {"test"} and data.questions.name == "EgoMCQ"
    towers = load_adapter(fitted.run / "adapter.safetensors", small_clip).adapted(small_clip)
    transform, right = Video().transforms(towers, False), []
    with torch.no_grad():
        of = {i.id: towers.encode_image(transform(data.load(i)), normalize=False).mean(dim=0) for i in data.items}
        for each in data.questions.asked:
            text = towers.encode_text([each.text], normalize=False)[0]
            near = [float(torch.cosine_similarity(text, of[option], dim=0)) for option in each.options]
            right.append(float(near.index(max(near)) == each.answer))
    scores = {"inter": (right[0] + right[2]) / 2, "intra": (right[1] + right[3]) / 2}
    told = asked["multiple_choice"]["adapted"]
    assert told == {"name": "EgoMCQ", "questions": 4, "left_out": 0, "scores": scores}
    assert "EgoMCQ" in printed(Retrieval(Video()), asked) and "4 questions" in printed(Retrieval(Video()), asked)


def test_views_are_of_classes(folder):
    data = Video().read(folder / "captions.csv", "retrieval", frames=2, clips=2, average_views="scores")
    assert data.part_views is None
    assert "Option average_views has no effect here: it is for clips with classes." in data.notes


def test_questions_with_a_clip_that_is_missing_are_left_out(folder, tmp_path):
    content = {"0": question(0, 0), "1": question(1, 1)}
    content["1"]["choices"]["0"]["video_uid"] = "gone"
    path = folder / "one_gone.json"
    path.write_text(json.dumps(content))
    data = Video().read(path, "retrieval", frames=2)
    assert any("missing: 1, the first gone" in note for note in data.notes)
    ids = tuple(item.id for item in data.items)

    class Features:
        images, texts, image_of_text = torch.eye(len(ids)), torch.eye(len(ids)), torch.arange(len(ids))
        captions = tuple(item.captions()[0] for item in data.items)

    Features.ids = ids
    told = choice_scores(data.questions, Features)
    assert told == {"name": "EgoMCQ", "questions": 1, "left_out": 1, "scores": {"inter": 1.0}}
    Features.captions = ("something else",) * len(ids)
    with pytest.raises(DataError, match="is not a caption of"):
        choice_scores(data.questions, Features)
    Features.ids = ("other",) * len(ids)
    with pytest.raises(DataError, match="lacks a sample, which is missing"):
        choice_scores(data.questions, Features)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"answer": 2}, "question 1: answer 2 of 2"),
        ({"types": 3}, "types 3; types are 1 and 2"),
        ({"choices": {}}, "question 1: answer 0 of 0"),
        ({"query": {}}, "not have the form of the first one"),
    ],
)
def test_questions_of_another_form_are_one_line(folder, changes, words):
    path = folder / "bad.json"
    path.write_text(json.dumps({"0": question(0, 0), "1": {**question(1, 0), **changes}}))
    with pytest.raises(DataError, match=words) as caught:
        Video().read(path, "retrieval")
    assert "\n" not in str(caught.value)
