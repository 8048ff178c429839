"""A backbone of the user's own module: its features are the module's, and its fingerprint tells of weights and code."""

import json
from functools import partial

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torchvision import models

import vladapt
from vladapt.core.backbones.load import load_backbone, save_fine_tuned
from vladapt.core.backbones.specs import check_spec
from vladapt.core.contracts.families import OFFERED
from vladapt.core.contracts.images import InputChannels
from vladapt.core.contracts.recipe import spec_of
from vladapt.core.engine.embed import embed
from vladapt.core.engine.index import index
from vladapt.core.engine.search import search
from vladapt.core.engine.select import select
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.training import LowRank


class Encoder(nn.Module):
    def __init__(self, width=12, gain=1.0, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm, self.gain = nn.Conv2d(3, width, 4, 4), nn.BatchNorm2d(width), gain

    def forward(self, pixels):
        return self.gain * self.norm(self.conv(pixels)).relu().mean(dim=(2, 3))


def made(module=None, *, image_size=32, embed_dim=12, **how):
    return vladapt.Backbone.from_module(module or Encoder(), image_size=image_size, embed_dim=embed_dim, **how)


def halves(image):
    """A preprocessing of the user's own: pixels in -1..1."""
    return torch.from_numpy(np.asarray(image.resize((32, 32)), np.float32)).permute(2, 0, 1) / 127.5 - 1


def picture(height=60, width=50):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8))


@pytest.fixture(autouse=True)
def nothing_offered():
    yield
    OFFERED.clear()


def test_features_are_the_modules_and_it_stays_as_it_was():
    module = Encoder().train()
    backbone = made(module)
    pixels = torch.randn(2, 3, 32, 32)
    assert module.training and all(each.requires_grad for each in module.parameters())
    torch.testing.assert_close(backbone.encode_image(pixels, normalize=False), module.eval()(pixels))
    assert backbone.capabilities == {"hidden"} and not backbone.has_text
    assert backbone.blank_image().shape == (1, 3, 32, 32) and backbone.preprocess()(picture()).shape == (3, 32, 32)


def test_the_fingerprint_tells_of_weights_code_and_preprocessing_and_of_nothing_else():
    prints = {
        "weights": made(Encoder(seed=1)).fingerprint,
        "code": made(Encoder(gain=1.001)).fingerprint,
        "size": made(image_size=(32, 64)).fingerprint,
        "preprocess": made(preprocess=halves).fingerprint,
        "other preprocess": made(preprocess=lambda image: halves(image) * 0.9).fingerprint,
        "itself": made().fingerprint,
    }
    assert len(set(prints.values())) == len(prints)
    torch.set_num_threads(1)
    assert made().fingerprint == prints["itself"] and made().spec == made(Encoder()).spec


def test_features_of_the_own_preprocessing():
    backbone = made(preprocess=halves)
    transform = backbone.preprocess()
    torch.testing.assert_close(transform(picture()), halves(picture()))
    torch.testing.assert_close(transform(np.asarray(picture())), halves(picture()))
    torch.testing.assert_close(torch.tensor(backbone.image_mean), torch.full((3,), 0.5))
    torch.testing.assert_close(torch.tensor(backbone.image_std), torch.full((3,), 0.5))
    train = backbone.preprocess(train=True)
    views = [train(picture(), seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(views[0], views[1]) and not torch.equal(views[0], views[2])
    json.dumps(transform.spec)
    assert transform.spec != made().preprocess().spec and transform.spec != train.spec


class Dictionary(Encoder):
    def forward(self, pixels):
        return {"features": super().forward(pixels)}


class Maps(Encoder):
    def forward(self, pixels):
        return self.conv(pixels)


class NoNumbers(Encoder):
    def forward(self, pixels):
        return super().forward(pixels) / 0


class ByBatch(Encoder):
    def forward(self, pixels):
        return super().forward(pixels)[:, : 11 + min(1, len(pixels) - 1)]


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"module": Dictionary()}, r"Dictionary returns a dictionary; wrap it in a module"),
        ({"module": Maps()}, r"Maps makes \(3, 12, 8, 8\) of a batch of 3 where embed_dim asks for \(3, 12\)"),
        ({"module": ByBatch()}, r"ByBatch makes \(1, 11\) of a batch of 1 where embed_dim asks for \(1, 12\)"),
        ({"module": NoNumbers()}, "NoNumbers gives NaN or infinity"),
        ({"embed_dim": 13}, r"makes \(3, 12\) of a batch of 3 where embed_dim asks for \(3, 13\)"),
        ({"image_size": 48, "preprocess": halves}, r"gives \(3, 32, 32\) where image_size asks for \(3, 48, 48\)"),
        ({"preprocess": lambda image: image}, r"preprocess gives Image where"),
        ({"module": halves}, "a function is no torch module"),
        ({"module": nn.Linear(7, 12)}, r"Linear, of pixels \(3, 3, 32, 32\): RuntimeError: .*mat1 and mat2 shapes"),
        ({"preprocess": lambda image: image.nothing}, "preprocess: AttributeError: 'Image' object has no attribute"),
    ],
)
def test_what_is_no_encoder_is_said_in_one_line(how, says):
    with pytest.raises(ConfigError, match=says):
        made(**how)


