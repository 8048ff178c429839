"""The video domain: its contract, its sample, its pixels, and clips from files to a run."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import vladapt
from vladapt.core.backbones.preprocessing import Preprocess
from vladapt.core.errors import ConfigError, DataError
from vladapt.domains.video import Video
from vladapt.domains.video.doctor import DoctorOptions, examined, findings
from vladapt.domains.video.drawn_clips import MOTIONS, PAIRS, draw_clip, drawn_clip_pairs, drawn_clips
from vladapt.domains.video.transforms import ClipAugment, EachFrame
from vladapt.testing import domain_checks

pytest.importorskip("av", reason="extra video is not installed")
UNIT = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


class Towers:
    """What `transforms` asks of a backbone."""

    image_size, image_mean, image_std, joint = 16, *UNIT, None

    def preprocess(self, train):
        return Preprocess(16, *UNIT, train=train)


@pytest.fixture
def set_of_clips(clips):
    return clips(*(f"set/{c}/{n}.mp4" for c in ("run", "sit", "walk left") for n in range(4))) / "set"


def test_it_is_imported_without_what_decodes_and_encodes():
    code = (
        "import sys, vladapt.domains.video;"
        "sys.exit(any(m in sys.modules for m in ('torch', 'av', 'albumentations', 'cv2')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_set_of_files_is_read_copied_and_damaged(set_of_clips):
    rules = dict(domain_checks(Video(), task="classification", data=set_of_clips, reading={"frames": 2}))
    for rule in ("an_unreadable_file_is_left_out", "new_images_are_read_without_labels"):
        rules[rule]()


# the sample -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", range(len(PAIRS)))
def test_the_second_clip_of_a_pair_is_the_first_one_backwards(pair):
    for number in (0, 7):
        forward, backward = draw_clip(2 * pair, number), draw_clip(2 * pair + 1, number)
        assert np.array_equal(forward, backward[::-1]) and not np.array_equal(forward, backward)
    assert not np.array_equal(draw_clip(2 * pair, 0), draw_clip(2 * pair, 1))


def test_what_is_drawn_does_what_its_class_says():
    def place(frame, ground):
        """Centre and size of what differs from the ground."""
        rows, columns = np.nonzero(np.abs(frame.astype(int) - ground).sum(axis=-1) > 40)
        return columns.mean(), rows.mean(), len(rows)

    for motion, change in {"moving left": (-1, 0, 0), "moving down": (0, 1, 0), "growing": (0, 0, 1)}.items():
        clip = draw_clip(MOTIONS.index(motion), 3)
        ground = np.broadcast_to(clip[0, :1], clip[0].shape) if motion == "growing" else np.median(clip, axis=0)
        first, last = place(clip[0], ground), place(clip[-1], ground)
        moved = [np.sign(b - a) if abs(b - a) > 8 else 0 for a, b in zip(first, last)]
        assert all(m == c for m, c in zip(moved, change) if c), motion


def test_the_sample_is_split_by_pairs_and_captioned():
    data, pairs = drawn_clips(), drawn_clip_pairs()
    assert len({item.decode["digest"] for item in data.items}) == len(data.items) == 240
    sides = {}
    for item in data.items:
        sides.setdefault(item.group, set()).add(item.split)
    assert all(len(splits) == 1 for splits in sides.values()) and len(sides) == 120
    captions = pairs.items[0].captions()
    assert all("moving left" in text for text in captions) and len(set(captions)) == 3


# pixels ---------------------------------------------------------------------------------------------------------------


def test_one_crop_one_flip_and_one_change_of_colour_are_drawn_for_a_clip():
    frame = np.random.default_rng(0).integers(0, 255, (24, 30, 3), dtype=np.uint8)
    still = np.stack([frame] * 5)
    augment = EachFrame(ClipAugment(16, *UNIT))
    pixels = [augment(still, seed=seed) for seed in range(6)]
    assert pixels[0].shape == (5, 3, 16, 16)
    for one in pixels:
        assert all(torch.equal(one[0], other) for other in one[1:]), "equal frames stay equal"
    assert len({round(float(one.sum()), 3) for one in pixels}) > 1
    assert torch.equal(augment(still, seed=3), augment(still, seed=3))


@pytest.mark.parametrize(
    "option",
    [
        {"train_crop": "multi-scale"},
        {"train_crop": "scale-jitter"},
        {"train_crop": "centre"},
        {"train_flip": False},
        {"train_colours": "strong"},
        {"train_colours": "none"},
        {"train_grey": 1.0},
        {"train_randaugment": True},
    ],
    ids=str,
)
def test_what_training_does_to_a_clip_is_an_option_and_alike_for_all_frames(option, clips):
    domain, folder = Video(), clips(*(f"set/{c}/{n}.mp4" for c in ("run", "sit") for n in range(2))) / "set"
    frame = np.random.default_rng(0).integers(0, 255, (24, 30, 3), dtype=np.uint8)

    def views(**options):
        data = domain.read(folder, "classification", **options)
        transform = domain.of(data).transforms(Towers(), True, "classification")
        return transform.spec, [transform(np.stack([frame] * 3), seed=seed) for seed in range(8)]

    (spec, pixels), (usual_spec, usual) = views(**option), views()
    assert all(torch.equal(one[0], other) for one in pixels for other in one[1:])
    assert any(not torch.equal(*pair) for pair in zip(pixels, usual)) and spec != usual_spec
    assert set(usual_spec) == {"transform", "image_size", "mean", "std", "scale", "flip", "jitter"}, "as stored before"


def view_of(picture, seed=0, **how):
    """(H, W, 3) in 0..1 of a picture, changed as `how` says and in no other way."""
    how = {"crop": "centre", "flip": 0.0, "colours": "none", **how}
    return ClipAugment(16, *UNIT, **how)(picture, seed=seed).permute(1, 2, 0).numpy()


def boxes_of(crop, height, width, count=400):
    """Left, top, columns and rows of what `count` views show of a picture, in whole pixels."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32) / max(height, width)
    for seed in range(count):
        pixels = view_of(np.dstack([columns, rows, rows]), seed, crop=crop) * max(height, width)
        sides = np.array([np.diff(pixels[0, :, 0]).mean(), np.diff(pixels[:, 0, 1]).mean()]) * 16
        yield *np.round(pixels[0, 0, :2] - (sides / 16 - 1) / 2).astype(int), *np.round(sides).astype(int)


