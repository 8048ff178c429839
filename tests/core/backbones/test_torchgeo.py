"""Encoders of torchgeo: with the weights of a seed or a file their features are those of its own forward pass, and each
band enters as what it is."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from vladapt.core.backbones.load import load_backbone, save_fine_tuned
from vladapt.core.contracts.images import Band, InputChannels
from vladapt.core.errors import CapabilityError, ConfigError, DataError, UnknownNameError

pytest.importorskip("torchgeo", reason="extra torchgeo is not installed")

import timm
from torchgeo import models

from vladapt.core.backbones import torchgeo as family
from vladapt.core.backbones.torchgeo_towers import distance_bias

BLOCKS = {"hidden", "image_tokens", "feature_maps", "image_blocks"}
S2 = ["B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"]
WAVES = (665.0, 560.0, 490.0, 842.0)


def channels(codes, sensor="sentinel-2", waves=()):
    bands = [Band(sensor, code, "", *wave) for code, wave in zip(codes, waves or [()] * len(codes))]
    return InputChannels(tuple(code.lower() for code in codes), bands=tuple(bands))


FOUR = channels(("B04", "B03", "B02", "B08"), waves=tuple((wave, 30.0 + wave / 100) for wave in WAVES))


@pytest.fixture(autouse=True, scope="module")
def tiny():
    """Each kind of encoder, narrow and shallow, under the name of its kind."""
    small = {"embed_dim": 24, "depth": 4, "num_heads": 2, "num_classes": 0, "img_size": 64}
    croma = {"encoder_dim": 32, "encoder_depth": 4, "num_heads": 16, "image_size": 32}
    whole = family.ARCHITECTURES
    made = {
        "dofa": ("dofa_base_patch16_224", partial(models.DOFA, **small), 24, 64),
        "copernicus": ("copernicusfm_base", partial(models.CopernicusFM, **small), 24, 64),
        "scalemae": ("scalemae_large_patch16", partial(models.ScaleMAE, **small), 24, 64),
        "panopticon": ("panopticon_vitb14", panopticon, 24, 56),
        **{
            f"croma.{kind}": (f"croma_base.{kind}", partial(models.CROMA, modalities=sides, **croma), 32, 32)
            for kind, sides in (("optical", ["optical"]), ("sar", ["sar"]), ("joint", ["sar", "optical"]))
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, (like, build, width, size) in made.items():
            facts = {"build": partial(positioned, build), "width": width, "size": size}
            small_one = partial(lambda like, facts: family.replace(whole[like](), **facts), like, facts)
            patch.setitem(family.ARCHITECTURES, name, small_one)
        yield


def panopticon():
    with pytest.MonkeyPatch.context() as patch:
        create = timm.create_model
        patch.setattr(timm, "create_model", lambda name: create(name, embed_dim=24, depth=2, num_heads=2, img_size=56))
        return models.Panopticon(attn_dim=48, embed_dim=24, img_size=56)


def positioned(build):
    """With positions, tokens and scales other than zero, so that their order makes a difference."""
    model = build()
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or "pos_embed" in name or "token" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@torch.no_grad()
def theirs(name, model, x, res=None):
    """torchgeo's own forward pass of the bands that enter."""
    if name == "dofa":
        return model(x, wavelengths=[0.665, 0.56, 0.49, 0.842])
    if name == "copernicus":
        metadata = torch.full((len(x), 4), torch.nan)
        if res:
            metadata[:, 3] = (res * 16 / 1000) ** 2
        return model(x, metadata, wavelengths=list(WAVES), bandwidths=[30.0 + wave / 100 for wave in WAVES])
    if name == "panopticon":
        return model({"imgs": x, "chn_ids": torch.tensor([WAVES] * len(x))})
    if name == "scalemae":
        model.res = res or 1.0
        return model(x)
    kind = name.partition(".")[2]
    sides = {"x_sar": x[:, :2]} if kind != "optical" else {}
    sides |= {"x_optical": x[:, -12:]} if kind != "sar" else {}
    return model(**sides)[f"{kind}_GAP"]


