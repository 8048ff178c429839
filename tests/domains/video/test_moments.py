"""Moments: windows and their scores, sentences with times as sets keep them, a fit and what its run finds."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import vladapt
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.metrics import share_interval
from vladapt.core.registry import task_class
from vladapt.core.runs.folder import Run
from vladapt.domains.video import Video
from vladapt.domains.video.drawn_clips import draw_clip
from vladapt.domains.video.drawn_moments import RATE, drawn_moments, load_drawn, shown_in
from vladapt.domains.video.long_videos import INSTANTS, clock_time, plain_seconds, stretches_of, whole_video
from vladapt.domains.video.moments.reading import MomentQuery, queries_of
from vladapt.domains.video.moments.scoring import Found, MomentScores, _guessed, _judged, _reached
from vladapt.domains.video.moments.windows import Windows, in_seconds, lengths_of, span_overlaps
from vladapt.testing import task_checks

pytest.importorskip("av", reason="extra video is not installed")


# windows --------------------------------------------------------------------------------------------------------------


@settings(max_examples=25)
@given(st.integers(1, 60), st.sampled_from([0.5, 1.0, 3.0]), st.sampled_from([0.1, 0.25, 1.0]))
def test_windows_cover_a_video_and_stay_in_it(frames, fps, stride):
    windows = Windows((2.0, 7.5), stride)
    places = windows.places(frames, fps)
    assert len(set(map(tuple, places.tolist()))) == len(places)
    assert (places[:, 0] >= 0).all() and (places[:, 1] <= frames).all() and (places[:, 0] < places[:, 1]).all()
    assert {size for first, after in places.tolist() for size in [after - first]} == {
        min(frames, max(1, round(length * fps))) for length in windows.lengths
    }
    assert int(places[:, 1].max()) == frames and int(places[:, 0].min()) == 0


def test_a_window_is_scored_by_its_frames_less_those_around_it():
    similarity = torch.tensor([[0.0, 0.0, 3.0, 5.0, 1.0, 0.0]])
    places = torch.tensor([[2, 4], [2, 6], [0, 6], [3, 4]])
    assert Windows((2.0,), contrast=0.0).scores(similarity, places)[0].tolist() == pytest.approx([4, 9 / 4, 1.5, 5])
    around = [(0.0 + 1.0) / 2, 0.0, 1.5, (3.0 + 1.0) / 2]  # of the whole video its own mean
    expected = [4 - around[0], 9 / 4 - around[1], 0.0, 5 - around[3]]
    assert Windows((2.0,)).scores(similarity, places)[0].tolist() == pytest.approx(expected)
    half = Windows((2.0,), contrast=0.5).scores(similarity, places)[0]
    assert half.tolist() == pytest.approx([4 - 0.25, 9 / 4, 0.75, 5 - 1.0])


def test_windows_that_overlap_with_a_better_one_are_left_out():
    spans = torch.tensor([[0.0, 10], [1, 11], [5, 15], [20, 30]])
    scores = torch.tensor([1.0, 3, 2, 0])
    assert Windows((10.0,), nms=0.5).best(scores, spans, 5).tolist() == [1, 2, 3], "0-10 and 1-11 share 9 of 11"
    assert Windows((10.0,), nms=0.4).best(scores, spans, 5).tolist() == [1, 3], "5-15 and 1-11 share 6 of 14"
    assert Windows((10.0,), nms=0.9).best(scores, spans, 2).tolist() == [1, 2]
    assert span_overlaps(spans[:2], torch.tensor([[0.0, 5]]))[:, 0].tolist() == pytest.approx([0.5, 4 / 11])


def test_lengths_follow_the_moments_that_train_and_times_end_with_the_video():
    assert lengths_of([float(n) for n in range(1, 12)]) == (2.0, 4.0, 6.0, 8.0, 10.0)
    assert lengths_of([3.0, 3.0]) == (3.0,)
    assert in_seconds(torch.tensor([[2, 4], [5, 6]]), 2.0, 2.6).tolist() == [[1.0, 2.0], [2.5, pytest.approx(2.6)]]
    assert [plain_seconds(each) for each in (0.0, 65.25, 123456.5, 1 / 3)] == ["0", "65.25", "123456.5", "0.333"]
    assert [clock_time(each) for each in (0, 65, 3909.25, 59.999)] == ["0:00:00", "0:01:05", "1:05:09.25", "0:01:00"]


# scores ---------------------------------------------------------------------------------------------------------------


def test_recalls_count_the_best_of_several_moments():
    spans = torch.tensor([[0.0, 10], [20, 30]])
    judged = _judged(_reached(spans, MomentQuery(0, "", ((100.0, 110.0), (0.0, 6.0)), ""))[None])
    assert judged["mIoU"] == pytest.approx(0.6) and judged["recall1_iou_0.5"] == 1 and judged["recall1_iou_0.7"] == 0
    later = _judged(_reached(spans, MomentQuery(0, "", ((21.0, 30.0),), ""))[None])
    assert (later["recall1_iou_0.3"], later["recall5_iou_0.7"], later["mIoU"]) == (0, 1, 0)


def test_guessing_takes_the_same_windows_at_random():
    query = MomentQuery(0, "", ((4.0, 8.0),), "")
    windows = Windows((4.0,), stride=1.0)
    found = Found(query, torch.zeros(0, 2), torch.zeros(0), torch.zeros(40), 40.0)  # ten windows, one of them right
    guessed = _guessed(found, windows, 1.0, 500, torch.Generator().manual_seed(0))
    assert guessed["recall1_iou_0.7"] == pytest.approx(0.1, abs=0.05)
    assert guessed["recall5_iou_0.7"] == pytest.approx(0.5, abs=0.08)


def test_intervals_count_videos():
    found = [Found(MomentQuery(v, "", ((0.0, 1.0),), ""), *[torch.zeros(1, 2)] * 3, 1.0) for v in (0, 0, 0, 4, 4, 7)]
    values = {"mIoU": torch.tensor([1.0, 1, 1, 0, 0, 0.5], dtype=torch.float64)}
    scores = MomentScores(found, [], values, values)
    assert scores.unit.tolist() == [0, 0, 0, 1, 1, 2]
    assert scores.intervals() == {"mIoU": share_interval(values["mIoU"], torch.tensor([0, 0, 0, 1, 1, 2]))}


# reading --------------------------------------------------------------------------------------------------------------


def test_published_forms_and_tables_give_the_same_moments(clips, write):
    clips("v1.mp4", "v2.mp4")
    charades = write("a/charades_sta_test.txt", "v1 0.0 0.2##a dog\nv2 0.1 0.4##a cat sits\n")
    highlights = [
        {"qid": 1, "query": "a dog", "duration": 1, "vid": "v1", "relevant_windows": [[0, 0.2], [0.3, 0.4]]},
        {"qid": 2, "query": "a cat sits", "duration": 1, "vid": "v2", "relevant_windows": [[0.1, 0.4]]},
        {"qid": 3, "query": "unknown", "duration": 1, "vid": "v2"},
    ]
    highlight = write("b/highlight_val_release.jsonl", "\n".join(map(json.dumps, highlights)))
    table = write("c/mine.csv", "video,start,end,sentence\nv1.mp4,0,0.2,a dog\nv2.mp4,0.1,0.4,a cat sits\n")
    activity = {id_: {"duration": 1, "timestamps": [t], "sentences": [s]}
                for id_, t, s in (("v1", [0, 0.2], "a dog"), ("v2", [0.1, 0.4], "a cat sits"))}  # fmt: skip
    captions = write("d/val_1.json", activity)
    root = str(charades.parent.parent)
    read = {p: Video().read(p, "moments", root=root) for p in (charades, highlight, table, captions)}
    plain = {(i.source.name, i.decode["start"], i.decode["end"], i.captions()) for i in read[charades].items}
    assert plain == {("v1.mp4", 0.0, 0.2, ("a dog",)), ("v2.mp4", 0.1, 0.4, ("a cat sits",))}
    for path in (table, captions):
        assert {(i.source.name, i.decode["start"], i.decode["end"], i.captions()) for i in read[path].items} == plain
    assert {item.split for item in read[charades].items} == {"test"} and len(read[highlight].items) == 3
    videos, queries = queries_of(read[highlight].items)
    assert [(q.text, q.spans) for q in queries] == [("a dog", ((0.0, 0.2), (0.3, 0.4))), ("a cat sits", ((0.1, 0.4),))]
    assert [video.source.name for video in videos] == ["v1.mp4", "v2.mp4"] and "start" not in videos[0].decode


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("charades_sta_test.txt", "v1 0 0.2##a\nv1 0.2 a\n", "line 2: .* is not of the form 'VIDEO start end##"),
        ("charades_sta_test.txt", "v1 3 2##a\n", "line 1: begins at 3 seconds and ends at 2; correct the times"),
        ("m.jsonl", '{"vid": "v1", "query": "a", "relevant_windows": [3]}', r"windows are '\[3\]'; give \[\[start"),
    ],
)
def test_bad_lines_are_named(clips, write, name, content, message):
    clips("v1.mp4")
    with pytest.raises(DataError, match=message):
        Video().read(write(name, content), "moments")


def test_sentences_without_times_or_outside_the_video_are_refused(clips, write, small_clip_spec, tmp_path):
    clips("v1.mp4")

    def fit(content):
        data = write("m.csv", content)
        return vladapt.fit(domain="video", task="moments", data=str(data), backbone=small_clip_spec, out=str(tmp_path))

    with pytest.raises(DataError, match=r"v1\.mp4 and all other sentences are without start and end"):
        fit("clip,sentence\nv1.mp4,a dog\n")
    with pytest.raises(ConfigError):
        Video().read(write("m.csv", "clip,start,end,sentence\nv1.mp4,0,0.2,a cat\n"), "moments", crops=3)
    with pytest.raises(DataError, match=r"3 to 9 seconds lie outside its 0\.48 seconds; correct the times"):
        fit("clip,start,end,sentence\nv1.mp4,3,9,a dog\nv1.mp4,4,9,a fox\nv1.mp4,0,0.2,a cat\n")


# frames of long videos ------------------------------------------------------------------------------------------------


def test_frames_at_even_instants_are_those_shown_then(make_video, numbers_in, tmp_path):
    path = make_video(tmp_path / "a.mp4", 60)  # 2.4 s at 25 frames/s
    data = Video().read_images([path])
    video = whole_video(data.items[0])
    parts = stretches_of(video, 2.4, 5.0, at_once=5)
    assert [part.decode[INSTANTS] for part in parts] == [5, 5, 2]
    shown = [number for part in parts for number in numbers_in(data.load(part))]
    assert shown == list(range(0, 60, 5))
    slow = stretches_of(video, 2.4, 50.0)[0]
    assert numbers_in(data.load(slow))[:6] == [0, 0, 1, 1, 2, 2], "repeated where the video is slower"


def test_drawn_videos_show_what_their_sentences_say():
    data = drawn_moments()
    groups = {}
    for item in data.items:
        groups.setdefault(item.group, []).append(item)
    assert len(data.items) == 300 and {len(of) for of in groups.values()} == {6}
    assert {len({i.split for i in of}) for of in groups.values()} == {1}
    first, second = groups["video-000"][:2]
    assert first.decode["end"] == second.decode["start"] and first.decode["start"] == 0
    whole = whole_video(first)
    frames = load_drawn(stretches_of(whole, whole.decode["length"], 1.0)[0])
    clip = shown_in(0)[0]
    drawn = draw_clip(clip.motion, clip.number, RATE * clip.seconds)[::RATE]
    assert len(frames) == whole.decode["length"] and np.array_equal(frames[: clip.seconds], drawn)
    assert first.captions() == (clip.sentence,) and first.decode["end"] == clip.seconds


# a fit and its run ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def films(make_video, tmp_path_factory):
    """Four films of 3 s with two sentences each, and their table."""
    folder = tmp_path_factory.mktemp("films")
    lines = ["clip,start,end,sentence,split"]
    for number in range(4):
        make_video(folder / f"f{number}.mp4", frames=75, first=number)
        split = ("train", "train", "val", "test")[number]
        lines += [f"f{number}.mp4,{at},{at + 1},words {number} {at},{split}" for at in (0, 1.5)]
    (folder / "films.csv").write_text("\n".join(lines))
    return folder


def test_the_contract_of_tasks(films):
    recipe = {"data": {"path": str(films / "films.csv"), "frames": 2, "fps": 2}, "windows": (1.0,)}
    for _, check in task_checks(task_class("moments"), Video(), images=[films / "f0.mp4"], **recipe):
        check()


def test_a_training_is_scored_before_and_after_and_its_run_finds_times(films, small_clip_spec, tmp_path):
    how = {"domain": "video", "task": "moments", "backbone": small_clip_spec, "out": str(tmp_path / "runs")}
    data = {"path": str(films / "films.csv"), "frames": 2, "fps": 4}
    fitted = vladapt.fit(**how, data=data, adapter={"name": "full", "epochs": 2, "lr": 1e-2, "workers": 0})
    metrics = fitted.metrics
    assert metrics["zero_shot"] and metrics["test_queries"] == 2 and metrics["test_images"] == 1
    page = (fitted.run / "report.html").read_text(encoding="utf-8")
    assert "Similarity of frames and sentence over time" in page and "Guessing" in page
    assert vladapt.evaluate(fitted.run)["adapted"] == metrics["adapted"]
    files = [tmp_path / "found.csv", tmp_path / "found.jsonl"]
    new = [str(films / "f0.mp4"), str(films / "f1.mp4")]
    found = vladapt.predict(fitted.run, new, classes=["words 0 0", "a, b"], top=2, out=files)
    rows = list(csv.DictReader(files[0].open()))
    assert len(rows) == len(found.rows()) == len(files[1].read_text().splitlines()) == 8
    assert [row["sentence"] + row["rank"] for row in rows[:3]] == ["words 0 01", "words 0 02", "a, b1"]
    assert all(0 <= float(row["start"]) < float(row["end"]) <= 3.0 for row in rows)
    with pytest.raises(CapabilityError, match="no sentence to look for; give --classes"):
        vladapt.predict(fitted.run, new)
    with pytest.raises(ConfigError, match="--top 0"):
        vladapt.predict(fitted.run, new, classes=["a"], top=0)


def test_windows_are_those_of_the_options_and_of_the_moments_that_train(films, small_clip_spec, tmp_path):
    how = {"domain": "video", "task": "moments", "backbone": small_clip_spec, "out": str(tmp_path)}
    data = {"path": str(films / "films.csv"), "fps": 4}
    plain = Run.open(vladapt.fit(**how, data=data).run).info["windows"]
    assert plain == {"lengths": [1.0], "stride": 0.25, "contrast": 1.0, "nms": 0.5, "fps": 4.0}
    given = {"windows": (0.5, 2.0), "stride": 1.0, "contrast": 0.0, "nms": 0.1}
    other = Run.open(vladapt.fit(**how, data=data, **given).run).info["windows"]
    assert other == {"lengths": [0.5, 2.0], "stride": 1.0, "contrast": 0.0, "nms": 0.1, "fps": 4.0}
