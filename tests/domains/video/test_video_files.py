"""Video files: which frames are there, and the right ones decoded, whatever the container says of time and place."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from vladapt.core.errors import DataError, LimitError
from vladapt.domains.video import video_files
from vladapt.domains.video.clips import Sampling, load_clip, video_format
from vladapt.domains.video.video_files import index_of, opened_video, read_frames

from .conftest import numbered

av = pytest.importorskip("av", reason="extra video is not installed")
KINDS = {
    "a.mp4": {"codec": "libx264"},
    "open.mkv": {"codec": "libx264", "options": {"bf": "3", "x264-params": "open-gop=1:log-level=none"}},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "8", "deadline": "realtime"}},
    "a.avi": {"codec": "mpeg4"},
    "a.mpg": {"codec": "mpeg2video"},
    "a.ts": {"codec": "libx264"},
    "a.flv": {"codec": "flv"},
    "a.gif": {"codec": "gif", "pixel_format": "rgb8"},
}
WANTED = [39, 0, 7, 7, 20, 21, 13, 38]


@pytest.fixture(scope="module")
def mp4(make_video, tmp_path_factory):
    return make_video(tmp_path_factory.mktemp("video") / "a.mp4", 40, codec="libx264")


@pytest.mark.parametrize("name", KINDS)
def test_the_frames_asked_for_are_those_that_come(make_video, numbers_in, tmp_path, name):
    codec = KINDS[name]["codec"]
    if codec not in av.codecs_available:
        pytest.skip(f"PyAV is built without {codec}")
    path = make_video(tmp_path / name, 40, **KINDS[name])
    index = index_of(path)
    assert len(index) == 40 and index.rate == pytest.approx(25, rel=0.03)
    assert numbers_in(read_frames(path, WANTED)) == WANTED
    assert numbers_in(read_frames(path, WANTED, threads=2)) == WANTED
    assert numbers_in(read_frames(path, [31])) == [31]


def test_frames_are_found_from_the_nearest_key_frame_and_no_more_is_decoded(mp4, monkeypatch):
    decoded, all_of = [], video_files._decoded
    monkeypatch.setattr(video_files, "_decoded", lambda *given: (decoded.append(f.pts) or f for f in all_of(*given)))
    read_frames(mp4, [39])
    assert 0 < len(decoded) <= 12, "the last key frame is at most twelve frames before the end"


def test_times_of_a_variable_rate_are_those_of_the_file(make_video, numbers_in, tmp_path):
    times = np.cumsum([0.5 if k % 10 == 9 else 0.04 for k in range(40)])
    path = make_video(tmp_path / "a.mkv", 40, times=times)
    index = index_of(path)
    np.testing.assert_allclose(index.times, times - times[0], atol=2e-3)
    clip = load_clip(path, {"rule": "fps", "frames": 40, "fps": 2.0})
    shown = [
        int(np.searchsorted(times - times[0], t + 1e-3, side="right")) - 1 for t in np.arange(0, index.times[-1], 0.5)
    ]
    assert numbers_in(clip) == shown


@pytest.mark.parametrize(
    ("degrees", "shape", "red"), [(0, (32, 56), (1, 0)), (90, (56, 32), (1, 1)), (180, (32, 56), (0, 1))]
)
def test_frames_come_upright(make_video, tmp_path, degrees, shape, red):
    frame = read_frames(make_video(tmp_path / "a.mp4", 2, rotation=degrees), [0])[0]
    assert frame.shape == (*shape, 3)
    quarter = [[frame[h // 4 * (2 * i + 1), w // 4 * (2 * j + 1)] for j in (0, 1)] for i in (0, 1) for h, w in [shape]]
    assert quarter[red[0]][red[1]][0] > 150 > 60 > quarter[red[0]][red[1]][1]


def test_odd_sizes_oblong_pixels_and_large_frames(make_video, tmp_path):
    assert read_frames(make_video(tmp_path / "odd.mkv", 2, height=33, width=57, codec="ffv1"), [1]).shape == (
        1,
        33,
        57,
        3,
    )
    path = make_video(tmp_path / "a.mkv", 2)
    assert read_frames(path, [0], short_side=16).shape == (1, 16, 28, 3)
    assert read_frames(path, [0], short_side=64).shape == (1, 32, 56, 3), "smaller frames are not enlarged"
    with pytest.raises(LimitError, match="56 x 32 pixels, the limit is 1000"):
        read_frames(path, [0], max_pixels=1000)
    oblong = tmp_path / "oblong.mp4"
    with av.open(str(oblong), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        stream.codec_context.sample_aspect_ratio = 2
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")))
        container.mux(stream.encode())
    assert read_frames(oblong, [0]).shape == (1, 32, 64, 3)


def test_what_is_no_video_is_one_line(tmp_path):
    sound = tmp_path / "sound.mp4"
    with av.open(str(sound), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(tmp_path / "frameless.mkv"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.start_encoding()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:4,\nsound.mp4\n#EXT-X-ENDLIST\n")
    for name, words in {
        "sound.mp4": "has no video stream, only audio",
        "empty.mp4": "empty file",
        "frameless.mkv": "holds no frame",
        "text.mp4": "not a video, or damaged",
        "list.mp4": "not a video, or damaged",
        "none.mp4": "cannot be read",
    }.items():
        with pytest.raises(DataError, match=words) as raised:
            index_of(tmp_path / name) if name != "none.mp4" else opened_video(tmp_path / name).__enter__()
        assert name in str(raised.value)


LATE = {"a.mkv": "mpeg4", "a.webm": "libvpx", "a.mp4": "mpeg4", "a.wmv": "msmpeg4v3", "a.flv": "flv", "a.ts": "libx264"}
UNCLAIMED = ("a.wmv", "a.ts")
"""Files that do not say how long they were before they were cut."""


@pytest.mark.parametrize("name", LATE)
def test_a_whole_file_whose_first_frame_comes_late_is_read_and_a_cut_one_is_not(make_video, numbers_in, tmp_path, name):
    times = [10 + number / 25 for number in range(75)]
    path = make_video(tmp_path / name, 75, codec=LATE[name], times=times)
    index = index_of(path)
    assert len(index) == 75 and index.times[0] == 0 and index.duration == pytest.approx(3, abs=0.05)
    assert numbers_in(read_frames(path, [0, 40, 74])) == [0, 40, 74]
    cut = tmp_path / f"cut{name[1:]}"
    cut.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    if name not in UNCLAIMED:
        with pytest.raises(DataError, match=r"cut short|not a video, or damaged|no video stream"):
            index_of(cut)


def test_an_avi_that_repeats_frames_is_whole(numbers_in, tmp_path):
    """Of 300 places 250 are empty: the frame before them is shown on."""
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 56, 32, "yuv420p"
        for number, pixels in enumerate(numbered(50)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = 250 * (number > 0) + number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    index = index_of(tmp_path / "a.avi")
    assert len(index) == 50 and index.times[1] == pytest.approx(251 / 25)
    assert numbers_in(read_frames(tmp_path / "a.avi", [0, 1, 49])) == [0, 1, 49]


def add_video(container, frames, rate=25):
    """A stream of frames beside others: what it is encoded to, once the container is complete."""
    stream = container.add_stream("mpeg4", rate=rate)
    stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"

    def written():
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number
            yield from stream.encode(frame)
        yield from stream.encode()

    return written


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_of_several_streams_that_of_most_frames_is_taken(numbers_in, tmp_path, name):
    """The first is a picture of the cover, another a preview."""
    films = [np.stack(list(numbered(count, first=first))) for count, first in ((1, 100), (30, 5), (10, 60))]
    with av.open(str(tmp_path / name), "w") as container:
        for written in [add_video(container, film) for film in films]:
            container.mux(list(written()))
    index = index_of(tmp_path / name)
    assert (len(index), index.stream) == (30, 1)
    assert numbers_in(read_frames(tmp_path / name, [0, 29])) == [5, 34]


@pytest.mark.parametrize("name", ["a.mkv", "a.avi", "a.flv", "a.mp4", "a.ts"])
def test_a_file_that_is_cut_short_is_read_as_far_as_it_goes_or_refused(make_video, numbers_in, tmp_path, name):
    whole = make_video(tmp_path / name, 120, codec="flv" if name.endswith("flv") else "mpeg4").read_bytes()
    cut = tmp_path / f"cut{name[1:]}"
    cut.write_bytes(whole[: len(whole) // 2])
    if name == "a.ts":  # a stream that may begin and end anywhere
        count = len(index_of(cut))
        assert 40 < count < 80 and numbers_in(read_frames(cut, [count // 2])) == [count // 2]
        return
    with pytest.raises(DataError, match=r"cut short|not a video, or damaged|no video stream"):
        index_of(cut)


def test_a_codec_that_is_not_built_in_is_said(make_video, tmp_path):
    path = make_video(tmp_path / "a.mkv", 3, codec="libx264")
    path.write_bytes(path.read_bytes().replace(b"V_MPEG4/ISO/AVC", b"V_MPEG4/ISO/XYZ"))
    with pytest.raises(DataError, match=r"its codec is not built into PyAV; convert it to H.264"):
        index_of(path)


def test_positions_that_are_not_there_are_refused(mp4):
    for positions in ([40], [-1], []):
        with pytest.raises(DataError, match="has frames 0 to 39"):
            read_frames(mp4, positions)


def test_a_stretch_is_looked_at_alone_and_its_times_are_checked(mp4, numbers_in):
    how = {"rule": "uniform", "frames": 4}
    middle = numbers_in(load_clip(mp4, {**how, "start": 0.4, "end": 0.8}))
    assert len(middle) == 4 and min(middle) >= 10 and max(middle) < 20
    assert numbers_in(load_clip(mp4, {"rule": "uniform", "frames": 3, "start": 0.4, "end": 0.41})) == [10] * 3
    for times in ({"start": 5.0, "end": 6.0}, {"start": 0.0, "end": 9.0}, {"start": 1.0, "end": 0.5}):
        with pytest.raises(DataError, match=r"seconds lie outside its 1.60 seconds"):
            load_clip(mp4, {**how, **times})


def test_frames_of_segments_are_drawn_anew_by_the_seed(mp4, numbers_in):
    clip = load_clip(mp4, {"rule": "segment-random", "frames": 4})
    assert numbers_in(clip) == [5, 15, 25, 35], "the centres, where nothing is drawn"
    drawn = [numbers_in(clip.redrawn(seed)) for seed in range(4)]
    assert drawn[0] == numbers_in(clip.redrawn(0)) and len({tuple(one) for one in drawn}) > 1
    assert all(10 * k <= one[k] < 10 * (k + 1) for one in drawn for k in range(4))
    assert load_clip(mp4, {"rule": "uniform", "frames": 4}).redrawn is None


def test_decoded_frames_are_kept_and_no_damaged_copy_is_taken(make_video, numbers_in, tmp_path, monkeypatch):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    path, decoded = make_video(tmp_path / "a.mp4", 20), []
    real = video_files.read_frames
    monkeypatch.setattr(video_files, "read_frames", lambda *a, **k: decoded.append(a) or real(*a, **k))
    how = {"rule": "segment-random", "frames": 4}
    load = video_format(Sampling("segment-random", 4), keep=True).load
    first = load(path, how)
    assert numbers_in(load(path, how)) == numbers_in(first) == [2, 7, 12, 17] and len(decoded) == 1
    assert numbers_in(first.redrawn(5)) == numbers_in(load(path, how).redrawn(5)) and len(decoded) == 2
    (kept,) = [file for file in (tmp_path / "cache").rglob("*.npy") if np.array_equal(np.load(file), first)]
    kept.write_bytes(kept.read_bytes()[:-40])
    assert numbers_in(load(path, how)) == [2, 7, 12, 17] and len(decoded) == 3
    assert numbers_in(load(shutil.copy(path, tmp_path / "copy.mp4"), how)) == [2, 7, 12, 17] and len(decoded) == 3
    make_video(path, 40)
    assert numbers_in(load(path, how)) == [5, 15, 25, 35]
    load_clip(path, how), load_clip(path, how)
    assert len(decoded) == 6, "nothing is kept unless it is asked for"
