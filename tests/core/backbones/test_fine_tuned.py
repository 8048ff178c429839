"""What was trained here is a backbone like any other: saved, loaded in the same or another library, told apart."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from vladapt import ConfigError, DataError, build_loss
from vladapt.core.backbones.load import load_backbone, save_fine_tuned
from vladapt.core.runtime.reading import sha256_in
from vladapt.core.training.model import dims_of

TEXTS = ["a red square", "two blue circles"]


def moved(backbone):
    """The backbone with each weight a little off."""
    with torch.no_grad():
        torch.manual_seed(3)
        for parameter in backbone.model.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return backbone


def assert_same_towers(one, other):
    pixels = torch.randn(2, 3, one.image_size, one.image_size, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(one.encode_image(pixels), other.encode_image(pixels), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.encode_text(TEXTS), other.encode_text(TEXTS), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(one.logit_scale, other.logit_scale)


@pytest.mark.parametrize("as_folder", [False, True])
def test_an_open_clip_model_comes_back(small_clip_spec, tmp_path, as_folder):
    trained = moved(load_backbone(small_clip_spec, device="cpu"))
    path = save_fine_tuned(trained, tmp_path / "out")
    again = load_backbone(str(path.parent if as_folder else path), device="cpu")
    assert_same_towers(trained, again)
    assert again.fingerprint != trained.fingerprint
    assert again.preprocess().spec == trained.preprocess().spec


def test_the_folder_needs_nothing_of_the_old_one(small_clip_spec, tmp_path):
    trained = moved(load_backbone(small_clip_spec, device="cpu"))
    path = save_fine_tuned(trained, tmp_path / "out")
    moved_path = tmp_path / "elsewhere" / "model.safetensors"
    moved_path.parent.mkdir()
    moved_path.write_bytes(path.read_bytes())
    assert_same_towers(trained, load_backbone(str(moved_path), device="cpu"))


def test_open_clip_reads_what_is_beside_it(small_clip_spec, tmp_path):
    trained = moved(load_backbone(small_clip_spec, device="cpu"))
    folder = save_fine_tuned(trained, tmp_path).parent
    again = load_backbone(f"open_clip:{folder / 'open_clip_config.json'}@{folder / 'model.safetensors'}", device="cpu")
    assert_same_towers(trained, again)


def test_it_can_be_trained_and_saved_again(small_clip_spec, tmp_path):
    first = save_fine_tuned(moved(load_backbone(small_clip_spec, device="cpu")), tmp_path / "one")
    second = moved(load_backbone(str(first), device="cpu"))
    assert_same_towers(second, load_backbone(str(save_fine_tuned(second, tmp_path / "two")), device="cpu"))


def test_another_image_size(small_clip_spec, tmp_path):
    path = save_fine_tuned(load_backbone(small_clip_spec, device="cpu"), tmp_path)
    larger = load_backbone(str(path), device="cpu", image_size=32)
    assert larger.encode_image(torch.zeros(1, 3, 32, 32)).shape == (1, 24)


@pytest.mark.thorough
def test_the_embedded_towers_come_back(tmp_path):
    trained = moved(load_backbone("embedded", device="cpu"))
    path = save_fine_tuned(trained, tmp_path)
    again = load_backbone(str(path), device="cpu")
    assert_same_towers(trained, again)
    assert not again.notes


@pytest.mark.parametrize("make", ["missing", "text", "foreign", "newer", "family"])
def test_what_is_no_such_file_is_told_in_one_line(tmp_path, make):
    path = tmp_path / "model.safetensors"
    if make == "text":
        path.write_text("no weights")
    if make == "foreign":
        save_file({"a": torch.zeros(1)}, str(path))
    if make == "newer":
        header = json.dumps({"format": 99, "family": "embedded", "description": {}})
        save_file({"a": torch.zeros(1)}, str(path), metadata={"vladapt": header})
    if make == "family":
        header = json.dumps({"format": 1, "family": "of_tomorrow", "description": {}})
        save_file({"a": torch.zeros(1)}, str(path), metadata={"vladapt": header})
    with pytest.raises(DataError, match=r"model\.safetensors"):
        load_backbone(str(path), device="cpu")


def test_weights_that_are_not_those_of_the_run_beside_them_are_refused(small_clip_spec, tmp_path):
    path = save_fine_tuned(load_backbone(small_clip_spec, device="cpu"), tmp_path)
    for told in ({"sha256": sha256_in(tmp_path)}, {"sha256": {}}, {}, [1]):
        (tmp_path / "run.json").write_text(json.dumps(told))
        assert load_backbone(str(path), device="cpu").fingerprint
    (tmp_path / "run.json").write_text(json.dumps({"sha256": sha256_in(tmp_path)}))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(DataError, match=r"model\.safetensors: damaged or replaced, .*; copy it again"):
        load_backbone(str(path), device="cpu")


def test_the_file_holds_the_names_of_its_library(small_clip_spec, tmp_path):
    trained = load_backbone(small_clip_spec, device="cpu")
    assert set(load_file(save_fine_tuned(trained, tmp_path))) == set(trained.model.state_dict())


@pytest.mark.thorough(but=("small",))
@pytest.mark.parametrize("spec", ["small", "embedded"])
def test_a_prefix_of_texts_is_kept(small_clip_spec, tmp_path, spec):
    trained = load_backbone(small_clip_spec if spec == "small" else "embedded", device="cpu")
    plain = trained.encode_text(TEXTS)
    width = trained.embed_tokens(trained.tokenize(["a"])).shape[-1]
    trained.text_prefix = torch.randn(3, width, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(plain, trained.encode_text(TEXTS), atol=1e-3)
    again = load_backbone(str(save_fine_tuned(trained, tmp_path)), device="cpu")
    assert_same_towers(trained, again)


def test_a_model_is_seen_through_what_its_loss_finds_by(small_clip_spec, tmp_path):
    trained = load_backbone(small_clip_spec, device="cpu")
    trained.finder = build_loss("m-flag", dims_of(trained, 8))
    path = save_fine_tuned(trained, tmp_path / "out")
    towers, found = load_backbone(str(path), device="cpu"), load_backbone(f"projected:{path}", device="cpu")
    pixels = torch.randn(2, 3, found.image_size, found.image_size, generator=torch.Generator().manual_seed(0))
    assert found.embed_dim == 1024 and found.spec == f"projected:{path}" and found.fingerprint != towers.fingerprint
    torch.testing.assert_close(found.encode_image(pixels), trained.finder.eval().embed_image(trained, pixels))
    torch.testing.assert_close(
        found.encode_text(TEXTS), trained.finder.embed_text(trained, trained.tokenize(TEXTS)), atol=1e-5, rtol=1e-5
    )
    plain = save_fine_tuned(moved(load_backbone(small_clip_spec, device="cpu")), tmp_path / "plain")
    with pytest.raises(ConfigError, match="omit projected:"):
        load_backbone(f"projected:{plain}")
