"""Models that answer what they are told, with the transforms and the names of a plan."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mmengine import Config
from PIL import Image
from torch import nn

from vladapt.core.contracts.items import Boxes, DomainData, Item, Mask
from vladapt.core.data.files import loader
from vladapt.core.data.images import IMAGE
from vladapt.domains.open_vocab.vocabulary import NamedClasses


class Answering(nn.Module):
    """`answer(image number)` gives the data sample; the number is the red value of the image's first pixel."""

    def __init__(self, answer, classes, task="detection", novel=(), described=None, notes=()):
        super().__init__()
        pack = "mmdet.PackDetInputs" if task == "detection" else "mmseg.PackSegInputs"
        pipeline = [{"type": "vladapt.LoadItemImage"}, {"type": pack, "meta_keys": ["img_id", "item_id"]}]
        kept = {"classes": list(classes), "novel": list(novel), "described": described or {}, "notes": list(notes)}
        self.cfg = Config({"default_scope": "vladapt", "vladapt": {**kept, "test_pipeline": pipeline}})
        self.answer, self.batches = answer, []

    def test_step(self, batch):
        self.batches.append([tuple(image.shape[1:]) for image in batch["inputs"]])
        assert len(set(self.batches[-1])) == 1 and not torch.is_grad_enabled()
        return [self.answer(int(image[2, 0, 0])) for image in batch["inputs"]]


class TextModel(Answering, NamedClasses):
    """One that takes names."""

    taken = None

    def take_classes(self, vocabulary):
        self.taken = vocabulary


@pytest.fixture
def make_images(tmp_path):
    """make_images([(height, width), ...], names, kind="boxes", **fields of boxes) -> a set; image n has red n."""

    def make(shapes, names, kind="boxes", masks=None, **fields) -> DomainData:
        items = []
        for number, (height, width) in enumerate(shapes):
            pixels = np.full((height, width, 3), number, np.uint8)
            path = tmp_path / f"{number:02d}.png"
            Image.fromarray(pixels).save(path)
            own = {name: values[number] for name, values in fields.items()}
            target = Mask(size=(width, height)) if kind == "masks" else Boxes(size=(width, height), **own)
            items.append(Item(id=path.name, source=path, target=target, split="test"))
        reader = None if masks is None else lambda item: masks[int(item.id[:2])]
        return DomainData(items, tuple(names), loader((IMAGE,)), kind=kind, name="set", load_mask=reader)

    return make


@pytest.fixture
def boxes_sample():
    """boxes_sample(boxes, scores, labels, masks=None) -> mmdet's data sample."""
    from mmdet.structures import DetDataSample
    from mmengine.structures import InstanceData

    def make(boxes, scores, labels, masks=None):
        found = InstanceData(
            bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            scores=torch.tensor(scores, dtype=torch.float32),
            labels=torch.tensor(labels, dtype=torch.int64),
        )
        if masks is not None:
            found.masks = torch.as_tensor(np.asarray(masks))
        sample = DetDataSample()
        sample.pred_instances = found
        return sample

    return make


@pytest.fixture
def map_sample():
    """map_sample((H, W) integers) -> mmseg's data sample."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    def make(classes):
        sample = SegDataSample()
        sample.pred_sem_seg = PixelData(data=torch.as_tensor(np.asarray(classes, dtype=np.int64))[None])
        return sample

    return make


@pytest.fixture
def answering():
    """The class of a model with fixed classes."""
    return Answering


@pytest.fixture
def text_model():
    """The class of a model that takes names."""
    return TextModel