CROMA_BANDS = {"sar": ["VV", "VH"], "optical": [code for code in S2 if code != "B10"]}
GIVEN = {
    "dofa": FOUR,
    "copernicus": FOUR,
    "panopticon": FOUR,
    "scalemae": None,
    "croma.optical": channels(CROMA_BANDS["optical"]),
    "croma.sar": InputChannels(("vv", "vh", "vv-vh"), bands=(Band("sar", "VV", "vv"), Band("sar", "VH", "vh"), Band())),
    "croma.joint": InputChannels(
        tuple(map(str.lower, CROMA_BANDS["sar"] + CROMA_BANDS["optical"])),
        bands=(Band("sar", "VV"), Band("sar", "VH"), *channels(CROMA_BANDS["optical"]).bands),
    ),
}


def built(name, file, options=""):
    return load_backbone(f"torchgeo:{name}@{file}{options}", "cpu", channels=GIVEN[name])


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tiny):
    """Name -> (torchgeo's model, the file of its weights, as torchgeo publishes them)."""
    made, folder = {}, tmp_path_factory.mktemp("weights")

    def make(name):
        if name not in made:
            torch.manual_seed(5)
            model = family.ARCHITECTURES[name]().build().eval()
            state = model.state_dict()
            if name.startswith("croma"):  # published by module, without the bias
                parts = {key.partition(".")[0] for key in state if "." in key}
                state = {
                    part: {k.removeprefix(f"{part}."): v for k, v in state.items() if k.startswith(f"{part}.")}
                    for part in parts
                }
            if name == "panopticon":
                state = {key.removeprefix("model."): value for key, value in state.items()} | {
                    "mask_token": torch.ones(1)
                }
            torch.save(state, folder / f"{name}.pth")
            made[name] = model, folder / f"{name}.pth"
        return made[name]

    return make


