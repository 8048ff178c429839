"""Hours of video in an index: found by the second, by words, by a picture, a clip or another frame."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from PIL import Image

import vladapt
from vladapt.core.commands.tables import hits_table
from vladapt.core.engine.index import index
from vladapt.core.engine.search import search
from vladapt.core.errors import ConfigError, DataError
from vladapt.core.recipes.resolve import resolve
from vladapt.core.runs import PictureSection
from vladapt.core.tasks.classification.explaining import SamplePictures
from vladapt.domains.video import Video

pytest.importorskip("av", reason="extra video is not installed")
pytest.importorskip("faiss", reason="extra retrieval is not installed")


@pytest.fixture(scope="module")
def films(make_video, tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    for number in range(2):
        make_video(folder / f"film{number}.mp4", frames=85, first=40 * number)  # 3.4 s at 25 frames/s
    return folder


@pytest.fixture(scope="module")
def indexed(films, small_clip_spec, tmp_path_factory):
    """An index of two frames per second, in stretches of three."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vladapt.domains.video.long_videos.AT_ONCE", 3)
        patch.setenv("VLADAPT_CACHE", str(tmp_path_factory.mktemp("cache")))
        recipe = resolve(flags={"domain": "video", "backbone": small_clip_spec, "data": {"fps": 2}})
        return index(recipe, tmp_path_factory.mktemp("made") / "index", images=[films])


def test_each_instant_is_an_entry_and_is_found_again(indexed, films, numbers_in, tmp_path):
    assert indexed.entries == 14 and not indexed.skipped, "3.4 seconds, twice"
    page = tmp_path / "found.html"
    found = search(indexed.index, image=f"{films}/film1.mp4#t=2.5", top=3, html=page)
    entry = found.hits[0].entry
    assert found.hits[0].score == pytest.approx(1, abs=1e-5) and entry.id == f"{films}/film1.mp4#t=2.5,3"
    times = {"start": "0:00:02.5", "end": "0:00:03", "time": "2.5"}
    assert entry.about == {"video": f"{films}/film1.mp4", **times}
    shown = Video().read_images([films / "film1.mp4"]).load(entry.item())
    assert numbers_in(shown) == [(40 + 62) % 128], "frame 62 is shown at 2.5 seconds"
    assert "start 0:00:02.5, end 0:00:03" in page.read_text(encoding="utf-8")


def test_words_pictures_clips_and_times_ask_for_frames(indexed, films, tmp_path):
    named = f"{films}/film0.mp4#t=1"
    frame = search(indexed.index, image=named, top=1).hits[0].entry.item()
    Image.fromarray(np.asarray(Video().read_images([films / "film0.mp4"]).load(frame))[0]).save(tmp_path / "frame.png")
    by_picture = search(indexed.index, image=tmp_path / "frame.png", top=1).hits[0]
    assert by_picture.score == pytest.approx(1, abs=1e-5) and by_picture.entry.id == f"{named},1.5"
    assert len(search(indexed.index, image=films / "film0.mp4", top=2).hits) == 2
    columns = [column.header for column in hits_table(search(indexed.index, "white stripes").hits).columns]
    assert columns == ["rank", "score", "id", "start", "end", "time"], "the video stands in the id already"
    late = search(indexed.index, "white stripes", top=20, since="2", where={"video": f"{films}/film0.mp4"}).hits
    assert sorted(float(hit.entry.about["time"]) for hit in late) == [2.0, 2.5, 3.0]
    with pytest.raises(DataError, match=r"9 to 9\.001 seconds lie outside its 3\.40 seconds"):
        search(indexed.index, image=f"{films}/film0.mp4#t=9")


