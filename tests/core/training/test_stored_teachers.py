"""Features of teachers that `embed` wrote by shard: which are taken, of which view, and which are refused."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from vladapt import ConfigError, DataError
from vladapt.core.contracts import Recipe
from vladapt.core.engine.embed import embed
from vladapt.core.tasks.pretraining.options import plan_of
from vladapt.core.tasks.pretraining.pretrain import pretrain
from vladapt.core.training.parts import Parts, TrainingTask
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.stored_teachers import stored_teachers

COUNT = 8


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    rows = []
    for number in range(COUNT):
        pixels = np.random.default_rng(number).integers(0, 255, (5, 7, 3)).astype(np.uint8).repeat(6, 0).repeat(6, 1)
        Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append([f"{number}.png", f"picture {number}", "train"])
    with (folder / "pairs.csv").open("w", newline="") as handle:
        csv.writer(handle).writerows([["image", "caption", "split"], *rows])
    return folder


@pytest.fixture(scope="module")
def shards(pictures, small_clip_spec, tmp_path_factory):
    """Features of the pictures as they are ("whole"), and of views 0 and 1."""
    root, files = tmp_path_factory.mktemp("shards"), sorted(pictures.glob("*.png"))
    recipe = Recipe(backbone=small_clip_spec, device="cpu")
    for name, view in (("whole", None), ("0", 0), ("1", 1)):
        embed(recipe, root / name, images=files, as_="parquet", dtype="float32", view=view)
    return root


def ways(crop=(0.5, 1.0)):
    def transform(teacher, augmented):
        made = teacher.preprocess(train=augmented)
        return made.with_crop(crop).without_flip() if augmented else made

    return transform


class Pictures:
    """The source of a training."""

    texts, labelled, columns = frozenset({"caption"}), False, {}

    def __init__(self, folder):
        self.folder = folder

    def __len__(self):
        return COUNT

    def name(self, row):
        return f"{row}.png"

    def image(self, row):
        return np.asarray(Image.open(self.folder / self.name(row)))

    def text(self, kind, row, epoch):
        return f"picture {row}"


def samples(pictures, small_clip, stored):
    losses = {"distill": 1.0}
    task = TrainingTask(Pictures(pictures), losses, teachers=[small_clip], stored=stored)
    return Parts(small_clip, task, TrainingSettings(batch_size=4)).samples()


def test_the_teacher_has_seen_the_very_view_that_the_student_sees(pictures, shards, small_clip):
    stored = stored_teachers([str(shards / "0"), str(shards / "1")], [small_clip], ways())
    made = samples(pictures, small_clip, stored)
    seen = {}
    for epoch in (0, 1, 2):
        sample = made[(epoch, 3)]
        with torch.no_grad():
            live = small_clip.encode_image(normalised(sample["pixels"], small_clip)[None])[0]
        torch.testing.assert_close(sample["teacher_image_0"], live, atol=1e-4, rtol=0)
        seen[epoch] = sample["teacher_image_0"]
    assert torch.equal(seen[0], seen[2]) and not torch.allclose(seen[0], seen[1], atol=1e-3)


def normalised(pixels, backbone):
    from vladapt.core.training.views import normalised as of_views

    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (backbone.image_mean, backbone.image_std))
    return of_views(pixels, mean, std)


def test_of_whole_images_the_student_sees_a_view_of_its_own(pictures, shards, small_clip):
    stored = stored_teachers([str(shards / "whole")], [small_clip], ways())
    made, plain = samples(pictures, small_clip, stored), samples(pictures, small_clip, [])
    assert torch.equal(made[(0, 2)]["pixels"], plain[(0, 2)]["pixels"])
    with torch.no_grad():
        whole = small_clip.encode_image(small_clip.preprocess()(Pictures(pictures).image(2))[None])[0]
    torch.testing.assert_close(made[(0, 2)]["teacher_image_0"], whole, atol=1e-4, rtol=0)


def test_another_teacher_another_crop_and_other_views_are_refused(shards, small_clip, small_clip_spec):
    from vladapt import load_backbone

    other = load_backbone(f"{small_clip_spec.partition('@')[0]}@random:1", device="cpu")
    with pytest.raises(DataError, match=f"holds features of backbone {small_clip.fingerprint}, and the teacher is"):
        stored_teachers([str(shards / "0")], [other], ways())
    with pytest.raises(DataError, match=r"another way than in this training .scale: .0.5, 1.0. instead of .0.9"):
        stored_teachers([str(shards / "0")], [small_clip], ways((0.9, 1.0)))
    with pytest.raises(DataError, match="features of several views have to be of different augmented ones"):
        stored_teachers([str(shards / "0"), str(shards / "whole")], [small_clip], ways())
    with pytest.raises(DataError, match="holds none; give a folder of shards"):
        stored_teachers([str(shards.parent)], [small_clip], ways())


def test_features_that_no_loss_asks_for_are_refused(pictures, shards, small_clip):
    stored = stored_teachers([str(shards / "0")], [small_clip], ways())
    task = TrainingTask(Pictures(pictures), {"distilbert": 1.0}, teachers=[small_clip], stored=stored)
    with pytest.raises(ConfigError, match="teacher_features: loss distilbert asks for no teacher's features of images"):
        Parts(small_clip, task, TrainingSettings(batch_size=4))


def test_shards_of_other_images_and_unfinished_ones_are_refused(shards, small_clip, pictures, tmp_path):
    import shutil

    stored = stored_teachers([str(shards / "0")], [small_clip], ways())

    class Others(Pictures):
        def name(self, row):
            return f"other-{row}.png"

    with pytest.raises(DataError, match=r"no features of 8 of 8 training images \(other-0.png\)"):
        stored[0].check(Others(pictures))
    shutil.copytree(shards / "0", tmp_path / "part")
    for done in tmp_path.glob("part/*/_state/done/*"):
        done.unlink()
    with pytest.raises(DataError, match="0 of 1 shards are done; let `vladapt embed` finish them"):
        stored_teachers([str(tmp_path / "part")], [small_clip], ways())


def test_pretrain_reads_them_and_the_image_tower_of_the_teacher_does_not_run(
    pictures, shards, small_clip_spec, tmp_path, monkeypatch
):
    import vladapt.core.training.teachers as teachers

    monkeypatch.setattr(teachers, "image_features", None)  # would fail if it were called
    places = {"backbone": f"{small_clip_spec.partition('@')[0]}@random", "teacher": small_clip_spec, "device": "cpu"}
    for name in ("apple", "sky"):  # so that measuring what is forgotten is quick
        (tmp_path / "generic" / name).mkdir(parents=True)
        (tmp_path / "generic" / name / "0.png").write_bytes((pictures / "0.png").read_bytes())
    places["generic"] = str(tmp_path / "generic")
    folders = [str(shards / "0"), str(shards / "1")]

    def plan(name, **places):
        sets = ["data.val=0", "data.test=0", f"teacher_features={','.join(folders)}"]
        where = {"data": str(pictures / "pairs.csv"), "out": str(tmp_path / name)}
        return plan_of(losses=["distill"], settings={"epochs": 2, "batch_size": 4}, sets=sets, **where, **places)

    model = pretrain(plan("stored", **places)).model
    assert len(json.loads((model.parent / "history.json").read_text())) == 2
    places.pop("teacher")
    with pytest.raises(ConfigError, match="there is no teacher whose features they are; give --teacher SPEC"):
        pretrain(plan("none", **places))
