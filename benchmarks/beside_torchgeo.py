"""torchgeo's own trainer of segmentation beside `vladapt fit`, on drawn land of four bands.

    python benchmarks/beside_torchgeo.py [--seeds 5]     # the table of docs/measurements/rasters.md

Both train a ResNet of 18 layers with UPerNet from the same random weights of the encoder, which torchgeo draws: on the
same scenes (`four_bands.py`), bands stretched and normalised by the same numbers, with AdamW of one rate, weight decay,
batch and number of steps, without augmentation; both keep the last weights. The decoder is each library's own, of as
many channels, with that library's start. Prints mIoU of the test scenes, paired by seed, the parameters of each, and
CPU time of a training image: the median of the steps, which read their images from files.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
import warnings
from pathlib import Path

import lightning
import numpy as np
import rasterio
import segmentation_models_pytorch as smp
import torch
from four_bands import BANDS, CLASSES, OFFSET, SCALE, config, fit, write_chips
from mmengine.hooks import Hook
from PIL import Image
from safetensors.torch import load_file
from torch.utils.data import DataLoader, Dataset
from torchgeo.trainers import SemanticSegmentationTask
from torchmetrics.functional import jaccard_index

from vladapt.registry import HOOKS

CHIPS, SIDE, EPOCHS, BATCH, RATE, DECAY = {"train": 64, "val": 8, "test": 32}, 64, 6, 4, 1e-3, 0.01
CHANNELS = 64
"""Of the decoder; torchgeo's default of 256 takes four times as long."""
clock: list[float] = []
"""CPU seconds after each step of the training under way."""


class NarrowTask(SemanticSegmentationTask):
    """torchgeo's task with a decoder of `CHANNELS`; all else is its own."""

    def configure_models(self) -> None:
        facts = {"in_channels": self.hparams["in_channels"], "classes": self.hparams["num_classes"]}
        encoder = self.hparams["backbone"]
        self.model = smp.UPerNet(encoder, encoder_weights=None, decoder_channels=CHANNELS, **facts)


class Scenes(Dataset):
    """Scenes of a split as torchgeo's trainers take them, stretched and normalised by the numbers of a run."""

    def __init__(self, folder: Path, run: dict):
        self.images = sorted((folder / "images").glob("*.tif"))
        low, high = np.reshape(run["recipe"]["data"]["stretch"], (-1, 2)).T[..., None, None]
        self.low, self.range = low, high - low
        given = run["plan"]["model"]["data_preprocessor"]
        self.mean, self.std = (np.array(given[key])[:, None, None] / 255 for key in ("mean", "std"))

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        file = self.images[index]
        with rasterio.open(file) as raster:
            bands = raster.read() * SCALE + OFFSET  # (4, H, W)
        with Image.open(file.parent.parent / "masks" / f"{file.stem}.png") as mask:
            classes = torch.from_numpy(np.array(mask)).long()
        shown = ((bands - self.low) / self.range).clip(0, 1)
        return {"image": torch.from_numpy((shown - self.mean) / self.std).float(), "mask": classes}


class Clock(lightning.Callback):
    def on_train_batch_end(self, *_) -> None:
        clock.append(time.process_time())


@HOOKS.register_module()
class StepClock(Hook):
    """Args: start: file of the encoder's weights that the training has to begin with."""

    def __init__(self, start: str):
        self.start = start

    def before_train(self, runner) -> None:
        encoder = runner.model.backbone.state_dict()
        for name, value in torch.load(self.start, weights_only=True).items():
            torch.testing.assert_close(encoder[name], value, rtol=0, atol=0)

    def after_train_iter(self, *_, **__) -> None:
        clock.append(time.process_time())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    began, rows = time.process_time(), []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, asked.seeds + 1):
            data = write_chips(Path(folder) / f"{seed}", seed, CHIPS, SIDE)
            torch.manual_seed(seed)
            task = NarrowTask("upernet", "resnet18", in_channels=len(BANDS), num_classes=len(CLASSES), lr=RATE)
            torch.save(task.model.encoder.state_dict(), Path(folder) / "start.pth")
            ours, run = fit_ours(data, seed, Path(folder))
            rows.append([fit_torchgeo(task, data, run), ours])
            print(f"seed {seed}: mIoU, CPU seconds, parameters {np.round(rows[-1], 4).tolist()}", flush=True)
    print(table(np.array(rows)))
    print(f"{len(rows)} seeds, {time.process_time() - began:.0f} s of CPU")