def test_whole_clips_may_be_entries_and_unreadable_videos_are_listed(films, small_clip_spec, tmp_path):
    for name in ("film0.mp4", "film1.mp4"):
        (tmp_path / "set" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "set" / name).write_bytes((films / name).read_bytes())
    flags = {"domain": "video", "backbone": small_clip_spec}
    whole = resolve(flags={**flags, "data": {"entries": "clips", "frames": 2}})
    assert index(whole, tmp_path / "index", images=[tmp_path / "set"]).entries == 2
    with pytest.raises(ConfigError, match="--crops 3: an index holds whole frames"):
        index(resolve(flags={**flags, "data": {"crops": 3}}), tmp_path / "other", images=[tmp_path / "set"])
    (tmp_path / "set" / "cut.mp4").write_bytes((films / "film0.mp4").read_bytes()[:400])
    data = Video().to_index(Video().read_images([tmp_path / "set"]))
    assert [name for name, _ in data.skipped] == [f"{tmp_path}/set/cut.mp4"] and len(data.items) == 2


def test_clips_in_folders_of_frames_are_shown_on_the_page(small_clip_spec, tmp_path):
    for clip in range(2):
        (tmp_path / "set" / f"clip{clip}").mkdir(parents=True)
        for frame in range(3):
            Image.new("RGB", (32, 32), (90 * clip, 60, 40 * frame)).save(tmp_path / f"set/clip{clip}/{frame}.png")
    made = resolve(flags={"domain": "video", "backbone": small_clip_spec})
    index(made, tmp_path / "index", images=[tmp_path / "set"])
    page = tmp_path / "page.html"
    found = search(tmp_path / "index", image=tmp_path / "set" / "clip1", html=page)
    assert "clip1" in found.hits[0].entry.id
    assert page.read_text(encoding="utf-8").count("<img") >= 2


def test_rows_of_predictions_say_what_was_looked_at(clips, write, small_clip_spec, tmp_path):
    root = clips(*(f"{c}/{n}.mp4" for c in ("run", "sit") for n in range(4)))
    splits = ("train", "train", "test", "test")
    rows = [f"{c}/{n}.mp4,0.1,0.3,{c},{split}" for c in ("run", "sit") for n, split in enumerate(splits)]
    table = write("all.csv", "clip,start,end,label,split\n" + "\n".join(rows) + "\n")
    how = {"domain": "video", "backbone": small_clip_spec, "adapter": "nearest-mean", "out": str(tmp_path / "runs")}
    fitted = vladapt.fit(**how, data={"path": str(table), "frames": 2}, shots=1)
    page = (fitted.run / "report.html").read_text(encoding="utf-8")
    assert "What the samples look like" in page and "The first test sample of each class." in page
    file = tmp_path / "found.csv"
    found = vladapt.predict(fitted.run, [str(root / "run" / "0.mp4")], out=file).rows()
    written = list(csv.DictReader(file.open()))
    assert [found[0][key] for key in ("start", "end")] == [0.0, 0.48]
    assert [written[0][key] for key in ("start", "end")] == ["0", "0.48"]


def test_samples_with_parts_are_shown_as_strips():
    clip = np.zeros((9, 8, 10, 3), np.uint8)
    clip += np.arange(9, dtype=np.uint8)[:, None, None, None]
    picture = PictureSection.strip(clip, most=3)
    assert picture.shape == (8, 32, 3), "three frames with a gap of a pixel between them"
    assert [int(picture[0, at, 0]) for at in (0, 10, 11, 21, 22)] == [0, 255, 4, 255, 8]
    assert PictureSection.strip(clip[:2] / 255).shape == (8, 21, 3) and PictureSection.strip(clip[:1] / 255).max() == 0
    pictures, labels = SamplePictures(lambda row: clip, ("a", "b", "c")), torch.tensor([1, 0, 1])
    sheet = pictures.contact_sheet(labels, ["x", "y", "never"])
    assert [caption for _, caption in sheet.pictures] == ["x", "y"] and pictures.in_parts
    assert SamplePictures(lambda row: clip[0], ()).contact_sheet(labels, ["x", "y"]) is None
    assert SamplePictures(None).of(2) == (None, "test image 3")