def pixels(backbone, sides=None, seed=0):
    count, sides = len(backbone.image_mean), sides or backbone.transform.sides
    return torch.randn(2, count, *sides, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
@pytest.mark.parametrize("name", GIVEN)
def test_features_are_those_of_torchgeos_own_forward_pass(name, saved):
    model, file = saved(name)
    backbone = built(name, file)
    x = pixels(backbone)
    wanted = theirs(name, model, x)
    assert wanted.std() > 1e-2
    close = partial(torch.testing.assert_close, atol=1e-5, rtol=1e-5)
    close(backbone.encode_image(x, normalize=False), wanted)
    close(backbone.hidden(x), wanted)
    tokens, (rows, columns) = backbone.image_tokens(x)
    assert tokens.shape == (2, rows * columns, backbone.embed_dim)
    assert rows * backbone.image_stride == backbone.transform.sides[0]
    maps = backbone.feature_maps(x)
    assert maps[-1].shape[-2:] == (rows, columns)
    if name == "croma.joint":
        assert backbone.capabilities == BLOCKS - {"image_blocks"}
        close(backbone.pool_map(maps[-1])[:, 0], wanted)
    else:
        assert backbone.capabilities == BLOCKS
        close(backbone.pool_image(backbone.run_blocks("image", backbone.embed_image(x)), normalize=False), wanted)


@torch.no_grad()
@pytest.mark.parametrize("name", ["copernicus", "scalemae"])
def test_the_size_of_a_pixel_on_the_ground(name, saved):
    model, file = saved(name)
    plain, coarse = built(name, file), built(name, file, "#res=10")
    x = pixels(plain)
    features = coarse.encode_image(x, normalize=False)
    torch.testing.assert_close(features, theirs(name, model, x, 10.0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(coarse.hidden(x), features, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(features, plain.encode_image(x, normalize=False), atol=1e-3)
    assert coarse.fingerprint != plain.fingerprint and "#res" in coarse.notes_on_channels()[1]
    with pytest.raises(CapabilityError, match="omit #res"):
        built("dofa", saved("dofa")[1], "#res=10")
    with pytest.raises(ConfigError, match="#res=0: is not usable"):
        built(name, file, "#res=0")


@torch.no_grad()
@pytest.mark.parametrize("name", GIVEN)
def test_images_of_another_size(name, saved):
    model, file = saved(name)
    side = 28 if name == "panopticon" else 32
    backbone = load_backbone(f"torchgeo:{name}@{file}", "cpu", (side, 2 * side), GIVEN[name])
    x = pixels(backbone)
    features, (tokens, grid) = backbone.encode_image(x, normalize=False), backbone.image_tokens(x)
    assert features.isfinite().all() and grid[1] == 2 * grid[0] and tokens.shape[1] == grid[0] * grid[1]
    if name == "copernicus":  # which resamples positions itself, of squares
        square = torch.randn(1, 4, 32, 32)
        torch.testing.assert_close(backbone.hidden(square), theirs(name, model, square), atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="give a multiple"):
        load_backbone(f"torchgeo:{name}@{file}", "cpu", 36 if side == 32 else 30, GIVEN[name])


@torch.no_grad()
def test_each_wavelength_changes_the_features(saved):
    for name in ("dofa", "copernicus", "panopticon"):
        file = saved(name)[1]
        usual, moved = (
            built(name, file),
            channels(("B04", "B03", "B02", "B12"), waves=[(w, 40.0) for w in WAVES[:3]] + [(2190.0, 180.0)]),
        )
        other = load_backbone(f"torchgeo:{name}@{file}", "cpu", channels=moved)
        x = pixels(usual)
        assert (usual.encode_image(x) - other.encode_image(x)).abs().max() > 1e-5
        assert usual.fingerprint != other.fingerprint and "b12 at 2190" in other.notes_on_channels()[0]


@torch.no_grad()
def test_bands_enter_by_name_in_any_order(saved):
    file, order = saved("croma.optical")[1], np.random.default_rng(0).permutation(13)
    backbone = built("croma.optical", file)
    shuffled = load_backbone(
        f"torchgeo:croma.optical@{file}", "cpu", channels=channels([S2[i] for i in order], "eurosat")
    )
    x = torch.randn(2, 13, 32, 32)
    straight = x[:, [i for i, code in enumerate(S2) if code != "B10"]]
    torch.testing.assert_close(
        shuffled.encode_image(x[:, order]), backbone.encode_image(straight), atol=1e-5, rtol=1e-5
    )
    assert "b10 is unused" in shuffled.notes_on_channels()[0]


@torch.no_grad()
@pytest.mark.parametrize("name", ["dofa", "croma.sar", "scalemae"])
def test_trained_weights_are_loaded_again(name, saved, tmp_path):
    backbone = built(name, saved(name)[1], "#res=3" if name == "scalemae" else "")
    next(backbone.model.parameters()).mul_(1.5)
    again = load_backbone(str(save_fine_tuned(backbone, tmp_path)), "cpu", channels=GIVEN[name])
    x = pixels(backbone)
    torch.testing.assert_close(again.encode_image(x), backbone.encode_image(x))
    assert again.channels == backbone.channels and again.preprocess().spec == backbone.preprocess().spec
    assert again.notes_on_channels() == backbone.notes_on_channels()


@pytest.mark.parametrize(
    ("name", "codes", "factor"),
    [
        ("ResNet18_Weights.SENTINEL2_ALL_MOCO", S2, 10000),
        ("ResNet50_Weights.SENTINEL2_ALL_SOFTCON", S2, 10000),
        ("ResNet18_Weights.SENTINEL2_RGB_SECO", ["B04", "B03", "B02"], 255),
        ("ViTSmall16_Weights.SENTINEL1_GRD_MAE", ["VV", "VH"], None),
    ],
)
def test_pixels_are_those_of_the_transforms_of_the_weights(name, codes, factor):
    backbone = load_backbone(
        f"torchgeo:{name}@random:0", "cpu", channels=channels(codes, "sar" if factor is None else "sentinel-2")
    )
    image = np.random.default_rng(0).random((90, 120, len(codes)), dtype=np.float32)
    x = torch.from_numpy(image).permute(2, 0, 1)
    wanted = models.get_weight(name).transforms((x * 30 - 30 if factor is None else x * factor)[None].clone())[0]
    made = backbone.preprocess()(image)
    assert made.shape == wanted.shape
    torch.testing.assert_close(made, wanted, atol=1e-3, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", ["ResNet18_Weights.SENTINEL2_ALL_MOCO", "ViTSmall16_Weights.SENTINEL2_ALL_MOCO"])
def test_features_of_ssl4eo_are_timms(name, tmp_path):
    torch.manual_seed(1)
    small = {"depth": 1, "embed_dim": 48, "num_heads": 3} if name.startswith("ViT") else {}
    kind = "vit_small_patch16_224" if small else "test_resnet"
    create = partial(timm.create_model, kind, in_chans=13, **small)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(family.timm, "create_model", lambda _, in_chans, num_classes: create(num_classes=num_classes))
        model = create().eval()  # with a classifier, which the encoder goes without
        torch.save(model.state_dict(), tmp_path / "w.pth")
        backbone = load_backbone(f"torchgeo:{name}@{tmp_path / 'w.pth'}", "cpu", channels=channels(S2))
        x = torch.randn(1, 13, 224, 224)
        wanted = model.forward_head(model.forward_features(x), pre_logits=True)
        torch.testing.assert_close(backbone.encode_image(x, normalize=False), wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(backbone.hidden(x), wanted, atol=1e-5, rtol=1e-5)
        assert backbone.image_tokens(x)[1] == ((14, 14) if small else (7, 7))


def test_attention_falls_with_distance_as_in_croma():
    theirs = models.croma.get_2dalibi(num_heads=16, num_patches=9)
    torch.testing.assert_close(distance_bias(16, (3, 3), torch.zeros(1)), theirs)


@pytest.mark.parametrize(
    ("spec", "given", "error", "says"),
    [
        ("dofa_base_patch61_224", None, UnknownNameError, "has no encoder 'dofa_base_patch61_224'; did you mean"),
        ("Swin_V2_T_Weights.SENTINEL2_SI_RGB_SATLAS", None, CapabilityError, "swin_v2_t is not supported"),
        (
            "dofa_huge_patch14_224",
            None,
            DataError,
            "publishes no weights of it; give torchgeo:dofa_huge_patch14_224@FILE",
        ),
        (
            "dofa_base_patch16_224",
            None,
            DataError,
            r"download https://\S+ and give torchgeo:dofa_base\S+@FILE",
        ),
        ("croma.optical@random", None, CapabilityError, r"takes 12 bands \(B01, .*; give them by --bands and --sensor"),
        ("croma.optical@random", channels(S2[:10]), CapabilityError, "--bands lacks B11, B12"),
        ("croma.optical@random", channels(["B1", "B2", "B3", "B4"], "landsat-8"), CapabilityError, "are of landsat-8"),
        ("croma.optical@random", InputChannels(tuple("1234")), CapabilityError, r"the images have 4 \(1, 2, 3, 4\)"),
        ("dofa@random", InputChannels(tuple("1234")), ConfigError, r"not known of 1, 2, 3, 4; name .* --bands 1@842,"),
        (
            "copernicus@random",
            channels("abcd", "", [(9.0,)] * 4),
            ConfigError,
            r"bandwidth, .* --bands a@842/115",
        ),
        ("dofa@random#merge=100", None, None, ""),
        ("croma.sar@random#merge=2", GIVEN["croma.sar"], CapabilityError, "by their distance"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(spec, given, error, says, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    if error is None:
        assert load_backbone(f"torchgeo:{spec}", "cpu", channels=given).reduction is not None
        return
    with pytest.raises(error, match=says):
        load_backbone(f"torchgeo:{spec}", "cpu", channels=given).preprocess()