def fit_ours(data: Path, seed: int, folder: Path) -> tuple[tuple[float, float, int], dict]:
    """mIoU, CPU seconds of a training image and number of parameters of a run, and what its run.json says."""
    clock.clear()
    run = fit(segmentor(folder / "start.pth"), data, BANDS, seed, folder)
    score = json.loads((run / "metrics.json").read_text())["adapted"]["mIoU"]
    (weights,) = run.glob("*.safetensors")
    learned = [value for name, value in load_file(weights).items() if name.endswith((".weight", ".bias"))]
    return (score, seconds(), sum(value.numel() for value in learned)), json.loads((run / "run.json").read_text())


def segmentor(start: Path) -> dict:
    """A ResNet of 18 layers with UPerNet, as mmsegmentation has them, whose encoder starts from a file."""
    training = config(
        {"type": "ResNet", "depth": 18, "init_cfg": {"type": "Pretrained", "checkpoint": str(start)}},
        {"type": "UPerHead", "in_channels": [64, 128, 256, 512], "in_index": [0, 1, 2, 3], "channels": CHANNELS},
        epochs=EPOCHS,
        batch=BATCH,
        rate=RATE,
        decay=DECAY,
        schedule={"type": "ConstantLR", "factor": 1.0},
    )
    return {**training, "custom_hooks": [{"type": "vladapt.StepClock", "start": str(start)}]}


def fit_torchgeo(task: NarrowTask, data: Path, run: dict) -> tuple[float, float, int]:
    """As `fit_ours`, of torchgeo's task in lightning's Trainer; the rate stays: its patience outlasts training."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = lightning.Trainer(max_epochs=EPOCHS, accelerator="cpu", devices=1, callbacks=[Clock()], **quiet)
    train, val, test = (Scenes(data / split, run) for split in CHIPS)
    clock.clear()
    trainer.fit(task, DataLoader(train, BATCH, shuffle=True), DataLoader(val, BATCH))
    outputs = torch.cat(trainer.predict(task, DataLoader(test, BATCH)))  # (N, classes, H, W)
    truth = torch.stack([each["mask"] for each in test])
    score = jaccard_index(outputs.argmax(1), truth, "multiclass", num_classes=len(CLASSES), average="macro")
    return float(score), seconds(), sum(each.numel() for each in task.model.parameters())


def seconds() -> float:
    """CPU seconds of a training image."""
    assert len(clock) == EPOCHS * CHIPS["train"] // BATCH
    return float(np.median(np.diff(clock))) / BATCH


def table(measured: np.ndarray) -> str:
    """(seeds, torchgeo or vladapt, mIoU, seconds and parameters) as Markdown."""
    lines = ["| | torchgeo | vladapt | difference | standard error |", "| --- | ---: | ---: | ---: | ---: |"]
    names = ("mIoU, %", 100, 1), ("CPU time of a training image, ms", 1000, 1), ("parameters, million", 1e-6, 3)
    for place, (name, scale, digits) in enumerate(names):
        of = scale * measured[..., place]  # (seeds, 2)
        gain = of[:, 1] - of[:, 0]
        cells = [f"{each.mean():.{digits}f}" for each in of.T] + [f"{gain.mean():+.{digits}f}"]
        error = "-" if len(gain) < 2 else f"{gain.std(ddof=1) / np.sqrt(len(gain)):.{digits}f}"
        lines.append(f"| {name} | {' | '.join(cells)} | {error} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