def test_multi_scale_crops_lie_at_corners_or_in_the_middle_and_are_at_most_one_scale_apart():
    sides, boxes = [66, 75, 87, 100], set()
    for one, wide in enumerate(sides):
        for high in sides[max(one - 1, 0) : one + 2]:
            x, y = (200 - wide) // 4, (100 - high) // 4
            places = [(0, 0), (4 * x, 0), (0, 4 * y), (4 * x, 4 * y), (2 * x, 2 * y)]
            boxes |= {(left, top, wide, high) for left, top in places}
    assert set(boxes_of("multi-scale", 100, 200)) == boxes


def test_scale_jitter_keeps_squares_of_seven_eighths_of_the_shorter_side_or_more():
    lefts, tops, wide, high = np.array(list(boxes_of("scale-jitter", 160, 240, 200))).T
    assert (wide == high).all() and 140 <= wide.min() < 143 and 157 < wide.max() <= 160
    assert lefts.min() < 10 and lefts.max() > 85 and (lefts + wide).max() <= 240 and (tops + high).max() <= 160


def test_colours_change_as_published_and_go_at_the_asked_probability():
    picture = np.random.default_rng(0).integers(60, 200, (16, 16, 3)).astype(np.uint8)
    same = view_of(picture)
    np.testing.assert_allclose(same, picture / 255, atol=1e-6)
    changed = np.mean([not np.allclose(view_of(picture, s, colours="strong"), same) for s in range(200)])
    grey = np.mean([np.ptp(view_of(picture, s, grey=0.2), axis=2).max() < 1e-6 for s in range(400)])
    assert 0.7 < changed < 0.9 and 0.14 < grey < 0.27
    light, strong = (
        max(abs(view_of(picture, s, colours=colours).mean() / same.mean() - 1) for s in range(200))
        for colours in ("light", "strong")
    )
    assert light < 0.22 < 0.3 < strong < 0.45