class ByContent(Encoder):
    """One feature fewer of dark images, one row fewer of bright ones; more than features in training."""

    def forward(self, pixels):
        features, dark, bright = super().forward(pixels), pixels.mean() < -1.5, pixels.mean() > 1.5
        return (features, features) if self.training else features[int(bright) :, int(dark) :]


def test_what_changes_after_it_was_checked_is_said_in_one_line():
    backbone = made(ByContent())
    assert backbone.encode_image(torch.zeros(2, 3, 32, 32)).shape == (2, 12)
    with pytest.raises(ConfigError, match=r"makes \(2, 11\) of 2 images, where its width was 12"):
        backbone.encode_image(torch.full((2, 3, 32, 32), -2.0))
    with pytest.raises(
        ConfigError, match=r"makes \(1, 12\) of 2 images.*; let it make one row of that width for every"
    ):
        backbone.encode_image(torch.full((2, 3, 32, 32), 2.0))
    transform = made(preprocess=lambda image: halves(image)[:, : 32 if image.width < 99 else 16]).preprocess()
    with pytest.raises(ConfigError, match=r"preprocess gives \(3, 16, 32\) where image_size asks for \(3, 32, 32\)"):
        transform(picture(width=100))
    backbone.model.train()
    with pytest.raises(ConfigError, match="ByContent returns a tuple"):
        backbone.encode_image(torch.zeros(2, 3, 32, 32))


def test_a_bare_module_is_told_how_to_be_given():
    for given in (lambda: vladapt.fit(data="nowhere", backbone=Encoder()), lambda: spec_of(Encoder())):
        with pytest.raises(ConfigError, match=r"backbone=Encoder: .*Backbone.from_module\(module, image_size"):
            given()


def test_it_is_loaded_by_its_spec_once_it_was_given_and_not_before():
    backbone = made()
    for load in (lambda: load_backbone(backbone.spec, "cpu"),):
        with pytest.raises(CapabilityError, match="give it again"):
            load()
    assert spec_of(backbone) == backbone.spec
    check_spec(backbone.spec)
    copy = load_backbone(backbone.spec, "cpu")
    assert copy is not backbone and copy.fingerprint == backbone.fingerprint
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        next(copy.model.parameters()).zero_()
    torch.testing.assert_close(load_backbone(backbone.spec, "cpu").encode_image(pixels), backbone.encode_image(pixels))
    with pytest.raises(ConfigError, match="omit image_size"):
        load_backbone(backbone.spec, "cpu", image_size=64)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for channel, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir()
        for number in range(10):
            pixels = random.integers(0, 90, (40, 44, 3)).astype(np.uint8)
            pixels[..., channel] += 130
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_a_run_names_the_module_and_takes_no_other(photos, tmp_path):
    how = {"domain": "natural", "data": str(photos), "adapter": "nearest-mean", "shots": 2, "workers": 0}
    backbone = made()
    fitted = vladapt.fit(**how, backbone=backbone, out=str(tmp_path / "runs"))
    assert json.loads((fitted.run / "run.json").read_text())["backbone"]["spec"] == backbone.spec
    image = [photos / "red" / "0.png"]
    assert vladapt.predict(fitted.run, image, workers=0).rows()[0]["label"] == "red"
    OFFERED.clear()  # another process
    with pytest.raises(CapabilityError, match="give it again: backbone="):
        vladapt.predict(fitted.run, image)
    again = vladapt.predict(fitted.run, image, backbone=made(), workers=0)
    assert again.rows()[0]["label"] == "red"
    with pytest.raises(CapabilityError, match="was fitted on backbone"):
        vladapt.predict(fitted.run, image, backbone=made(Encoder(gain=2.0)))


