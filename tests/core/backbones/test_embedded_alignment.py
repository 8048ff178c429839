"""The space the embedded towers share: its closed form, its angle, and the file it is kept in."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt.core.backbones import embedded

HEAD, NAMES = 40, 60
fit_alignment = embedded.fit_alignment


def _parts(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(NAMES, HEAD, generator=generator)
    names = F.normalize(torch.randn(NAMES, 16, generator=generator) + 1, dim=1)
    return fit_alignment(rows, names)


def _images(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(5, HEAD, generator=generator), torch.randn(5, NAMES, generator=generator)


@given(phi=st.floats(0, 89.5), seed=st.integers(0, 100))
@settings(max_examples=20, deadline=None)
def test_phi_weighs_the_two_parts_and_changes_no_image_text_order(phi, seed):
    parts, (x, logits) = _parts(), _images(seed)
    flat, tilted = (embedded.Alignment(**parts, phi=angle) for angle in (0.0, phi))
    texts = F.normalize(tilted.text(torch.randn(7, 16, generator=torch.Generator().manual_seed(seed))), dim=1)
    image = F.normalize(tilted.image(x, logits), dim=1)
    aligned, cosine = tilted.in_text_space(x, logits), math.cos(math.radians(phi))
    torch.testing.assert_close(tilted.image(x, logits).norm(dim=1), x.norm(dim=1))
    untilted = F.normalize(flat.image(x, logits), dim=1) @ texts.T
    torch.testing.assert_close(image @ texts.T / cosine, untilted, rtol=0, atol=1e-4)
    expected = cosine**2 * aligned @ aligned.T + (1 - cosine**2) * F.normalize(x, dim=1) @ F.normalize(x, dim=1).T
    torch.testing.assert_close(image @ image.T, expected, rtol=0, atol=1e-5)


def test_a_known_rotation_is_found():
    generator = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(HEAD, 16, generator=generator)).Q  # (HEAD, 16)
    names = torch.randn(NAMES, 16, generator=generator)
    names = F.normalize(names - names.mean(dim=0), dim=1)
    centred = F.normalize(names - names.mean(dim=0), dim=1)
    parts = embedded.fit_alignment(3 * centred @ turn.T, names)
    torch.testing.assert_close(parts["rotation"], turn, rtol=0, atol=1e-4)


def test_the_map_is_the_unit_sum_of_rotation_and_probable_names():
    parts, (x, logits) = _parts(), _images()
    p = embedded.Alignment(**parts, phi=0.0).in_text_space(x, logits)
    for i in range(len(x)):
        best = logits[i].argsort(descending=True)[: embedded.CONSE_NAMES]
        weights = torch.exp(logits[i, best] / embedded.CONSE_TEMPERATURE)
        conse = F.normalize((weights[:, None] * parts["names"][best]).sum(dim=0), dim=0)
        expected = F.normalize(conse + F.normalize(x[i] @ parts["rotation"], dim=0), dim=0)
        torch.testing.assert_close(p[i], expected, rtol=0, atol=1e-5)


def test_texts_are_centred_on_the_names():
    parts = _parts()
    shared = embedded.Alignment(**parts, phi=60.0)
    pooled = 3 * torch.randn(4, 16, generator=torch.Generator().manual_seed(2))
    texts = shared.text(pooled)
    torch.testing.assert_close(texts[:, :16], F.normalize(pooled, dim=1) - parts["centre"])
    assert texts.shape == (4, 16 + HEAD) and not texts[:, 16:].any()


@pytest.fixture
def makes(monkeypatch):
    """Small parts in place of the real ones, and how often they were made."""
    made = []

    def fit(*given):
        made.append(1)
        return _parts()

    class Nothing:
        classifier = torch.nn.Linear(2, 2)

    monkeypatch.setattr(embedded, "fit_alignment", fit)
    monkeypatch.setattr(embedded, "embed_names", lambda *given: None)
    for loader in ("load_efficientnet", "load_minilm"):
        monkeypatch.setattr(embedded.packaged, loader, Nothing)
    monkeypatch.setattr(embedded.packaged, "load_tokenizer", lambda: None)
    return made


def test_the_closed_form_is_kept_for_the_next_process(makes):
    first, second = embedded._tensors.__wrapped__(), embedded._tensors.__wrapped__()
    assert len(makes) == 1 and embedded.kept_file().is_file()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("damage", ["cut", "flip", "other"])
def test_a_damaged_file_is_made_again(makes, damage):
    embedded._tensors.__wrapped__()
    path = embedded.kept_file()
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-100] ^= 0xFF
    path.write_bytes(b"{}" if damage == "other" else content[:-50] if damage == "cut" else content)
    with pytest.warns(UserWarning, match="damaged"):
        made = embedded._tensors.__wrapped__()
    assert len(makes) == 2
    assert all(torch.equal(value, _parts()[name]) for name, value in made.items())
    embedded._tensors.__wrapped__()
    assert len(makes) == 2  # and the file is whole again


def test_a_cache_that_cannot_be_written_is_said_and_does_not_stop(makes, tmp_path, monkeypatch):
    blocker = tmp_path / "a-file"
    blocker.write_text("")
    monkeypatch.setenv("VLADAPT_CACHE", str(blocker))
    with pytest.warns(UserWarning, match="computed again at each start"):
        assert embedded._tensors.__wrapped__().keys() == {"rotation", "names", "centre"}
