"""Third-party domains with tasks of their own: boxes and masks by an mmengine config, captions by ranking."""

import os
import signal
from typing import ClassVar

import numpy as np
import torch
from mmengine import Config
from mmengine.model import BaseModel
from torch.utils.data import Dataset
from toy_targets import COLOURS, drawn, item_of

from vladapt import Boxes, Captions, DataError, Domain, DomainData
from vladapt.core.contracts.domain import Evaluation
from vladapt.core.runs.sections import CurveSection, PictureSection, TableSection
from vladapt.core.runtime.distributed import rank
from vladapt.core.tasks.config_training.base import ConfigTask
from vladapt.registry import DATASETS, MODELS

SIZE = 16


def scene(item):
    """A bright square on dark ground; where it is follows from the index."""
    image = drawn(item, (0.1, 0.1, 0.1), noise=0.02, size=(SIZE, SIZE))
    x0, y0, x1, y1 = square(item.decode["index"])
    image[y0:y1, x0:x1] = 0.9
    return image


def square(index):
    x0, y0 = index % 8, index // 8 % 8
    return x0, y0, x0 + 6, y0 + 6


def pixels(data, items):
    return torch.stack([torch.from_numpy(data.load(item)).permute(2, 0, 1) for item in items])


@DATASETS.register_module()
class ToyScenes(Dataset):
    """Scenes and boxes by index, as an mm config names them; `broken`: what is raised instead."""

    errors: ClassVar = {
        "data": DataError("scene.png: cannot be read; remove it"),
        "key": KeyError("gt"),
        "bug": IndexError("7"),
    }

    def __init__(self, indices, broken=None):
        self.indices, self.broken = list(indices), broken

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, i):
        if self.broken:
            raise self.errors[self.broken]
        item = item_of("scenes", self.indices[i])
        box = torch.tensor(square(self.indices[i]), dtype=torch.float32)
        return {"inputs": torch.from_numpy(scene(item)).permute(2, 0, 1), "boxes": box}


@MODELS.register_module()
class ToyBoxModel(BaseModel):
    """Four numbers an image, learned from noisy pixels.

    Args:
        nan_at: (rank, step) whose loss is no number.
        scale: where predictions end: a tuple, and nothing else.
    """

    def __init__(self, size, nan_at=None, scale=(SIZE, SIZE)):
        super().__init__()
        assert isinstance(scale, tuple)
        self.head = torch.nn.Linear(2 * size, 4)
        self.nan_at, self.step, self.scale = nan_at, 0, scale

    def forward(self, inputs, boxes=None, mode="tensor"):
        inputs = torch.stack(list(inputs)) if not isinstance(inputs, torch.Tensor) else inputs
        grey = inputs.mean(dim=1)
        if mode == "loss":
            grey = grey + 0.01 * torch.randn_like(grey)
        found = self.head(torch.cat([grey.mean(dim=1), grey.mean(dim=2)], dim=1)) * self.scale[0]
        if mode == "loss":
            return {"loss": (found - torch.stack(list(boxes))).abs().mean() * self._next_step()}
        return found

    def _next_step(self):
        self.step += 1
        if os.environ.get("TOY_KILL_AT") == str(self.step):
            os.kill(os.getpid(), signal.SIGKILL)
        return float("nan") if self.nan_at and tuple(self.nan_at) == (rank(), self.step) else 1.0


@MODELS.register_module()
class ToyMaskModel(BaseModel):
    """One logit a pixel, from its colour."""

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Conv2d(3, 1, 1)

    def forward(self, inputs, boxes=None, mode="tensor"):
        inputs = torch.stack(list(inputs)) if not isinstance(inputs, torch.Tensor) else inputs
        logits = self.head(inputs)[:, 0]
        if mode == "loss":
            target = torch.stack([mask_of(box) for box in boxes])
            return {"loss": torch.nn.functional.binary_cross_entropy_with_logits(logits, target)}
        return logits


def mask_of(box):
    mask = torch.zeros(SIZE, SIZE)
    x0, y0, x1, y1 = (int(v) for v in box)
    mask[y0:y1, x0:x1] = 1
    return mask