def test_every_call_that_takes_a_backbone_takes_a_module(photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backbone, other = made(), made(Encoder(seed=1))
    recipe = vladapt.Recipe(domain="natural", data={"path": str(photos)}, workers=0)
    compared = vladapt.compare(recipe, ["nearest-mean"], [2], [1], backbones=[backbone, other], splits=1)
    assert {row["backbone"] for row in compared.rows} == {backbone.spec, other.spec}
    alone = vladapt.compare(recipe, ["nearest-mean"], [2], [1], backbone=backbone, splits=1, out="alone")
    first = [row["accuracy"] for row in compared.rows if row["backbone"] == backbone.spec]
    assert [row["accuracy"] for row in alone.rows] == first
    assert embed(recipe, "features.safetensors", backbone=backbone).dim == 12
    assert vladapt.load_features("features.safetensors").features.backbone == backbone.fingerprint
    pool = {"data": {"path": str(photos / "red")}, "classes": ["cat", "dog"]}
    chosen = select(recipe.with_(**pool), "todo.csv", backbone=backbone, budget=2, method="coreset")
    assert chosen.images == 2 and vladapt.Recipe(backbone=backbone).backbone == backbone.spec

    made_of = index(recipe, "photos.index", images=[photos], backbone=backbone)
    assert made_of.dims == 12 and made_of.entries == 30
    OFFERED.clear()  # another process
    image = str(photos / "red" / "0.png")
    with pytest.raises(CapabilityError):
        search("photos.index", image=image)
    with pytest.raises(CapabilityError, match="made with backbone"):
        search("photos.index", image=image, backbone=other)
    assert search("photos.index", image=image, backbone=made()).hits[0].entry.source.endswith("red/0.png")


def test_a_comparison_does_not_go_on_with_another_module(photos, tmp_path, monkeypatch):
    recipe = vladapt.Recipe(domain="natural", data={"path": str(photos)}, workers=0)
    first, changed = made(), made(Encoder(gain=2.0))
    changed.spec = first.spec  # as of a file whose code was changed

    def stopped(*args):
        raise KeyboardInterrupt

    how = {"adapters": ["nearest-mean", "ridge"], "shots": [2], "seeds": [1], "splits": 1, "out": tmp_path / "c"}
    with monkeypatch.context() as patch:
        patch.setattr("vladapt.core.engine.compare.write_csv", stopped)
        with pytest.raises(KeyboardInterrupt):
            vladapt.compare(recipe, backbone=first, **how)
    with pytest.raises(ConfigError, match="holds another comparison"):
        vladapt.compare(recipe, backbone=changed, resume=True, **how)
    assert len(vladapt.compare(recipe, backbone=first, resume=True, **how).rows) >= 2


def resnet(head=False):
    torch.manual_seed(0)
    module = models.ResNet(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=12)
    module.fc = module.fc if head else nn.Identity()
    return module


def transformer(head=False):
    torch.manual_seed(0)
    module = models.VisionTransformer(32, 8, 2, 2, 24, 48, num_classes=12)
    module.heads = nn.Linear(24, 12) if head else nn.Identity()
    return module


OPENED = {
    "torchvision's ResNet": (resnet, 512, 64),
    "its classifier": (partial(resnet, head=True), 12, 64),
    "torchvision's transformer": (transformer, 24, 32),
    "with a projection": (partial(transformer, head=True), 12, 32),
    "timm's transformer": (partial(timm.create_model, "test_vit", num_classes=0), 64, 160),
    "timm's ResNet": (partial(timm.create_model, "test_resnet", num_classes=0), 96, 160),
}


@pytest.mark.parametrize("name", OPENED)
def test_architectures_of_timm_and_torchvision_are_opened(name):
    module, dim, side = OPENED[name]
    module = module().eval()
    backbone = made(module, image_size=side, embed_dim=dim)
    pixels = torch.randn(2, 3, side, side)
    features = module(pixels)
    torch.testing.assert_close(backbone.encode_image(pixels, normalize=False), features)
    tokens, (rows, columns) = backbone.image_tokens(pixels)
    assert tokens.shape == (2, rows * columns, dim) and rows * backbone.image_stride == side
    assert backbone.feature_maps(pixels)[-1].shape[-2:] == (rows, columns)
    if "ResNet" in name or "classifier" in name:
        whole = backbone.pool_map(backbone.feature_maps(pixels)[-1])
        torch.testing.assert_close(whole[:, 0], features, atol=1e-5, rtol=1e-4)
        return
    inside = backbone.pool_image(backbone.run_blocks("image", backbone.embed_image(pixels)), normalize=False)
    torch.testing.assert_close(inside, features, atol=1e-5, rtol=1e-4)
    LowRank.add(backbone, towers=("image",), r=2, alpha=1.0, dropout=0.0, params=("q", "v"), positions="all")
    torch.testing.assert_close(backbone.encode_image(pixels, normalize=False), features, atol=1e-5, rtol=1e-4)
    backbone.encode_image(pixels).sum().backward()
    trained = [each for each in backbone.model.parameters() if each.requires_grad]
    assert len(trained) == 4 * len(backbone.blocks("image")) and any(each.grad.abs().max() > 0 for each in trained)


def test_bands_enter_by_its_first_convolution():
    backbone, pixels = made(preprocess=halves), torch.randn(2, 5, 32, 32)
    expected = backbone.encode_image(pixels[:, :3])
    wide = load_backbone(spec_of(backbone), "cpu", channels=InputChannels(("red", "green", "blue", "a", "b")))
    torch.testing.assert_close(wide.encode_image(pixels), expected)
    assert wide.input_layer().in_channels == 5 and wide.fingerprint != backbone.fingerprint
    bands = np.random.default_rng(0).integers(0, 256, (32, 32, 5)).astype(np.uint8)
    torch.testing.assert_close(wide.preprocess()(bands)[:3], backbone.preprocess()(bands[..., :3]))
    torch.testing.assert_close(backbone.encode_image(pixels[:, :3]), expected)


def test_trained_weights_are_loaded_into_the_module_given_again(tmp_path):
    backbone, pixels = made(), torch.randn(2, 3, 32, 32)
    spec_of(backbone)
    trained = load_backbone(backbone.spec, "cpu")
    with torch.no_grad():
        next(trained.model.parameters()).mul_(2)
    file = str(save_fine_tuned(trained, tmp_path))
    again = load_backbone(file, "cpu")
    assert again.fingerprint not in (backbone.fingerprint, trained.fingerprint) and again.spec == file
    torch.testing.assert_close(again.encode_image(pixels), trained.encode_image(pixels))
    assert not torch.allclose(again.encode_image(pixels), backbone.encode_image(pixels))
    other = made(Encoder(gain=2.0))
    other.spec = backbone.spec  # as of a file whose code was changed
    spec_of(other)
    with pytest.raises(CapabilityError, match=r"was trained from .* give the module of the training"):
        load_backbone(file, "cpu")
    OFFERED.clear()  # another process
    with pytest.raises(CapabilityError):
        load_backbone(file, "cpu")


class OfTwoScales(models.ResNet):
    def forward(self, x):
        return super().forward(x) + super().forward(x[..., ::2, ::2])


def test_what_only_looks_like_one_is_run_whole():
    other = OfTwoScales(models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=12)
    patched = resnet(head=True)
    patched.forward = lambda x, plain=patched.forward: plain(x) * 2
    for module in (other, patched):
        assert made(module, image_size=64).capabilities == {"hidden"}


@pytest.mark.thorough
def test_a_run_on_a_transformer_of_ones_own_is_explained_and_exported(photos, tmp_path):
    pytest.importorskip("onnxruntime")
    backbone = made(transformer(), embed_dim=24)
    how = {"domain": "natural", "data": str(photos), "adapter": "nearest-mean", "shots": 2, "workers": 0}
    run = vladapt.fit(**how, backbone=backbone, out=str(tmp_path / "runs")).run
    image = [photos / "red" / "0.png"]
    for explain in ("rollout", "occlusion"):
        folder = tmp_path / explain
        vladapt.predict(run, image, workers=0, out=folder, explain=explain)
        assert list(folder.rglob("*.png")), explain
    with pytest.raises(CapabilityError, match="grad-cam"):
        plain = vladapt.fit(**how, backbone=made(), out=str(tmp_path / "runs")).run
        vladapt.predict(plain, image, workers=0, out=tmp_path / "none", explain="grad-cam")
    assert vladapt.export(run, tmp_path / "onnx", backbone=backbone).files
