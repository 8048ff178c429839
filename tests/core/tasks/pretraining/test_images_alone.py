"""Pre-training on images without captions: a folder, towers without texts, and a model that serves as a backbone."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from vladapt import CapabilityError, ConfigError, DataError
from vladapt.core.backbones.load import load_backbone
from vladapt.core.data.unlabelled import read_unlabelled
from vladapt.core.registry import build_loss, load_domain
from vladapt.core.tasks.pretraining.options import plan_of, plan_of_recipe
from vladapt.core.tasks.pretraining.pretrain import pretrain
from vladapt.core.training.objective import need_images_alone
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.sources import ImageSource
from vladapt.core.training.train import TrainingTask, train

transformers = pytest.importorskip("transformers", reason="extra hf is not installed")

DINO = {"image_size": 56, "patch_size": 14, "mlp_ratio": 2, "hidden_size": 32}
DINO |= {"num_hidden_layers": 2, "num_attention_heads": 2}
PIXELS = {"do_center_crop": True, "size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
PIXELS |= {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "resample": 3, "do_rescale": True}
PIXELS |= {"rescale_factor": 1 / 255, "do_normalize": True, "do_resize": True, "do_convert_rgb": True}
PIXELS |= {"image_processor_type": "BitImageProcessor"}
NARROW = {"out_dim": 32, "hidden_dim": 32, "bottleneck_dim": 16, "local_crops": 2}


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """A folder with a small random DINOv2, whose mask token has been trained."""
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.for_model("dinov2", **DINO))
    model.embeddings.mask_token.data.fill_(0.3)
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PIXELS))
    return f"hf:{folder}"


@pytest.fixture(scope="module")
def scans(tmp_path_factory):
    """Twelve grey images of stripes, some of them deeper down."""
    folder = tmp_path_factory.mktemp("scans")
    (folder / "more").mkdir()
    for number in range(12):
        rng = np.random.default_rng(number)
        rows = np.sin(np.arange(64) * (1 + number % 4) / 5)[:, None] if number % 2 else np.zeros((64, 1))
        columns = np.sin(np.arange(72) * (1 + number % 3) / 4)[None]
        picture = 128 + 50 * rows + 50 * columns + rng.normal(0, 5, (64, 72))
        place = folder / "more" if number > 8 else folder
        Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(tower, scans, tmp_path_factory):
    """What the recipe makes of the twelve, and where."""
    out = tmp_path_factory.mktemp("trained") / "model"
    sets = [f"loss.dino-v2.{name}={value}" for name, value in NARROW.items()]
    settings = {"epochs": 4, "batch_size": 6, "lr": 1e-3}
    how = {"data.path": str(scans), "out": str(out), "backbone": tower, "device": "cpu"}
    plan = plan_of_recipe("medical/rad-dino", losses=None, settings=settings, sets=sets, **how)
    return plan, pretrain(plan), out


def test_the_recipe_trains_a_tower_on_a_folder(trained, tower):
    plan, done, out = trained
    assert plan.losses == {"dino-v2": 1.0} and plan.loss_options["dino-v2"]["balance"] == "sinkhorn"
    assert plan.settings.layer_decay == 0.9 and plan.settings.clip_grad == 3.0
    assert (plan.settings.weight_decay, plan.settings.end_weight_decay) == (0.04, 0.4)
    assert done.summary["steps"] == 8 and done.metrics["adapted"] is None
    history = json.loads((out / "history.json").read_text())
    assert {f"dino-v2.{part}" for part in ("dino_local", "dino_global", "ibot", "koleo")} <= history[0].keys()
    assert history[-1]["loss"] < history[0]["loss"]
    info = json.loads((out / "run.json").read_text())
    assert info["data"]["images"] == 12 and info["data"]["splits"] == {"train": 12}
    assert any("none of them is held out" in note for note in info["notes"])
    assert (out / "report.html").is_file()
    before, after = (load_backbone(spec, device="cpu") for spec in (tower, str(out / "model.safetensors")))
    pixels = torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(before.encode_image(pixels), after.encode_image(pixels), atol=1e-3)
    assert not after.has_text


def test_what_does_not_apply_is_said(tower, scans, tmp_path):
    """Without a domain the files are plain images; what does not apply to them is refused."""
    how = {"losses": ["dino-v2"], "settings": {"epochs": 1, "batch_size": 6}, "data": str(scans)}
    sets = [f"loss.dino-v2.{name}={value}" for name, value in NARROW.items()]
    plan = plan_of(**how, sets=[*sets, "data.val=0.5"], out=str(tmp_path / "a"), backbone=tower, device="cpu")
    with pytest.raises(ConfigError, match=r"--set data.val: does not apply to images without captions"):
        pretrain(plan)
    (tmp_path / "none").mkdir()
    empty = {**how, "data": str(tmp_path / "none")}
    with pytest.raises(DataError, match="no readable image"):
        pretrain(plan_of(**empty, sets=sets, out=str(tmp_path / "b"), backbone=tower, device="cpu"))
    for name in ("cat", "dog"):
        (tmp_path / "named" / name).mkdir(parents=True)
        shutil.copy(scans / "0.png", tmp_path / "named" / name)
    generic = str(tmp_path / "named")
    plan = plan_of(**how, sets=sets, out=str(tmp_path / "c"), backbone=tower, device="cpu", generic=generic)
    with pytest.raises(ConfigError, match="has no words to name images by"):
        pretrain(plan)


def test_text_towers_stay_as_they_are(small_clip_spec, scans):
    data = read_unlabelled([scans])
    backbone, before = (load_backbone(small_clip_spec, device="cpu") for _ in range(2))
    task = TrainingTask(ImageSource(data.items, data.load), {"dino-v2": 1.0}, {"dino-v2": NARROW})
    train(backbone, task, TrainingSettings(epochs=1, batch_size=6, lr=1e-3), None)
    assert torch.equal(before.encode_text(["a scan"]), backbone.encode_text(["a scan"]))
    blank = before.blank_image()
    assert not torch.allclose(before.encode_image(blank), backbone.encode_image(blank), atol=1e-6)
    with pytest.raises(ConfigError, match=r"option compile=yes: loss 'dino-v2' changes the towers' passes"):
        train(backbone, task, TrainingSettings(epochs=1, batch_size=6, compile=True), None)


def test_which_losses_need_images_alone():
    assert need_images_alone({"dino-v2": 1.0})
    for name in ("clip", "silc", "slip", "cross-entropy", "dino-v2,clip"):
        assert not need_images_alone(name.split(","))


@pytest.fixture(scope="module")
def views(tower):
    backbone = load_backbone(tower, device="cpu")

    def make(seed=0, **options):
        loss = build_loss("dino-v2", {"image_width": 32}, **{**NARROW, **options})
        pixels = torch.rand(3, 60, 70, generator=torch.Generator().manual_seed(1))
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            return {name: made(pixels) for name, made in loss.further_views(backbone).items()}

    return make


def test_views_have_their_sizes(views):
    made = views()
    assert made["pixels_crops"].shape == (2, 3, 56, 56)
    assert made["pixels_crops_local"].shape == (2, 3, 28, 28)  # 24 of 56, in whole patches of 14
    assert made["hidden_places"].shape == (1, 8)
    assert torch.equal(made["pixels_crops"], views()["pixels_crops"])
    assert not torch.equal(made["pixels_crops"], views(seed=1)["pixels_crops"])


@pytest.mark.parametrize(
    "changed",
    [
        *({"global_scale": (0.9, 1.0)}, {"local_scale": (0.5, 0.6)}, {"flip": 1.0}, {"jitter": (0, 0, 0, 0)}),
        *({"grey": 1.0}, {"blur": (0, 0, 0)}, {"solarize": 1.0}, {"local_crops": 3}, {"local_size": 0.9}),
        *({"masked": 1.0}, {"mask_share": (0.5, 0.9)}),
    ],
    ids=str,
)
def test_each_option_of_the_views_changes_them(views, changed):
    kept = {"flip": 0.0, "grey": 0.0} if changed.keys() & {"flip", "grey"} else {}
    pairs = [(views(seed, **kept), views(seed, **{**kept, **changed})) for seed in range(4)]
    same = [
        all(one[name].shape == other[name].shape and torch.equal(one[name], other[name]) for name in one)
        for one, other in pairs
    ]
    assert not all(same)


def test_the_student_sees_a_token_for_hidden_patches_and_the_teacher_does_not(tower, views):
    backbone = load_backbone(tower, device="cpu")
    loss = build_loss("dino-v2", {"image_width": 32}, **NARROW)
    loss.prepare(backbone)
    assert torch.allclose(loss.mask_token, torch.full((32,), 0.3))
    batch = {name: value[None] for name, value in views().items()}
    seen = loss.further_outputs(batch, backbone)
    assert seen["crops"].shape == (1, 2, 32) and seen["crops_local"].shape == (1, 2, 32)
    places = batch["hidden_places"][0, 0]
    crop = int(places[0] // 16)
    patch = 14 * torch.tensor([int(places[0] % 16 // 4), int(places[0] % 16 % 4)])
    other = {**batch, "pixels_crops": batch["pixels_crops"].clone()}
    other["pixels_crops"][0, crop, :, patch[0] : patch[0] + 14, patch[1] : patch[1] + 14] += 3.0
    again = loss.further_outputs(other, backbone)
    assert all(torch.allclose(seen[name].float(), again[name].float(), atol=1e-5) for name in seen)
    teachers = [loss.teacher_outputs(each, backbone)["teacher.crops"] for each in (batch, other)]
    assert not torch.allclose(*teachers, atol=1e-3)
    whole = loss.teacher_outputs(batch, backbone)
    assert torch.allclose(whole["teacher.crops"][0], backbone.hidden(batch["pixels_crops"][0]), atol=1e-5)
    tokens = backbone.image_tokens(batch["pixels_crops"][0])[0].flatten(0, 1)
    taken = places[places >= 0]
    assert torch.allclose(whole["teacher.crops_patches"][0, : len(taken)], tokens[taken], atol=1e-5)


TRAINED = {"dino": None, "clip": None, "timm:vit_tiny_patch16_224@random:0": 32}
REFUSED = {
    "timm:resnet10t@random:0": "transformer blocks of the image tower",
    "timm:vit_wee_patch16_reg1_gap_256@random:0": "makes its feature of something else",
}


@pytest.mark.parametrize("spec", [*TRAINED, *REFUSED])
def test_which_towers_it_trains(spec, tower, small_clip_spec):
    pytest.importorskip("timm", reason="extra timm is not installed")
    given = {"dino": tower, "clip": small_clip_spec}.get(spec, spec)
    backbone = load_backbone(given, device="cpu", image_size=TRAINED.get(spec))
    width = backbone.hidden(backbone.blank_image()).shape[-1]
    loss = build_loss("dino-v2", {"image_width": width}, **NARROW)
    if spec in TRAINED:
        loss.prepare(backbone)
        return
    with pytest.raises(CapabilityError, match=REFUSED[spec]):
        loss.prepare(backbone)


def test_the_sample_of_a_domain(tower):
    from vladapt.core.tasks.pretraining.pairs import read_image_set

    splits = read_image_set(load_domain("medical"), "sample", {}, 0.05)
    assert len(splits.train) == 300 and splits.val is None and splits.source(None).texts == frozenset()
