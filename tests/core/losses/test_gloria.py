"""GLoRIA's words and patches beside the released code and the equation, a pair at a time."""

import pytest
import torch
import torch.nn.functional as F
from parity_checks.losses import gloria as gloria_parity

from vladapt import CapabilityError, build_loss
from vladapt.core.losses import gloria

DIMS = {"embed_dim": 5, "text_width": 6}


def test_values_gradients_and_maps_are_the_released_ones(agrees):
    agrees(gloria_parity)


def outputs(seed=0, batch=4, patches=7, words=5, width=6):
    generator = torch.Generator().manual_seed(seed)
    image, text = F.normalize(torch.randn(2, batch, 5, generator=generator, dtype=torch.float64), dim=-1)
    lengths = torch.randint(1, words + 1, (batch, 1), generator=generator)
    tokens = torch.randn(batch, words, width, generator=generator, dtype=torch.float64)
    return {
        "image_features": image,
        "text_features": text,
        "image_tokens": torch.randn(batch, patches, width, generator=generator, dtype=torch.float64).requires_grad_(),
        "text_tokens": tokens.requires_grad_(),
        "text_mask": torch.arange(words)[None] < lengths,
    }


def similarity(patches, words, together="sum"):
    """Of one image and one text."""
    maps = (4 * (words @ patches.T).softmax(dim=0)).softmax(dim=1)
    scores = (5 * F.cosine_similarity(words, maps @ patches)).exp()
    return getattr(scores, together)().log()


@pytest.mark.parametrize("together", gloria.TOGETHER)
@pytest.mark.parametrize("block", [gloria.BLOCK, 1])
def test_it_is_the_papers_equation_in_blocks_too(monkeypatch, together, block):
    monkeypatch.setattr(gloria, "BLOCK", block)
    out = outputs()
    value = build_loss("gloria", project=False, global_weight=0, together=together)(out)["loss"]
    words = [tokens[mask] for tokens, mask in zip(out["text_tokens"], out["text_mask"])]
    rows = [[similarity(image, text, together) for text in words] for image in out["image_tokens"]]
    logits, right = 10 * torch.stack([torch.stack(row) for row in rows]), torch.arange(4)
    wanted = F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)
    torch.testing.assert_close(value, wanted)
    for name in ("image_tokens", "text_tokens"):
        ours, theirs = (torch.autograd.grad(each, out[name], retain_graph=True)[0] for each in (value, wanted))
        torch.testing.assert_close(ours, theirs)


def test_the_start_and_the_end_of_a_text_are_no_words():
    out = outputs()
    out["text_mask"] = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 1, 0]]).bool()
    inner = torch.tensor([[0, 1, 0, 0, 0], [0, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0]]).bool()
    assert torch.equal(gloria.without_ends(out["text_mask"]), inner), "a text without a word keeps what it has"
    value = build_loss("gloria", project=False, skip_ends=True)(out)["local"]
    of_words = build_loss("gloria", project=False)({**out, "text_mask": inner})["local"]
    torch.testing.assert_close(value, of_words)


def test_a_map_is_highest_where_words_look_though_the_end_looks_there_more():
    """The end of a text stands for the whole of it, and takes the attention of the patches that the words describe."""
    patches = torch.eye(6)
    words, inner = torch.zeros(4, 6), torch.tensor([False, True, True, False])
    words[1, 2], words[2, 2], words[2, 3] = 3, 2, 0.5
    words[3, 2] = 9
    loss = build_loss("gloria", project=False, skip_ends=True)
    assert int(loss.look(patches, (words, inner)).argmax()) == 2
    with_ends = build_loss("gloria", project=False).look(patches, (words, inner))
    assert int(with_ends.argmin()) == 2


def test_padding_changes_nothing():
    out = outputs(1)
    mask = out["text_mask"]
    noise = torch.where(mask[..., None], out["text_tokens"], 1e3)
    loss = build_loss("gloria", project=False)
    torch.testing.assert_close(loss(out)["loss"], loss({**out, "text_tokens": noise})["loss"])


def test_padding_of_all_texts_meets_no_patch(monkeypatch):
    out, lengths = outputs(1), []
    maps = gloria.attention_maps
    monkeypatch.setattr(
        gloria,
        "attention_maps",
        lambda patches, words, *rest: lengths.append(words.shape[1]) or maps(patches, words, *rest),
    )
    loss = build_loss("gloria", project=False, skip_ends=True)
    short = loss(out)["loss"]
    padded = {
        **out,
        "text_tokens": F.pad(out["text_tokens"], (0, 0, 0, 20)),
        "text_mask": F.pad(out["text_mask"], (0, 20)),
    }
    torch.testing.assert_close(loss(padded)["loss"], short)
    longest = int(gloria.without_ends(out["text_mask"]).any(dim=0).sum())
    assert lengths == [longest, longest]


def test_each_term_is_left_out_by_its_weight():
    parts = build_loss("gloria", project=False, local_weight=2, global_weight=3)(outputs())
    torch.testing.assert_close(parts["loss"], 2 * parts["local"] + 3 * parts["global"])
    assert set(build_loss("gloria", local_weight=0)(outputs())) == {"loss", "global"}


def test_patches_are_mapped_to_the_width_of_words():
    narrow = {**outputs(), "image_tokens": torch.randn(4, 7, 5, dtype=torch.float64)}
    assert build_loss("gloria", DIMS).double()(narrow)["loss"].isfinite()
    with pytest.raises(CapabilityError, match="text_width"):
        build_loss("gloria", {"embed_dim": 5})
