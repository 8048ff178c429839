"""Clips and sentences find each other: several sentences per clip, the dual softmax, EgoMCQ's questions."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from io import StringIO

import forked
import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

import vladapt
from vladapt.cli import main
from vladapt.core.engine.index import index
from vladapt.core.engine.search import search
from vladapt.core.errors import CapabilityError, ConfigError, DataError, UnknownNameError
from vladapt.core.features.store import FeatureStore
from vladapt.core.recipes.resolve import resolve
from vladapt.core.registry import load_adapter
from vladapt.core.retrieval import RetrievalIndex
from vladapt.core.tasks.retrieval.multiple_choice import choice_scores
from vladapt.core.tasks.retrieval.task import Retrieval
from vladapt.core.training.resume import ResumeHook
from vladapt.domains.video import Video
from vladapt.domains.video.adapters._pairs import PairTextHead

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


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ({"name": "mean-pool", "loss": "teach-text", "teacher": ["nope"]}, "unknown backbone 'nope'"),
        ({"name": "full", "loss": "teach-text", "teacher": ["nope"]}, "unknown backbone 'nope'"),
        ({"name": "mean-pool", "loss": "clip", "teacher": ["embedded"]}, "has no frozen teacher; omit it"),
        ({"name": "mean-pool", "loss": "egonce"}, "the data has none, give a column 'nouns'"),
        ({"name": "clip4clip", "sim_header": "tightTransf", "loss": "siglip"}, "; use clip"),
    ],
)
def test_what_no_pairs_can_teach_is_refused_before_a_clip_is_read(
    method, words, folder, small_clip_spec, tmp_path, monkeypatch
):
    monkeypatch.setattr("vladapt.core.tasks.retrieval.fitting.scored", lambda *a, **k: pytest.fail("clips were scored"))
    data = {"path": str(folder / "captions.csv"), "frames": 2}
    how = {"domain": "video", "task": "retrieval", "backbone": small_clip_spec, "out": str(tmp_path)}
    with pytest.raises((CapabilityError, ConfigError, UnknownNameError), match=words):
        vladapt.fit(**how, data=data, adapter=method)


@pytest.mark.parametrize("method", ["clip4clip", "clip2video", "action-clip", "action-clip in views", "stan"])
def test_clips_of_more_frames_than_positions_are_refused_before_they_are_encoded(
    method, folder, small_clip_spec, tmp_path, monkeypatch
):
    monkeypatch.setattr(FeatureStore, "get_or_compute", lambda *a, **k: pytest.fail("clips were encoded"))
    task, data, views = "retrieval", folder / "captions.csv", {}
    method, _, in_views = method.partition(" ")
    if method == "action-clip":
        task, data = "classification", tmp_path / "classes"
        views = {"clips": 2, "average_views": "scores"} if in_views else {}
        for number in range(8):
            (data / "ab"[number % 2]).mkdir(parents=True, exist_ok=True)
            shutil.copy(folder / f"{number}.mp4", data / "ab"[number % 2])
    how = {"domain": "video", "task": task, "backbone": small_clip_spec, "out": str(tmp_path)}
    with pytest.raises(CapabilityError, match=r"has positions for .* and a sample has 100; read fewer of each"):
        vladapt.fit(**how, data={"path": str(data), "frames": 100, **views}, adapter=method)


def test_a_run_is_asked_the_questions_of_egomcq(fitted, folder, small_clip):
    asked = vladapt.evaluate(fitted.run, data=str(folder / "egomcq.json"))
    data = Video().read(folder / "egomcq.json", "retrieval", frames=2)
    assert {item.split for item in data.items} == {"test"} and data.questions.name == "EgoMCQ"
    towers = load_adapter(fitted.run / "adapter.safetensors", small_clip).adapted(small_clip)
    transform, right = Video().transforms(towers, False), []
    with torch.no_grad():
        of = {i.id: towers.encode_image(transform(data.load(i)), normalize=False).mean(dim=0) for i in data.items}
        for each in data.questions.asked:
            text = towers.encode_text(list(each.texts), normalize=False)[0]
            near = [float(torch.cosine_similarity(text, of[option], dim=0)) for option in each.images]
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
        captions, scores = tuple(item.captions()[0] for item in data.items), None

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
    with pytest.raises(DataError, match=words):
        Video().read(path, "retrieval")


# heads that learn from pairs ------------------------------------------------------------------------------------------

HEADS = {"clip4clip": {"layers": 1}, "clip2video": {"layers": 1}, "mug": {}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def heads(folder, small_clip_spec, tmp_path_factory, cache):
    """A run of each; clips and sentences go through the towers once for all."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLADAPT_CACHE", str(cache))
        return {
            name: vladapt.fit(
                domain="video",
                task="retrieval",
                data={"path": str(folder / "captions.csv"), "frames": 3},
                adapter={"name": name, "epochs": 2, **options},
                backbone=small_clip_spec,
                seed=1,
                out=str(tmp_path_factory.mktemp("runs")),
                dual_softmax=True,
            )
            for name, options in HEADS.items()
        }


