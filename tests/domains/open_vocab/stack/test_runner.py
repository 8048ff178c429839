"""mmengine's Runner on the stack: a detector and a segmentor train, are evaluated, killed, and go on exactly."""

import json
import multiprocessing
import os
import signal

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("mmdet")

import mmdet.utils
import mmseg.utils
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

SIZE, COUNT = 64, 8
NAMES = ("red", "blue")
COLOURS = ((220, 40, 40), (40, 40, 220))
STEPS, SAVED_EVERY, KILLED_AT = 6, 2, 5

SMALL_RESNET = {"type": "ResNet", "depth": 18, "base_channels": 8, "norm_eval": False, "style": "pytorch"}


class Noting(Hook):
    """Writes losses and metrics down, and kills its process at a step."""

    priority = "LOWEST"

    def __init__(self, file, killed_at):
        self.file, self.killed_at = file, killed_at

    def note(self, **what):
        with self.file.open("a") as file:
            file.write(json.dumps(what) + "\n")

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.note(step=runner.iter + 1, loss=outputs["loss"].item())
        if runner.iter + 1 == self.killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def after_val_epoch(self, runner, metrics=None):
        self.note(metrics={name: float(value) for name, value in metrics.items()})


@pytest.fixture(scope="module", autouse=True)
def _imported():
    """Once, not in each process that is forked from here."""
    mmdet.utils.register_all_modules(init_default_scope=False)
    mmseg.utils.register_all_modules(init_default_scope=False)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A folder of images with one red and one blue rectangle, masks (0 ground, 1 red, 2 blue), and COCO boxes."""
    folder, rng = tmp_path_factory.mktemp("drawn"), np.random.default_rng(0)
    for name in ("images", "masks"):
        (folder / name).mkdir()
    coco = {"images": [], "annotations": [], "categories": [{"id": i, "name": name} for i, name in enumerate(NAMES)]}
    for number in range(COUNT):
        image, mask = np.full((SIZE, SIZE, 3), 128, np.uint8), np.zeros((SIZE, SIZE), np.uint8)
        for label, colour in enumerate(COLOURS):
            w, h = (int(side) for side in rng.integers(16, 28, 2))
            x, y = int(rng.integers(0, 32 - w // 2)) + 28 * label, int(rng.integers(0, SIZE - h))
            w = min(w, SIZE - x)
            image[y : y + h, x : x + w], mask[y : y + h, x : x + w] = colour, label + 1
            box = {"id": len(coco["annotations"]) + 1, "image_id": number, "category_id": label, "iscrowd": 0}
            coco["annotations"].append(box | {"bbox": [x, y, w, h], "area": w * h})
        Image.fromarray(image).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")
        coco["images"].append({"id": number, "file_name": f"{number}.png", "width": SIZE, "height": SIZE})
    (folder / "boxes.json").write_text(json.dumps(coco))
    return folder


def schedule(scope, data, test_data, evaluator):
    return {
        "default_scope": scope,
        "train_dataloader": loader(data, {"type": "InfiniteSampler", "shuffle": True}),
        "val_dataloader": loader(test_data, {"type": "DefaultSampler", "shuffle": False}),
        "val_evaluator": evaluator,
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": STEPS, "val_interval": STEPS},
        "val_cfg": {"type": "ValLoop"},
        "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.01, "momentum": 0.9}},
        "param_scheduler": [{"type": "LinearLR", "start_factor": 0.1, "by_epoch": False, "begin": 0, "end": STEPS}],
        "default_hooks": {
            "checkpoint": {"type": "CheckpointHook", "by_epoch": False, "interval": SAVED_EVERY},
            "logger": {"type": "LoggerHook", "interval": 1},
        },
        "randomness": {"seed": 0},
        "log_level": "ERROR",
    }


def loader(dataset, sampler):
    return {"batch_size": 2, "num_workers": 0, "sampler": sampler, "dataset": dataset}


def detector(drawn):
    anchors = {"type": "AnchorGenerator", "octave_base_scale": 4, "scales_per_octave": 1, "ratios": [1.0]}
    model = {
        "type": "RetinaNet",
        "data_preprocessor": {"type": "DetDataPreprocessor", "mean": [128.0] * 3, "std": [64.0] * 3},
        "backbone": SMALL_RESNET | {"out_indices": (2, 3)},
        "neck": {"type": "FPN", "in_channels": [32, 64], "out_channels": 16, "num_outs": 2},
        "bbox_head": {
            "type": "RetinaHead",
            "num_classes": len(NAMES),
            "in_channels": 16,
            "feat_channels": 16,
            "stacked_convs": 1,
            "anchor_generator": anchors | {"strides": [16, 32]},
            "bbox_coder": {"type": "DeltaXYWHBBoxCoder"},
        },
        "train_cfg": {
            "assigner": {"type": "MaxIoUAssigner", "pos_iou_thr": 0.5, "neg_iou_thr": 0.4, "min_pos_iou": 0},
            "sampler": {"type": "PseudoSampler"},
            "allowed_border": -1,
            "pos_weight": -1,
        },
        "test_cfg": {"nms_pre": 100, "score_thr": 0.0, "nms": {"type": "nms", "iou_threshold": 0.5}, "max_per_img": 20},
    }
    read = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations", "with_bbox": True}]
    keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "flip", "flip_direction")
    pack = [{"type": "Resize", "scale": (SIZE, SIZE)}, {"type": "PackDetInputs", "meta_keys": keys}]
    data = {
        "type": "CocoDataset",
        "ann_file": str(drawn / "boxes.json"),
        "data_prefix": {"img": str(drawn / "images")},
        "metainfo": {"classes": NAMES},
    }
    train = data | {"pipeline": [*read, {"type": "RandomFlip", "prob": 0.5}, *pack]}
    test = data | {"pipeline": [*read, *pack], "test_mode": True}
    evaluator = {"type": "CocoMetric", "ann_file": data["ann_file"], "metric": "bbox"}
    return {"model": model} | schedule("mmdet", train, test, evaluator)


def segmentor(drawn):
    model = {
        "type": "EncoderDecoder",
        "data_preprocessor": {"type": "SegDataPreProcessor", "mean": [128.0] * 3, "std": [64.0] * 3, "size": (64, 64)},
        "backbone": SMALL_RESNET | {"out_indices": (0, 1, 2, 3)},
        "decode_head": {
            "type": "FCNHead",
            "in_channels": 8,
            "in_index": 0,
            "channels": 8,
            "num_convs": 1,
            "dropout_ratio": 0.0,
            "num_classes": 1 + len(NAMES),
        },
        "test_cfg": {"mode": "whole"},
    }
    read = [{"type": "LoadImageFromFile"}, {"type": "LoadAnnotations"}]
    data = {
        "type": "BaseSegDataset",
        "img_suffix": ".png",
        "data_prefix": {"img_path": str(drawn / "images"), "seg_map_path": str(drawn / "masks")},
        "metainfo": {"classes": ("ground", *NAMES), "palette": [(0, 0, 0), *COLOURS]},
    }
    train = data | {"pipeline": [*read, {"type": "RandomFlip", "prob": 0.5}, {"type": "PackSegInputs"}]}
    test = data | {"pipeline": [*read, {"type": "PackSegInputs"}], "test_mode": True}
    return {"model": model} | schedule("mmseg", train, test, {"type": "IoUMetric"})


def train(config, folder, killed_at=None):
    """Train in a process of its own, going on from what the folder holds; its exit code, and what it noted."""
    folder.mkdir(exist_ok=True)
    notes = folder / f"notes-{len(list(folder.glob('notes-*')))}.jsonl"
    process = multiprocessing.get_context("fork").Process(target=_train, args=(config, folder, notes, killed_at))
    process.start()
    process.join(120)
    return process.exitcode, [json.loads(line) for line in notes.read_text().splitlines()]


def _train(config, folder, notes, killed_at):
    torch.set_num_threads(1)
    for stream in (1, 2):
        os.dup2(os.open(folder / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream)
    runner = Runner.from_cfg(Config(config | {"work_dir": str(folder), "resume": True, "experiment_name": folder.name}))
    runner.register_hook(Noting(notes, killed_at))
    runner.train()


@pytest.mark.thorough(but=("segmentor",))
@pytest.mark.parametrize(
    ("build", "metric"), [(detector, "coco/bbox_mAP"), (segmentor, "mIoU")], ids=["detector", "segmentor"]
)
def test_training_killed_and_resumed_is_training_unbroken(build, metric, drawn, tmp_path):
    config = build(drawn)
    code, unbroken = train(config, tmp_path / "unbroken")
    assert code == 0, (tmp_path / "unbroken" / "log.txt").read_text()
    *steps, evaluated = unbroken
    assert [step["step"] for step in steps] == list(range(1, STEPS + 1))
    assert 0 <= evaluated["metrics"][metric] <= 100

    code, first = train(config, tmp_path / "broken", killed_at=KILLED_AT)
    assert code == -signal.SIGKILL and first == steps[:KILLED_AT]
    code, second = train(config, tmp_path / "broken")
    assert code == 0, (tmp_path / "broken" / "log.txt").read_text()
    saved = KILLED_AT // SAVED_EVERY * SAVED_EVERY
    assert second == [*steps[saved:], evaluated]
