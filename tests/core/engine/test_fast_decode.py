"""`--fast-decode`: photographs reduced by their decoder, by an encoder that says so wherever it is named."""

import io
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import vladapt
from vladapt.core.backbones import load_backbone
from vladapt.core.backbones.preprocessing import FAST_MARGIN, Preprocess
from vladapt.core.contracts.backbone import offered
from vladapt.core.data.images import decode_bytes
from vladapt.core.engine.embed import embed
from vladapt.core.engine.index import index
from vladapt.core.engine.search import search
from vladapt.core.errors import VladaptError
from vladapt.core.recipes.resolve import resolve

MEANS = (0.5, 0.5, 0.5)


class Means(torch.nn.Module):
    def forward(self, pixels):
        return torch.nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1)


def encoded(kind="JPEG", size=(640, 480), seed=0):
    """A picture with large and small structures."""
    numbers = np.random.default_rng(seed)
    large = Image.fromarray(numbers.integers(0, 255, (6, 8, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    noise = numbers.integers(-40, 40, (size[1], size[0], 3))
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(large, int) + noise).clip(0, 255).astype(np.uint8)).save(buffer, kind, quality=95)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def spec():
    yield offered(vladapt.Backbone.from_module(Means(), image_size=32, embed_dim=48))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(encoded(seed=number))
    return folder


def test_the_decoder_leaves_at_least_the_side_that_is_asked_for():
    photograph = encoded()
    assert decode_bytes(photograph, "a", {"least_side": 100}).shape == (120, 160, 3)
    assert decode_bytes(photograph, "a", {"least_side": 121}).shape == (240, 320, 3)
    assert decode_bytes(photograph, "a", {"least_side": 481}).shape == (480, 640, 3)
    assert decode_bytes(encoded("PNG"), "a", {"least_side": 60}).shape == (480, 640, 3)
    cut = {"box": [0, 0, 500, 400]}
    np.testing.assert_array_equal(
        decode_bytes(photograph, "a", cut | {"least_side": 60}), decode_bytes(photograph, "a", cut)
    )


@pytest.mark.parametrize(
    ("how", "side"), [({"image_size": 32}, 32), ({"image_size": (64, 32)}, 64), ({"image_size": 32, "resize": 40}, 40)]
)
def test_a_transform_needs_what_it_resizes_to_and_a_margin(how, side):
    plain = Preprocess(mean=MEANS, std=MEANS, **how)
    fast = replace(plain, fast_decode=True)
    assert plain.least_side is None and fast.least_side == FAST_MARGIN * side
    assert fast.spec == {**plain.spec, "fast_decode": FAST_MARGIN} and "fast_decode" not in plain.spec


def test_embedded_photographs_are_those_that_the_decoder_reduced(pictures, spec, tmp_path):
    recipe, rows = resolve(flags={"backbone": spec, "device": "cpu"}), {}
    for fast in (False, True):
        how = {"as_": "parquet", "dtype": "float32", "fast_decode": fast}
        written = embed(recipe, tmp_path / "out", images=[str(pictures)], **how)
        rows[fast] = pd.read_parquet(written.folder)
    backbone = load_backbone(spec, "cpu")
    plain = backbone.preprocess(False)
    assert set(rows[False]["encoder"]) == {backbone.fingerprint} and plain.least_side is None
    backbone.decode_fast()
    assert set(rows[True]["encoder"]) == {backbone.fingerprint} != set(rows[False]["encoder"])
    reduced = {"least_side": backbone.preprocess(False).least_side}
    for decode, some in (({}, rows[False]), (reduced, rows[True])):
        seen = [plain(decode_bytes((pictures / f"{n}.jpg").read_bytes(), "a", decode)) for n in range(4)]
        features = backbone.encode_image(torch.stack(seen), normalize=False)
        np.testing.assert_allclose(np.stack(some["image_features"]), features.detach(), atol=1e-5)
    apart = np.abs(np.stack(rows[True]["image_features"]) - np.stack(rows[False]["image_features"])).max()
    assert 1e-4 < apart < 0.1


def test_an_index_knows_how_its_images_were_decoded(pictures, spec, tmp_path):
    recipe = resolve(flags={"backbone": spec, "device": "cpu"})
    made = index(recipe, tmp_path / "fast.index", images=[pictures / "0.jpg", pictures / "1.jpg"], fast_decode=True)
    head = json.loads((made.index / "index.json").read_text())
    assert head["backbone"]["fast_decode"] is True and '"fast_decode":2' in head["reading"]["transform"]
    added = index(recipe, tmp_path / "fast.index", images=[pictures / "2.jpg"], add=True)
    assert added.entries == 3
    hits = search(tmp_path / "fast.index", image=str(pictures / "2.jpg"), device="cpu", top=1).hits
    assert hits[0].entry.id.endswith("2.jpg") and hits[0].score == pytest.approx(1, abs=1e-5)
    index(recipe, tmp_path / "plain.index", images=[pictures])
    with pytest.raises(VladaptError, match=r"--fast-decode: .*plain\.index was made without it"):
        index(recipe, tmp_path / "plain.index", images=[pictures], add=True, fast_decode=True)


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        ({"domain": "medical"}, "--fast-decode: is for photographs, and domain 'medical' reads images in its own way"),
        ({"backbone": "own"}, "prepares images in a way of its own"),
        ({"backbone": "twice"}, "--fast-decode: images are reduced for one backbone"),
        ({"as_": None}, "--fast-decode: is an option of shards"),
    ],
)
def test_what_is_no_photograph_for_a_tower_is_refused(pictures, spec, tmp_path, flags, line):
    own = vladapt.Backbone.from_module(
        Means(), image_size=8, embed_dim=48, preprocess=lambda image: torch.zeros(3, 8, 8)
    )
    as_ = flags.pop("as_", "parquet")
    named = {"own": offered(own), "twice": f"{spec},{spec}"}
    flags = {"backbone": spec, **{name: named.get(value, value) for name, value in flags.items()}}
    with pytest.raises(VladaptError, match=line):
        embed(resolve(flags=flags), tmp_path / "a.npz", images=[str(pictures)], as_=as_, fast_decode=True)