@pytest.fixture
def features(folder, small_clip):
    """Frames of the test clips, and their sentences."""
    data = Video().read(folder / "captions.csv", "retrieval", frames=3)
    transform = Video().transforms(small_clip, False)
    test = [item for item in data.items if item.split == "test"]
    with torch.no_grad():
        parts = torch.stack([small_clip.encode_image(transform(data.load(each)), normalize=False) for each in test])
    return test, parts, torch.ones(parts.shape[:2], dtype=torch.bool)


@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_scored_by_its_own_similarity(name, heads, features, small_clip):
    """All pairs, as the saved head scores them one by one; twice with the dual softmax."""
    done = heads[name]
    adapter, (test, parts, mask) = load_adapter(done.run / "adapter.safetensors", small_clip), features
    texts = [text for item in test for text in item.captions()]
    scores = torch.stack([adapter.pair_scores(small_clip, parts, mask, [text])[:, 0] for text in texts])  # (M, N)
    own = torch.tensor([place for place, item in enumerate(test) for _ in item.captions()])
    rank = (scores >= scores.gather(1, own[:, None]) - 1e-7).sum(dim=1)
    assert done.metrics["adapted"]["text_to_image/mean_rank"] == pytest.approx(float(rank.float().mean()))
    told = done.metrics["sentences"]["adapted"]
    assert "dual_softmax/text_to_image" in told
    dual = scores * (float(adapter.logit_scale) * scores).softmax(dim=0)
    order = (dual > dual.gather(1, own[:, None])).sum(dim=1) + (
        (dual == dual.gather(1, own[:, None])).sum(dim=1) + 1
    ) / 2
    assert told["dual_softmax/text_to_image"]["mean_rank"] == pytest.approx(float(order.mean()), abs=1e-6)
    zero_shot = {key: each.metrics["zero_shot"] for key, each in heads.items()}
    assert zero_shot[name] == zero_shot["mug"]


@pytest.mark.parametrize("name", HEADS)
def test_a_head_answers_the_questions_of_egomcq(name, heads, folder, small_clip, monkeypatch, cache):
    monkeypatch.setenv("VLADAPT_CACHE", str(cache))
    asked = vladapt.evaluate(heads[name].run, data=str(folder / "egomcq.json"))
    data = Video().read(folder / "egomcq.json", "retrieval", frames=3)
    adapter, transform = (
        load_adapter(heads[name].run / "adapter.safetensors", small_clip),
        Video().transforms(small_clip, False),
    )
    right = []
    with torch.no_grad():
        of = {i.id: small_clip.encode_image(transform(data.load(i)), normalize=False)[None] for i in data.items}
        for each in data.questions.asked:
            there = torch.ones(1, 3, dtype=torch.bool)
            near = [
                float(adapter.pair_scores(small_clip, of[option], there, list(each.texts))) for option in each.images
            ]
            right.append(float(near.index(max(near)) == each.answer))
    scores = {"inter": (right[0] + right[2]) / 2, "intra": (right[1] + right[3]) / 2}
    assert asked["multiple_choice"]["adapted"]["scores"] == scores


@pytest.fixture
def indexed(heads, features, tmp_path, monkeypatch, cache):
    """indexed(name): an index of the test clips, whole, by the run of a head as its backbone."""
    pytest.importorskip("faiss", reason="extra retrieval is not installed")
    monkeypatch.setenv("VLADAPT_CACHE", str(cache))

    def make(name):
        recipe = resolve(flags={"domain": "video", "backbone": str(heads[name].run), "data": {"frames": 3}})
        made = index(recipe, tmp_path / name, images=[item.source for item in features[0]])
        assert (made.entries, made.encoded) == (len(features[0]), 0), "their frames were encoded in the fit"
        return made.index

    return make


@pytest.mark.parametrize("name", HEADS)
def test_an_index_of_whole_clips_is_searched_by_the_head(name, heads, indexed, features, small_clip):
    """By its vectors, or, where it looks at both sides, the first K again by its scores."""
    place, (test, parts, mask) = indexed(name), features
    adapter = load_adapter(heads[name].run / "adapter.safetensors", small_clip)
    scores = adapter.pair_scores(small_clip, parts, mask, [SAID[4]])[:, 0]
    best = scores.argsort(descending=True).tolist()
    found = search(place, SAID[4], top=3, candidates=99 if adapter.pairwise else None)
    assert [hit.entry.source for hit in found.hits] == [str(test[row].source) for row in best[:3]]
    assert [hit.score for hit in found.hits] == pytest.approx(scores[best[:3]].tolist(), abs=1e-5)
    shown = search(place, image=test[2].source).hits[0]
    assert shown.entry.source == str(test[2].source) and shown.score == pytest.approx(1.0, abs=1e-5)
    if not adapter.pairwise:
        assert found.reranked is None
        with pytest.raises(ConfigError, match=r"--candidates 5: .* is searched by vectors alone here; omit it"):
            search(place, SAID[4], candidates=5)
        return
    assert (found.reranked.method, found.reranked.candidates) == (name, len(test))
    one = search(place, SAID[4], top=1, candidates=1).hits
    first = RetrievalIndex.open(place).search(small_clip.encode_text([SAID[4]])[0], 1)
    assert [hit.entry for hit in one] == [hit.entry for hit in first], "the first stage is that of the towers"
    with pytest.raises(ConfigError, match="--candidates 0: give 1 or more"):
        search(place, SAID[4], candidates=0)


