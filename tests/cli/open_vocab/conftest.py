"""Small detectors and segmentors as configs of a user's, a set of squares, and the command line for a whole module."""

from __future__ import annotations

import contextlib
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"red square": (200, 50, 50), "green square": (50, 180, 50), "blue square": (50, 60, 200)}
SIDE = 48
PROGRESS = re.compile(r"[\w ]+: \d+/\d+ (steps|images|samples), ")
PIPELINES = """
train_pipeline = [
    dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", {truth}),
    dict(type="RandomFlip", prob=0.5), dict(type="Pack{Kind}Inputs")]
test_pipeline = [dict(type="LoadImageFromFile"), dict(type="Pack{Kind}Inputs")]
train_dataloader = dict(
    batch_size=4, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2)
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=3e-3), clip_grad=dict(max_norm=5.0))
"""
HEADER = """
vladapt = dict(domain="open-vocab", task="{task}")
default_scope = "{scope}"
classifier = dict(backbone={spec!r}, classes=["a", "b"], templates="name", temperature=0.2)
vision = dict(type="vladapt.CLIPVisionBackbone", backbone={spec!r}, out_channels=8, num_outs=5)
"""
DETECTOR = """
model = dict(
    type="RetinaNet",
    data_preprocessor=dict(type="DetDataPreprocessor", mean=[127.0] * 3, std=[60.0] * 3, bgr_to_rgb=True,
                           pad_size_divisor=32),
    backbone=vision,
    neck=None,
    bbox_head=dict(
        type="vladapt.TextRetinaHead", classifier=classifier, num_classes=2, in_channels=8, feat_channels=16,
        stacked_convs=1,
        anchor_generator=dict(type="AnchorGenerator", octave_base_scale=4, scales_per_octave=1, ratios=[1.0],
                              strides=[2, 4, 8, 16, 32]),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25), loss_bbox=dict(type="L1Loss")),
    train_cfg=dict(
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0),
        sampler=dict(type="PseudoSampler"), allowed_border=-1, pos_weight=-1, debug=False),
    test_cfg=dict(nms_pre=200, min_bbox_size=0, score_thr=0.0, nms=dict(type="nms", iou_threshold=0.5), max_per_img=9))
"""
SEGMENTOR = """
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SegDataPreProcessor", mean=[127.0] * 3, std=[60.0] * 3, bgr_to_rgb=True, size=(64, 64),
                           seg_pad_val=255, test_cfg=dict(size_divisor=32)),
    backbone=vision,
    decode_head=dict(
        type="vladapt.TextFPNHead", classifier=dict(background="learned", background_class="background", **classifier),
        in_channels=[8] * 4, in_index=[0, 1, 2, 3], feature_strides=[2, 4, 8, 16], channels=8, num_classes=2,
        norm_cfg=dict(type="GN", num_groups=2), loss_decode=dict(type="CrossEntropyLoss", use_sigmoid=False)),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"))
"""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """The one object on stdout, nothing else there."""
        assert self.code == 0 and self.out.count("\n") == 1, self.out + self.err
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one line on stderr."""
        lines = self.err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("vladapt: ") and self.out == "", self.out + self.err
        return lines[0]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder of the module's own to work in, with its own cache."""
    folder = tmp_path_factory.mktemp("user")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("VLADAPT_CACHE", str(folder / "cache"))
        patch.setenv("COLUMNS", "160")
        yield folder


@pytest.fixture(scope="module")
def command(place):
    """command("fit", "--shots", 2) -> Outcome, in the module's folder."""
    from vladapt.cli import main

    def call(*arguments) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setenv("VLADAPT_CACHE", str(place / "cache"))
            patch.chdir(place)
            with pytest.raises(SystemExit) as ended:
                main([str(argument) for argument in arguments])
        return Outcome(ended.value.code, out.getvalue(), without_progress(err.getvalue()))

    return call


@pytest.fixture(scope="module")
def tiny(place, small_clip_spec):
    """tiny("detection" or "segmentation", more="") -> a config file of the user's own."""

    def write(task: str, more: str = "") -> Path:
        kind, truth, model = ("Det", "with_bbox=True", DETECTOR) if task == "detection" else ("Seg", "", SEGMENTOR)
        head = HEADER.format(task=task, scope="mmdet" if kind == "Det" else "mmseg", spec=small_clip_spec)
        pipelines = PIPELINES.format(Kind=kind, truth=truth)
        file = place / f"tiny_{task}{len(more) or ''}.py"
        file.write_text(head + model + pipelines + more)
        return file

    return write


@pytest.fixture(scope="module")
def squares(place):
    """squares(folder name, train, val, test, names=...) -> a COCO set of a square or two an image, with outlines."""

    def make(name: str = "squares", train: int = 12, val: int = 2, test: int = 5, names=tuple(COLOURS)) -> Path:
        folder, number = place / name, 0
        (folder / "images").mkdir(parents=True)
        for split, count in (("train", train), ("val", val), ("test", test)):
            content = {"images": [], "annotations": [], "categories": []}
            content["categories"] = [{"id": n, "name": name} for n, name in enumerate(names, start=1)]
            for _ in range(count):
                number += 1
                pixels, found = draw_squares(number, len(names))
                Image.fromarray(pixels).save(folder / "images" / f"{number:02d}.png")
                content["images"].append({"id": number, "file_name": f"{number:02d}.png"})
                for label, x, y, side in found:
                    outline = [x, y, x + side, y, x + side, y + side, x, y + side]
                    entry = {"id": len(content["annotations"]) + 1, "image_id": number, "category_id": label + 1}
                    entry |= {"bbox": [x, y, side, side], "segmentation": [outline], "iscrowd": 0}
                    content["annotations"].append(entry)
            if count:
                (folder / f"instances_{split}.json").write_text(json.dumps(content))
        return folder

    return make


def without_progress(told: str) -> str:
    """Lines on stderr without those that a slow machine has besides."""
    return "".join(line for line in told.splitlines(keepends=True) if not PROGRESS.match(line))


def draw_squares(number: int, kinds: int) -> tuple[np.ndarray, list[tuple[int, int, int, int]]]:
    """A grey picture with two squares of different colours, left and right."""
    random = np.random.default_rng(number)
    pixels = random.integers(90, 150, (SIDE, SIDE, 3))
    found = []
    for place, label in enumerate((number % kinds, (number + 1) % kinds)):
        side = int(random.integers(12, 20))
        x, y = place * SIDE // 2 + int(random.integers(0, SIDE // 2 - side)), int(random.integers(0, SIDE - side))
        pixels[y : y + side, x : x + side] = list(COLOURS.values())[label] + random.integers(-20, 20, (side, side, 3))
        found.append((label, x, y, side))
    return pixels.clip(0, 255).astype(np.uint8), found
