"""A loss of another package that needs what no table of ours lists: numbers of the data, a further text, a further
image, a teacher of its own. Nothing in `core` knows their names."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from vladapt import CapabilityError, ConfigError, DataError, build_loss, read_pairs
from vladapt.core.contracts.loss import shared_of
from vladapt.core.contracts.outputs import SHARED
from vladapt.core.data.pairs.captions import CaptionSampler
from vladapt.core.training.fields import fields_of
from vladapt.core.training.objective import Objective, loss_columns
from vladapt.core.training.samples import Samples, collate
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.sources import LabelledSource, PairSource
from vladapt.core.training.tower_outputs import Outputs, numbers_as
from vladapt.core.training.train import TrainingTask, train
from vladapt.core.training.views import Views

LOSSES = '''
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from vladapt import Loss, Output, option


@dataclass(eq=False, repr=False, kw_only=True)
class Traits(Loss):
    """Image features are to tell what the data says of the image."""

    needs: ClassVar = frozenset({"image_features", "traits", "kind", "labels"})
    outputs: ClassVar = {
        "traits": Output("what the image shows", ("B", "A"), "raw", column="traits"),
        "kind": Output("a number of the class", ("B",), "class", column="kind_id"),
    }
    weight: float = option(1.0, "weight", low=0, high=10)

    def __post_init__(self):
        super().__post_init__()
        self.head = nn.Linear(self.dim("embed_dim", "its head"), 2)

    def compute(self, out, progress):
        told = (self.head(out["image_features"]) - out["traits"]).square().mean()
        wrong = (out["kind"] != out["labels"]).float().mean()
        return {"loss": self.weight * told, "wrong": wrong, "known": (out["kind"] >= 0).float().mean()}


@dataclass(eq=False, repr=False, kw_only=True)
class Contrary(Loss):
    """A text and an image that must not fit."""

    needs: ClassVar = frozenset({"image_features", "text_features", "text_contrary", "image_contrary"})
    outputs: ClassVar = {
        "text_contrary": Output("features of the contrary text", column="contrary", tower="text"),
        "image_contrary": Output("features of the contrary image", column="contrary_image", tower="image"),
    }

    def compute(self, out, progress):
        text = (out["image_features"] * out["text_contrary"]).sum(dim=1).mean()
        image = (out["image_contrary"] * out["text_features"]).sum(dim=1).mean()
        return {"loss": text + image}


@dataclass(eq=False, repr=False, kw_only=True)
class Tutor(Loss):
    """A frozen network of its own looks at the same pixels."""

    needs: ClassVar = frozenset({"image_features", "tutor"})
    outputs: ClassVar = {"tutor": Output("what the tutor sees", ("B", "D"), "unit", fields=("pixels",))}

    def __post_init__(self):
        super().__post_init__()
        self.tutor = nn.Linear(3, self.dim("embed_dim", "its tutor")).requires_grad_(False)

    def further_outputs(self, batch, backbone):
        with torch.no_grad():
            return {"tutor": nn.functional.normalize(self.tutor(batch["pixels"].mean(dim=(2, 3))), dim=-1)}

    def compute(self, out, progress):
        return {"loss": (out["image_features"] - out["tutor"]).square().sum(dim=1).mean()}


@dataclass(eq=False, repr=False, kw_only=True)
class Rival(Loss):
    """Brings the same name with another meaning."""

    needs: ClassVar = frozenset({"traits"})
    outputs: ClassVar = {
        "traits": Output("another column", ("B",), "raw", column="other"),
        "temperature": Output("one number", (), "positive"),
    }

    def compute(self, out, progress):
        return {"loss": out["traits"].mean()}
'''
NAMES = ("traits", "contrary", "tutor", "rival")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The losses above, installed as a package with entry points."""
    folder = tmp_path / "site"
    info = folder / "toy_losses-0.1.dist-info"
    info.mkdir(parents=True)
    (folder / "toy_losses_of_tests.py").write_text(LOSSES)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-losses\nVersion: 0.1\n")
    points = "".join(f"{name} = toy_losses_of_tests:{name.title()}\n" for name in NAMES)
    (info / "entry_points.txt").write_text(f"[vladapt.losses]\n{points}")
    monkeypatch.syspath_prepend(str(folder))