def test_an_index_of_a_head_is_searched_in_another_process(indexed, tmp_path):
    place = indexed("mug")
    command = ["-m", "vladapt", "search", place, SAID[4], "--top", "2"]
    told = forked.run(command, check=True).stdout
    assert re.search(r"The nearest \d+ in \d+\.\d ms, ranked again by mug in \d+\.\d ms\.", told)
    found = json.loads(forked.run([*command, "--json"], check=True).stdout)
    here = search(place, SAID[4], top=2)
    assert [hit["source"] for hit in found["hits"]] == [hit.entry.source for hit in here.hits]
    assert found["reranked"].keys() == {"method", "candidates", "first_ms", "rerank_ms"}
    next(place.glob("segments/*/parts.counts")).write_bytes(b"\0" * 4)
    with pytest.raises(DataError, match=r"parts\.counts: damaged, not what was written"):
        search(place, SAID[4])


def test_a_head_is_no_backbone_of_other_methods(heads, folder, monkeypatch, cache):
    monkeypatch.setenv("VLADAPT_CACHE", str(cache))
    data = {"path": str(folder / "captions.csv"), "frames": 3}
    with pytest.raises(CapabilityError, match="reads the parts of a sample together, for index, search and eval"):
        vladapt.fit(domain="video", task="retrieval", data=data, adapter="mean-pool", backbone=str(heads["mug"].run))


@pytest.mark.parametrize("name", HEADS)
def test_a_report_names_the_head_that_was_fitted(name, heads):
    page = (heads[name].run / "report.html").read_text()
    assert re.search(rf"<h1[^>]*>{name} on .*, trained on ", page)
    assert f"The method {name} was trained with clip on 3 pairs of clips and texts for 2 epochs." in page


def test_a_stopped_fit_with_towers_prints_the_command_that_continues_it(
    folder, small_clip_spec, tmp_path, monkeypatch, capsys
):
    """A head alone has no checkpoints: the same command starts it again, on stored frames."""
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("vladapt.core.training.tower_settings.SAVE_AT_LEAST", 1)
    flags = ["--domain", "video", "--task", "retrieval", "--data", str(folder / "captions.csv"), "--frames", "2"]
    flags += ["--backbone", small_clip_spec, "--adapter", "mean-pool", "--epochs", "3", "--out", str(tmp_path)]
    for trained, continued in (("true", True), ("false", False)):
        start = ["fit", *flags, "--set", f"adapter.train_towers={trained}"]
        with monkeypatch.context() as patch:
            patch.setattr(ResumeHook, "after_train_iter", stopped_after(2, ResumeHook.after_train_iter))
            patch.setattr(PairTextHead, "_report", interrupt)
            last = ended(start, 130, capsys)
        told, _, command = last.partition("this continues from there: ")
        assert (bool(command), "the same command continues" in told) == (continued, not continued), last
        again = shlex.split(command)[1:] if continued else start
        assert again == [*start, *["--resume"] * continued]
        assert ("Resumed at step 2 of 3" in ended(again, 0, capsys)) is continued


def stopped_after(step, made):
    def after_train_iter(self, runner, *rest, **named):
        made(self, runner, *rest, **named)
        if runner.iter + 1 == step:
            raise KeyboardInterrupt

    return after_train_iter


def interrupt(*_):
    raise KeyboardInterrupt


def ended(words, code, capsys):
    """The last line on stderr of a command that ends with this code; where it is done, all lines."""
    with pytest.raises(SystemExit) as end:
        main(words)
    err = capsys.readouterr().err
    assert end.value.code == code, err
    return err.strip().splitlines()[-1] if code else err


def test_a_run_without_its_adapter_is_one_line(heads, tmp_path):
    shutil.copytree(heads["mug"].run, tmp_path / "run")
    (tmp_path / "run" / "adapter.safetensors").unlink()
    with pytest.raises(DataError, match=r"needs adapter\.safetensors beside it; copy the whole folder of the run"):
        vladapt.load_backbone(str(tmp_path / "run"))
