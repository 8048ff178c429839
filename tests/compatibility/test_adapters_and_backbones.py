"""Adapter files and backbones of commit 94fbb0e give the numbers that they gave there."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import vladapt
from vladapt import VladaptError

FEATURES = (
    *("zero-shot", "tip-adapter", "tip-adapter-given", "tip-adapter-f", "ape", "ape-t", "tip-x", "linear-probe"),
    *("clip-adapter", "taskres", "lp-plus-plus", "clap", "gda", "real-linear", "nmtune", "transclip"),
    *("linear-probe-several-labels", "taskres-several-labels", "tip-adapter-several-labels"),
)
BACKBONES = {
    "clip.json": "open_clip:clip.json@clip.safetensors",
    "tiny_hf": "hf:tiny_hf",
    **{name: f"models/{name}/model.safetensors" for name in ("clip", "hf", "hf-lora", "hf-prompted")},
    **{f"fit-{name}": f"retrieval_runs/{name}" for name in ("full", "lora")},
}
TEXTS = ["a red cat", "the blue dog at the left"]


def logits_of(name: str) -> list[list[float]]:
    """(12, 3), of the test rows of the features file."""
    with np.load("features.npz") as file:
        rows = torch.from_numpy(file["image_features"][file["split"] == "test"])
    return vladapt.load_adapter(f"adapters/{name}.safetensors").logits(rows).tolist()


def features_of(spec: str) -> dict:
    """Of two drawn images and of two texts, and the logit scale."""
    pixels = (np.random.RandomState(3).randint(0, 256, (2, 3, 16, 16)) - 128) / 64
    backbone = vladapt.load_backbone(spec, device="cpu")
    with torch.no_grad():
        return {
            "images": backbone.encode_image(torch.from_numpy(pixels).float()).tolist(),
            "texts": backbone.encode_text(TEXTS).tolist(),
            "logit_scale": float(backbone.logit_scale),
        }


def assert_close(one, other, within: float = 1e-5) -> None:
    torch.testing.assert_close(torch.tensor(one), torch.tensor(other), rtol=within, atol=within)


@pytest.mark.parametrize("name", FEATURES)
def test_an_adapter_file_gives_its_logits(place, expected, name):
    assert_close(logits_of(name), expected["logits"][name])


def test_a_file_that_gave_a_preset_and_the_defaults_beside_it_predicts_the_same(place, tmp_path):
    """Commits since then wrote `class_weight=balanced`, which did nothing beside a preset."""
    written = "adapters/tip-adapter.safetensors"
    with safe_open(written, framework="pt") as file:
        header = json.loads(file.metadata()["vladapt"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is not a mapping)
    header["options"] |= {"preset": "eurosat", "class_weight": "balanced", "ties": "plateau"}
    save_file(tensors, tmp_path / "later.safetensors", metadata={"vladapt": json.dumps(header)})
    later, one = vladapt.load_adapter(tmp_path / "later.safetensors"), vladapt.load_adapter(written)
    rows = torch.randn(4, one.dim_, generator=torch.Generator().manual_seed(0))
    assert torch.equal(later.logits(rows), one.logits(rows))


def test_every_adapter_file_is_among_these(place):
    assert {path.stem for path in (place / "adapters").iterdir()} == set(FEATURES)


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_gives_its_features(place, expected, name):
    pytest.importorskip("transformers" if "hf" in BACKBONES[name] or name == "fit-full" else "open_clip")
    now, then = features_of(BACKBONES[name]), expected["backbones"][name]
    for part in then:
        assert_close(now[part], then[part])


def test_the_training_shows(expected):
    """A test of the test: a backbone that was read without what was trained would have its start's features."""
    made = expected["backbones"]
    for name in BACKBONES.keys() - {"clip.json", "tiny_hf"}:
        start = "clip.json" if name in ("clip", "fit-lora") else "tiny_hf"
        assert not np.allclose(made[name]["images"], made[start]["images"], atol=1e-3), name
    for name, start in {"clip": "clip.json", "hf": "tiny_hf", "fit-full": "tiny_hf"}.items():
        assert not np.allclose(made[name]["texts"], made[start]["texts"], atol=1e-3), name


def _write_again(path, change) -> None:
    """The file with another header."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
        header = json.loads(file.metadata()["vladapt"])
    save_file(tensors, path, metadata={"vladapt": json.dumps({**header, **change})})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format 2"),
        ({"adapter": "tip-adapter-z"}, "tip-adapter-z"),
        ({"options": {"views": 10, "temper": 1.0}}, "temper"),
        ({"scalars": {}}, "fit again"),
        (None, "fit again"),
    ],
    ids=["newer format", "unknown adapter", "unknown option", "lacks numbers", "cut"],
)
def test_an_adapter_file_that_cannot_be_read_is_one_line(place, tmp_path, change, said):
    path = shutil.copy(place / "adapters" / "tip-adapter.safetensors", tmp_path / "adapter.safetensors")
    if change is None:
        path.write_bytes(path.read_bytes()[:-40])
    else:
        _write_again(path, change)
    with pytest.raises(VladaptError, match=said):
        vladapt.load_adapter(path)


@pytest.mark.parametrize("change", [{"format": 2}, None], ids=["newer format", "cut"])
def test_a_backbone_that_cannot_be_read_is_one_line(place, tmp_path, change):
    pytest.importorskip("transformers")
    path = shutil.copytree(place / "models" / "hf", tmp_path / "model") / "model.safetensors"
    if change is None:
        path.write_bytes(path.read_bytes()[:-40])
    else:
        _write_again(path, change)
    with pytest.raises(VladaptError, match=r"model\.safetensors"):
        features_of(str(path))