@pytest.fixture
def table(tmp_path):
    """16 pictures; `traits` holds two numbers, `kind_id` the class, `contrary` a text, `contrary_image` a file."""
    folder = tmp_path / "set"
    folder.mkdir()
    rows = []
    for i in range(16):
        Image.fromarray(np.full((24, 24, 3), (15 * i, 255 - 15 * i, 100), np.uint8)).save(folder / f"{i}.png")
        kind = "" if i == 3 else i % 4
        rows.append([f"{i}.png", f"area {i}", i % 4, f"[{i / 16}, {-i / 16}]", kind, f"no {i}", f"{(i + 1) % 16}.png"])
    with (folder / "pairs.csv").open("w", newline="") as file:
        header = ["image", "caption", "label", "traits", "kind_id", "contrary", "contrary_image"]
        csv.writer(file).writerows([header, *rows])
    return folder / "pairs.csv"


def source_of(table, losses):
    pairs = read_pairs(table, split="train", columns=loss_columns(losses))
    return PairSource(pairs, CaptionSampler(mode="first", seed=0))


def trained(backbone, source, folder, losses, micro=None):
    settings = TrainingSettings(
        epochs=2, batch_size=8, micro_batch_size=micro, lr=1e-2, optimizer="sgd", warmup=0, crop_scale=(0.9, 1.0)
    )
    return train(backbone, TrainingTask(source, dict.fromkeys(losses, 1.0)), settings, folder)


def batch_of(backbone, source, losses):
    """A batch as the trainer makes it, and the outputs that are made of it."""
    built = {name: build_loss(name, {"embed_dim": backbone.embed_dim}) for name in losses}
    objective = Objective(built)
    fields = fields_of(objective.needs, source, "the losses", objective.outputs)
    views = {"light": Views(backbone).light((0.9, 1.0))}
    samples = Samples(source, fields, views, backbone.tokenize, seed=1)
    batch = collate([samples[(0, row)] for row in range(6)])
    outputs = Outputs(backbone, objective.needs, losses=list(built.values()))
    return batch, outputs.per_sample(batch), built


def test_the_columns_that_losses_ask_for_are_known_before_anything_is_read(package):
    assert loss_columns(["traits", "clip"]) == {"traits": "numbers", "kind_id": "numbers"}
    assert loss_columns(["contrary", "tutor"]) == {"contrary": "text", "contrary_image": "image"}
    with pytest.raises(ConfigError, match="loss 'rival' brings an output 'traits' that another loss defines"):
        loss_columns(["traits", "rival"])


def test_numbers_of_the_data_reach_the_loss_in_their_rows(package, fresh_clip, table, tmp_path):
    source = source_of(table, ["traits"])
    batch, made, _ = batch_of(fresh_clip, source, ["traits"])
    torch.testing.assert_close(made["traits"], torch.tensor([[i / 16, -i / 16] for i in range(6)]))
    assert made["kind"].tolist() == [0, 1, 2, -1, 0, 1] and made["kind"].dtype == torch.int64
    assert set(batch) == {"broken", "index", "pixels", "labels", "numbers.traits", "numbers.kind_id"}
    done = trained(fresh_clip, source, tmp_path / "run", ["traits"])
    assert done.history[0]["traits.wrong"] == pytest.approx(1 / 16)  # the row that names no kind, and no other
    assert done.history[0]["traits.known"] == pytest.approx(15 / 16)
    assert done.history[-1]["loss"] < done.history[0]["loss"]


def test_a_further_text_and_image_go_through_the_towers(package, fresh_clip, table, tmp_path):
    source = source_of(table, ["contrary"])
    batch, made, _ = batch_of(fresh_clip, source, ["contrary"])
    texts = fresh_clip.encode_text(fresh_clip.tokenize([f"no {i}" for i in range(6)]))
    torch.testing.assert_close(made["text_contrary"], texts)
    torch.testing.assert_close(made["image_contrary"], fresh_clip.encode_image(batch["pixels.contrary_image"]))
    means = batch["pixels"].mean(dim=(2, 3))
    apart = (batch["pixels.contrary_image"].mean(dim=(2, 3))[:-1] - means[1:]).abs().max()  # the next row's picture
    assert apart < 0.05 < (batch["pixels.contrary_image"].mean(dim=(2, 3)) - means).abs().max()
    done = trained(fresh_clip, source, tmp_path / "run", ["contrary"])
    assert done.history[-1]["loss"] < done.history[0]["loss"]


