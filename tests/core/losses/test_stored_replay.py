"""Replay of stored pairs: which are drawn, and their loss beside a loop."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from vladapt import CapabilityError, ConfigError, DataError, build_loss
from vladapt.core.losses.stored_replay import PROBE
from vladapt.core.runtime.files import write_tensors


@pytest.fixture
def out(example_out):
    loss = build_loss("stored-replay")
    made = example_out(loss.needs, 3, loss.outputs)
    return {**made, "stored.row": torch.tensor([0, 1, 2, 3, 4, 1, 6, 7])}


@pytest.fixture
def stored(tmp_path):
    images = F.normalize(torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    return str(
        write_tensors(tmp_path / "replay.safetensors", {"images": images, "tokens": torch.arange(15).view(5, 3)}, {})
    )


class Towers:
    """A text tower that gives the tokens themselves, and reads a text as its length and a number."""

    def __init__(self, number=0, spec="towers"):
        self.number, self.spec = number, spec

    def encode_text(self, tokens, normalize=True):
        return tokens.float()

    def tokenize(self, texts):
        return torch.tensor([[len(text), self.number, 0] for text in texts])


def test_the_loss_by_a_loop(out):
    """Stored pairs 1 and 5 are one."""
    values, scale, rows = build_loss("stored-replay")(out), out["logit_scale"], out["stored.row"].tolist()
    for name, queries, own, new in (
        ("image_to_text", out["stored.image"], out["stored.text"], out["text_features"]),
        ("text_to_image", out["stored.text"], out["stored.image"], out["image_features"]),
    ):
        total = 0.0
        for i in range(8):
            wrong = [own[j] for j in range(8) if rows[j] != rows[i]] + list(new)
            scores = torch.stack([scale * queries[i] @ key for key in (own[i], *wrong)])
            total = total - scores.log_softmax(0)[0] / 8
        torch.testing.assert_close(values[name], total)
    torch.testing.assert_close(values["loss"], (values["image_to_text"] + values["text_to_image"]) / 2)


def test_stored_pairs_are_drawn_by_the_samples_own_numbers(stored):
    loss = build_loss("stored-replay", {"embed_dim": 6}, files=(stored, stored))
    draws = torch.zeros(4, 4, 2)
    draws[:, 3, 0] = torch.tensor([0.0, 0.45, 0.55, 0.999999])
    made = loss.further_outputs({"draws": draws}, Towers())
    assert made["stored.row"].tolist() == [0, 4, 5, 9]
    assert made["stored.text"].tolist() == torch.arange(15).view(5, 3)[[0, 4, 0, 4]].float().tolist()
    torch.testing.assert_close(made["stored.image"].norm(dim=1), torch.ones(4))
    assert not loss.state_dict()


def test_files_that_do_not_fit_are_refused(stored, tmp_path):
    with pytest.raises(CapabilityError, match="width 6, and these towers have 8"):
        build_loss("stored-replay", {"embed_dim": 8}, files=(stored,))
    other = str(write_tensors(tmp_path / "other.safetensors", {"images": torch.ones(3, 6)}, {}))
    with pytest.raises(ConfigError, match=r"give replay\.safetensors"):
        build_loss("stored-replay", {"embed_dim": 6}, files=(other,))
    with pytest.raises(DataError, match="not a readable"):
        build_loss("stored-replay", {"embed_dim": 6}, files=(str(tmp_path / "none"),))
    with pytest.raises(CapabilityError, match="needs stored pairs"):
        build_loss("stored-replay").further_outputs({"draws": torch.zeros(1, 4, 1)}, Towers())


def test_captions_that_another_tokenizer_read_are_refused(stored, tmp_path):
    def written(name, tokens):
        tensors = {"images": torch.ones(3, 6), "tokens": tokens, "probe": Towers(1).tokenize([PROBE])}
        return str(write_tensors(tmp_path / name, tensors, {}))

    loss = build_loss("stored-replay", {"embed_dim": 6}, files=(written("own", torch.ones(3, 3).long()), stored))
    loss.prepare(Towers(1))
    with pytest.raises(CapabilityError, match="read by another tokenizer than that of 'others'"):
        loss.prepare(Towers(2, "others"))
    with pytest.raises(ConfigError, match="read by different tokenizers"):
        build_loss("stored-replay", {"embed_dim": 6}, files=(written("long", torch.ones(3, 4).long()), stored))


def test_stored_captions_are_encoded_without_waiting_for_a_device(stored, monkeypatch):
    """On a device that has no values, so that reading a length would raise."""
    loss = build_loss("stored-replay", {"embed_dim": 6}, files=(stored,))
    towers = Towers()
    monkeypatch.setattr(towers, "encode_text", lambda *rest: pytest.fail("this looks at lengths"))
    towers.encode_measured = lambda tokens, lengths, normalize: tokens.float() * lengths
    made = loss.further_outputs({"draws": torch.zeros(4, 4, 2, device="meta")}, towers)
    assert made["stored.text"].shape == (4, 3) and made["stored.image"].device.type == "meta"