def test_an_adapter_cannot_change_a_crop_that_is_given_by_name():
    assert ClipAugment(16, *UNIT).with_crop((0.1, 1.0)).scale == (0.1, 1.0)
    with pytest.raises(ConfigError, match="--train-crop is multi-scale; omit one"):
        ClipAugment(16, *UNIT, crop="multi-scale").with_crop((0.1, 1.0))


def test_crops_of_all_frames_follow_one_another_and_are_parts(clips):
    domain, wide = Video(), np.zeros((2, 16, 40, 3), np.uint8)
    wide[:, :, :13], wide[:, :, 27:] = 100, 200
    folder = clips(*(f"set/{c}/{n}.mp4" for c in ("run", "sit") for n in range(2))) / "set"
    pixels = {}
    for crops in (1, 3, 10):
        data = domain.read(folder, "classification", crops=crops)
        transform = domain.of(data).transforms(Towers(), False, "classification")
        pixels[crops] = transform(wide)
        assert pixels[crops].shape == (2 * crops, 3, 16, 16)
        assert (transform.spec == Towers().preprocess(False).spec) == (crops == 1)
    left, right, middle = pixels[3][::2].mean(dim=(1, 2, 3)).tolist()
    assert 0.25 < left < 0.4 < 0.55 < right and middle == pytest.approx(float(pixels[1][0].mean()))
    assert torch.allclose(pixels[10][2], pixels[10][0].flip(-1)), "each crop, then its mirror image"


def test_a_crop_is_made_of_the_middle_as_far_as_is_asked_for(clips):
    domain, folder = Video(), clips(*(f"set/{c}/{n}.mp4" for c in ("run", "sit") for n in range(2))) / "set"
    framed = np.full((2, 64, 96, 3), 255, np.uint8)
    framed[:, 4:-4, 6:-6] = 0  # 56 of 64, 84 of 96

    def brightest(**options):
        transform = domain.of(domain.read(folder, "classification", **options)).transforms(Towers(), False)
        return float(transform(framed).max()), transform.spec

    (whole, usual), (middle, stated) = brightest(), brightest(centre_share=0.875)
    assert whole > 0.8 and middle == 0.0 and usual == Towers().preprocess(False).spec != stated
    note = "Option centre_share has no effect here: it is for a single crop, in the middle."
    assert note in domain.read(folder, "classification", centre_share=0.875, crops=3).notes
    with pytest.raises(ConfigError, match=r"--centre-share 0\.875: task moments uses whole frames; omit it"):
        domain.read(folder, "moments", centre_share=0.875)