class BoxTask(ConfigTask):
    """Four numbers per scene, learned by a config."""

    name = "detection"
    can = frozenset({"predict"})
    deciding = "mean_error"
    model: ClassVar = {"type": "ToyBoxModel", "size": SIZE}

    def plan(self, recipe, data, backbone):
        indices = [item.decode["index"] for item in data.split("train")]
        plan = Config(
            {
                "model": self.model,
                "train_dataloader": {
                    "batch_size": 16,
                    "dataset": {"type": "ToyScenes", "indices": indices},
                    "sampler": {"type": "DefaultSampler", "shuffle": True},
                    "collate_fn": {"type": "pseudo_collate"},
                },
                "train_cfg": {"by_epoch": True, "max_epochs": 60},
                "optim_wrapper": {"optimizer": {"type": "Adam", "lr": 0.03}},
            }
        )
        plan.merge_from_dict(recipe.plan)
        return plan

    def score(self, model, data, backbone, progress):
        items = data.split("test")
        with torch.no_grad():
            found = model(pixels(data, items))
        wanted = torch.tensor([item.target.boxes[0] for item in items])
        error = (found - wanted).abs().mean(dim=1)
        worst = items[int(error.argmax())]
        sections = [
            TableSection("By <corner>", ("Corner", "Error"), [("x0 <b>", float(error[0])), ("y0", None)], shares=False),
            PictureSection("Worst", [((data.load(worst) * 255).astype(np.uint8), f"{worst.id} <script>x()</script>")]),
            CurveSection(
                "Errors",
                {"<script>all": (list(range(len(error))), error.sort().values.tolist())},
                "n",
                "error",
                unit=False,
            ),
        ]
        return Evaluation({"mean_error": float(error.mean())}, sections, ["a note of <script>the domain</script>"])

    def look(self, model, data, backbone, progress):
        with torch.no_grad():
            found = model(pixels(data, data.items))
        return [{"id": item.id, "boxes": [box.tolist()]} for item, box in zip(data.items, found)]


class MaskTask(BoxTask):
    """A mask per scene."""

    name = "segmentation"
    deciding = "iou"
    model: ClassVar = {"type": "ToyMaskModel"}

    def score(self, model, data, backbone, progress):
        items = data.split("test")
        with torch.no_grad():
            found = model(pixels(data, items)) > 0
        wanted = torch.stack([mask_of(item.target.boxes[0]) for item in items]) > 0
        return Evaluation({"iou": float((found & wanted).sum() / (found | wanted).sum())})


class RankTask(ConfigTask):
    """Nothing is trained, the towers rank captions."""

    name = "retrieval"
    can = frozenset({"predict", "rename"})

    def plan(self, recipe, data, backbone):
        return None

    def score(self, model, data, backbone, progress):
        items = data.split("test")
        transform = self.domain.transforms(backbone, False, self.name)
        images = backbone.encode_image(torch.stack([transform(data.load(item)) for item in items]))
        captions = [item.captions()[0] for item in items]
        texts = backbone.encode_text(captions)
        best = (images @ texts.T).argmax(dim=1)
        right = [captions[i] == captions[j] for i, j in enumerate(best.tolist())]
        return Evaluation({"recall_at_1": float(np.mean(right))})


class ToyBoxes(Domain):
    """Detection."""

    name = "toy-boxes"
    tasks = (BoxTask,)

    def read(self, path, task, **options):
        items = [item_of("scenes", i, Boxes((tuple(float(v) for v in square(i)),), (0,))) for i in range(64)]
        return DomainData(items, ("square",), scene, kind="boxes", name="toy scenes")

    def sample(self, task):
        return self.read("sample", task)

    def templates(self, task):
        return ["a {}."]

    def read_images(self, paths, **options):
        return self.read("sample", "detection").with_items([item_of("scenes", int(p)) for p in paths])


class ToyMasks(ToyBoxes):
    """Segmentation."""

    name = "toy-masks"
    tasks = (MaskTask,)

    def read(self, path, task, **options):
        from dataclasses import replace

        return replace(super().read(path, task, **options), kind="masks")


class ToyCaptions(Domain):
    """Retrieval by a task of its own."""

    name = "toy-captions"
    tasks = (RankTask,)

    def read(self, path, task, **options):
        names = list(COLOURS)
        items = [item_of("captions", i, Captions((f"a {names[i % 3]} patch",))) for i in range(30)]
        return DomainData(items, (), self._draw, kind="captions", name="toy captions")

    def sample(self, task):
        return self.read("sample", task)

    def templates(self, task):
        return ["{}"]

    def _draw(self, item):
        return drawn(item, list(COLOURS.values())[item.decode["index"] % 3])