def test_a_loss_makes_outputs_itself(package, fresh_clip, table, tmp_path):
    batch, made, built = batch_of(fresh_clip, source_of(table, ["tutor"]), ["tutor"])
    wanted = F.normalize(built["tutor"].tutor(batch["pixels"].mean(dim=(2, 3))), dim=-1)
    torch.testing.assert_close(made["tutor"], wanted)
    done = trained(fresh_clip, source_of(table, ["tutor"]), tmp_path / "run", ["tutor"])
    assert done.history[-1]["loss"] < done.history[0]["loss"]


def test_micro_batches_change_nothing(package, small_clip_spec, table, tmp_path):
    from vladapt.core.backbones.load import load_backbone

    losses, weights = ["traits", "contrary", "tutor"], []
    for micro in (None, 3):
        backbone = load_backbone(small_clip_spec, device="cpu")
        trained(backbone, source_of(table, losses), tmp_path / str(micro), losses, micro=micro)
        weights.append({name: value.clone() for name, value in backbone.model.state_dict().items()})
    assert max(float((value - weights[1][name]).abs().max()) for name, value in weights[0].items()) < 1e-5


def test_data_without_the_column_is_refused_in_one_line(package, fresh_clip, table, tmp_path):
    lacking = PairSource(read_pairs(table, split="train"), CaptionSampler())
    words = r"'kind' \(a number of the class\); the data has none, give a column 'kind_id'"
    with pytest.raises(CapabilityError, match=rf"loss traits needs {words}"):
        trained(fresh_clip, lacking, tmp_path / "run", ["traits"])


def test_labelled_images_may_bring_numbers_too(package, fresh_clip):
    from vladapt import Item, Label

    def facts(i):
        return {"kind_id": i % 2, "place": "Oslo"} if i == 4 else {"traits": [i, -i], "kind_id": i % 2}

    items = [Item(id=str(i), source="x", target=Label(i % 2, facts(i))) for i in range(6)]
    source = LabelledSource(items, lambda item: np.full((24, 24, 3), 20 * int(item.id), np.uint8), [["a"], ["b"]])
    assert source.columns == {"traits": "numbers", "kind_id": "numbers"}
    _, made, _ = batch_of(fresh_clip, source, ["traits"])
    assert made["traits"][[0, 1, 2, 3, 5]].tolist() == [[i, -i] for i in (0, 1, 2, 3, 5)]
    assert made["traits"][4].isnan().all() and made["kind"].tolist() == [0, 1] * 3
    uneven = LabelledSource([items[0], items[1].with_(target=Label(1, {"traits": 3}))], source.load, source.prompts)
    with pytest.raises(DataError, match="1: traits has 1 numbers, of the first image 2"):
        uneven.numbers("traits", 1)


def test_one_value_for_the_batch_is_not_gathered(package, monkeypatch):
    from vladapt.core.runtime import gather
    from vladapt.core.runtime.gather import RankBatch
    from vladapt.core.training import objective

    rival, shared = build_loss("rival"), []
    assert shared_of(rival.outputs) == SHARED | {"temperature"}
    for module in (gather, objective):
        monkeypatch.setattr(module, "rank_batch", lambda out, names: shared.append(names) or RankBatch(out, names))
    for loss in (rival, Objective({"rival": rival})):
        loss({"traits": torch.ones(2), "temperature": torch.tensor(0.5)})
    assert [names - SHARED for names in shared] == [{"temperature"}] * 2
    with pytest.raises(CapabilityError, match=r"loss 'rival' needs 'traits' \(another column\); the model gives"):
        rival({"image_features": torch.zeros(2, 3)})


def test_a_column_of_several_numbers_is_not_one_number(package):
    output = build_loss("rival").outputs["traits"]
    assert numbers_as(output, torch.tensor([[1.0], [float("nan")]], dtype=torch.float64)).shape == (2,)
    with pytest.raises(DataError, match="column 'other' has 2 numbers per row; give one"):
        numbers_as(output, torch.zeros(3, 2, dtype=torch.float64))


def test_matryoshka_takes_the_inputs_of_the_other_loss(package, fresh_clip, table, tmp_path):
    loss = build_loss("matryoshka", {"embed_dim": 24}, loss="tutor", widths=(24, 12))
    assert loss.needs == {"image_features", "tutor"} and loss.outputs.keys() == {"tutor"}
    out = {"image_features": F.normalize(torch.randn(4, 24), dim=1), "tutor": F.normalize(torch.randn(4, 24), dim=1)}
    halves = {name: F.normalize(value[:, :12], dim=1) for name, value in out.items()}
    by_hand = (halves["image_features"] - halves["tutor"]).square().sum(dim=1).mean()
    torch.testing.assert_close(loss(out)["width_12"], by_hand)