def test_no_clip_is_mirrored_where_names_hold_a_direction(set_of_clips, clips):
    domain = Video()
    of_names = domain.of(domain.read(set_of_clips, "classification"))
    left = np.zeros((4, 24, 24, 3), np.uint8)
    left[:, :, :8] = 255

    def mirrored(domain):
        transform = domain.transforms(Towers(), True, "classification")
        shares = [transform(left, seed=seed) for seed in range(30)]
        return sum(float(p[..., :8].mean()) < float(p[..., 8:].mean()) for p in shares)

    plain = clips(*(f"plain/{c}/{n}.mp4" for c in ("run", "sit") for n in range(2))) / "plain"
    of_others = domain.of(domain.read(plain, "classification"))
    assert mirrored(of_names) == 0
    assert 5 < mirrored(of_others) < 25
    assert not torch.equal(
        *(of_others.transforms(Towers(), train, "")(left[:2] // 2, seed=1) for train in (True, False))
    )


def test_mirror_images_have_the_label_of_what_they_show(clips, write, numbers_in):
    names = ("push left to right", "push right to left", "lift", "turn clockwise", "move left")
    root = clips(*(f"{n}.mp4" for n in range(6)))
    rows = [f"{n}.mp4,{names[n % 5]},{'test' if n == 5 else 'train'}" for n in range(6)]
    path = write("all.csv", "clip,label,split\n" + "\n".join(rows) + "\n")
    data = Video().read(path, "classification", mirror_labels=True, frames=2)
    mirrored = {item.id: data.class_names[item.target.index] for item in data.items if "mirrored" in item.id}
    assert mirrored == {
        "0.mp4 mirrored": "push right to left",
        "1.mp4 mirrored": "push left to right",
        "2.mp4 mirrored": "lift",
    }, "a turn and a lone direction have no class for their mirror image, the test set stays as it is"
    plain, other = (next(i for i in data.items if i.id == id_) for id_ in ("0.mp4", "0.mp4 mirrored"))
    assert (
        np.array_equal(data.load(plain)[:, :, ::-1], data.load(other)) and (plain.split, other.split) == ("train",) * 2
    )
    write("all.csv", "clip,label\n0.mp4,a\n1.mp4,b\n")
    with pytest.raises(DataError, match="--mirror-labels needs clips with one label each"):
        Video().read(root / "all.csv", "classification", mirror_labels=True)


def test_frames_drawn_by_chance_are_others_for_each_seed(make_video, numbers_in, tmp_path):
    from vladapt.domains.video.clips import load_clip

    clip = load_clip(make_video(tmp_path / "a.mp4", 40), {"rule": "segment-random", "frames": 4})
    one, other = (EachFrame(lambda frame, seed: torch.tensor(float(frame.mean())))(clip, seed=s) for s in (1, 2))
    still = EachFrame(lambda frame, seed: torch.tensor(float(frame.mean())))(clip)
    assert not torch.equal(one, other) and torch.equal(still, torch.tensor([float(f.mean()) for f in clip]))


# from files to a run --------------------------------------------------------------------------------------------------


def test_clips_are_fitted_scored_and_predicted(set_of_clips, small_clip_spec, tmp_path, monkeypatch):
    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path / "cache"))
    data = {"path": str(set_of_clips), "frames": 3}
    how = {"domain": "video", "data": data, "backbone": small_clip_spec, "shots": 2, "seed": 1}
    fitted = vladapt.fit(**how, adapter="nearest-mean", out=str(tmp_path / "runs"))
    assert 0 <= fitted.metrics["adapted"]["accuracy"] <= 1
    assert vladapt.evaluate(fitted.run)["adapted"] == fitted.metrics["adapted"]
    rows = vladapt.predict(fitted.run, [str(set_of_clips / "run")]).rows()
    assert len(rows) == 4 and {row["label"] for row in rows} <= {"run", "sit", "walk left"}


def test_the_doctor_says_how_fast_a_video_is_decoded(make_video, tmp_path, monkeypatch):
    monkeypatch.setattr("vladapt.domains.video.doctor.MOST_SECONDS", 0.02)
    assert findings()[0].ok and "h264" in findings()[0].found
    found = examined(DoctorOptions(video=str(make_video(tmp_path / "a.mp4", 30))))
    assert "56 x 32, mpeg4, 30 frames, 1.2 s, 25.00 frames/s" in found[0].found
    assert "1 thread" in found[1].what and "frames/s one after the other" in found[1].found
    assert examined(DoctorOptions()) == []


def test_the_command_line_asks_the_doctor_of_a_video(tmp_path, capsys):
    from vladapt.cli import main

    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(["doctor", "--video", str(tmp_path / "none.mp4")])
    assert ended.value.code == 1 and f"{tmp_path / 'none.mp4'}: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "task", "clips"), [("asl_words", "action-recognition", 12), ("captioned_clips", "retrieval", 14)]
)
def test_real_clips_with_words_and_with_sentences(data_dir, name, task, clips):
    folder = data_dir / "video" / name
    if not folder.is_dir():
        pytest.skip(f"the real data {name} are not there")
    data = Video().read(folder, task, frames=2)
    assert len(data.items) == clips and not data.skipped
    assert len(data.class_names) == (clips if task == "action-recognition" else 0)
    assert all(item.captions() for item in data.items) == (task == "retrieval")
    assert data.load(data.items[0]).shape[0] == 2
