"""FILIP: each token finds its best match; padding never is one."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.losses import filip as filip_parity

from vladapt import CapabilityError, ConfigError, build_loss
from vladapt.core.losses import filip

DIMS = {"embed_dim": 6, "text_width": 6}
AS_RELEASED = {"token_dim": 0, "mask_padding": False, "select": "pair"}


def outputs(seed=0, batch=4, patches=5, words=6, width=6, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, words + 1, (batch, 1), generator=generator)
    return {
        "image_tokens": torch.randn(batch, patches, width, generator=generator, dtype=dtype).requires_grad_(),
        "text_tokens": torch.randn(batch, words, width, generator=generator, dtype=dtype).requires_grad_(),
        "text_mask": torch.arange(words)[None] < lengths,
    }


def by_hand(out, scale, keep_share=1.0):
    """The paper's equations, token by token: all within the batch, padding left out."""
    patches, words = F.normalize(out["image_tokens"], dim=-1), F.normalize(out["text_tokens"], dim=-1)
    texts = [words[j][out["text_mask"][j]] for j in range(len(words))]
    images = list(patches)

    def chosen(samples, others):
        result = []
        for sample in samples:
            scores = [max((token @ other).item() for group in others for other in group) for token in sample]
            count = -(-round(1000 * keep_share) * len(sample) // 1000)
            best = sorted(range(len(sample)), key=lambda k: -scores[k])[:count]
            result.append([sample[k] for k in best])
        return result

    def logits(queries, keys):
        rows = []
        for query in queries:
            row = []
            for key in keys:
                row.append(sum(torch.stack([token @ other for other in key]).max() for token in query) / len(query))
            rows.append(torch.stack(row))
        return scale * torch.stack(rows)

    targets = torch.arange(len(patches))
    to_text, to_image = logits(images, chosen(texts, images)), logits(texts, chosen(images, texts))
    return (F.cross_entropy(to_text, targets) + F.cross_entropy(to_image, targets)) / 2


def test_it_agrees_with_the_reimplementation(agrees):
    agrees(filip_parity)


@pytest.mark.parametrize("keep", [1.0, 0.5, 0.25])
def test_it_is_the_papers_equation(keep):
    out = outputs(1)
    loss = build_loss("filip", token_dim=0, keep=keep).double()
    value = loss(out)["loss"]
    wanted = by_hand(out, 1 / 0.07, keep)
    torch.testing.assert_close(value, wanted, rtol=1e-6, atol=1e-8)
    for name in ("image_tokens", "text_tokens"):
        ours, theirs = (torch.autograd.grad(each, out[name], retain_graph=True)[0] for each in (value, wanted))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-8)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5), st.sampled_from(filip.CHOICES))
def test_more_padding_changes_nothing(seed, more, select):
    out = outputs(seed)
    loss = build_loss("filip", DIMS, token_dim=4, select=select).double()
    padded = {
        "image_tokens": out["image_tokens"],
        "text_tokens": torch.cat([out["text_tokens"], torch.full((4, more, 6), 7.0)], dim=1),
        "text_mask": torch.cat([out["text_mask"], torch.zeros(4, more, dtype=torch.bool)], dim=1),
    }
    torch.testing.assert_close(loss(out)["loss"], loss(padded)["loss"])


def test_padding_may_match_when_asked_to():
    out = outputs(2)
    out["text_mask"] = torch.arange(6)[None].expand(4, 6) < 3
    values = {m: build_loss("filip", token_dim=0, keep=1.0, mask_padding=m)(out)["loss"] for m in (True, False)}
    assert abs(values[True] - values[False]) > 1e-3


@pytest.mark.parametrize("other", [{"keep": 2}, {"select": "pair"}, {"token_dim": 0}, {"token_dim": 3}])
def test_each_option_changes_the_result(other):
    torch.manual_seed(0)
    plain = build_loss("filip", DIMS, token_dim=4, keep=0.5).double()
    torch.manual_seed(0)
    changed = build_loss("filip", DIMS, **{"token_dim": 4, "keep": 0.5, **other}).double()
    assert abs(plain(outputs(3))["loss"] - changed(outputs(3))["loss"]) > 1e-4


def test_image_and_text_may_change_places():
    out = outputs(4)
    out["text_mask"] = torch.ones(4, 6, dtype=torch.bool)
    swapped = {**out, "image_tokens": out["text_tokens"], "text_tokens": out["image_tokens"]}
    swapped["text_mask"] = torch.ones(4, 5, dtype=torch.bool)
    loss = build_loss("filip", token_dim=0)
    one, other = loss(out), loss(swapped)
    torch.testing.assert_close(one["loss"], other["loss"])
    torch.testing.assert_close(one["image_to_text"], other["text_to_image"])


def test_blocks_change_neither_value_nor_gradient(monkeypatch):
    whole, parts = outputs(5), outputs(5)
    loss = build_loss("filip", token_dim=0).double()
    value = loss(whole)["loss"]
    value.backward()
    monkeypatch.setattr(filip, "BLOCK", 70)
    in_blocks = loss(parts)["loss"]
    in_blocks.backward()
    torch.testing.assert_close(value, in_blocks)
    for name in ("image_tokens", "text_tokens"):
        torch.testing.assert_close(whole[name].grad, parts[name].grad)


def test_a_block_holds_no_more_than_it_says(monkeypatch):
    sizes = []
    best = filip._best

    def watched(queries, keys, are_keys):
        sizes.append(queries.shape[0] * queries.shape[1] * keys.shape[0] * keys.shape[1])
        return best(queries, keys, are_keys)

    monkeypatch.setattr(filip, "_best", watched)
    monkeypatch.setattr(filip, "BLOCK", 2000)
    out = outputs(6, batch=12, patches=7, words=9)
    build_loss("filip", token_dim=0)(out)["loss"].backward()
    assert len(sizes) > 8 and max(sizes) <= 2000


def test_its_gradient_is_that_of_differences():
    out = outputs(7, batch=3, patches=3, words=3)
    loss = build_loss("filip", DIMS, token_dim=4).double()

    def value(patches, words):
        return loss({**out, "image_tokens": patches, "text_tokens": words})["loss"]

    assert torch.autograd.gradcheck(value, (out["image_tokens"], out["text_tokens"]))


def test_the_scale_is_learned_and_stays_below_100():
    loss = build_loss("filip", token_dim=0)
    assert loss.log_scale.exp().item() == pytest.approx(1 / 0.07, rel=1e-5)
    loss(outputs(8))["loss"].backward()
    assert loss.log_scale.grad.abs() > 1e-3
    loss.log_scale.data.fill_(6.0)
    loss.after_step(None)
    assert loss.log_scale.exp().item() == pytest.approx(100, rel=1e-5)


def test_a_caption_without_words_does_no_harm():
    out = outputs(9)
    out["text_mask"] = torch.zeros(4, 6, dtype=torch.bool)
    loss = build_loss("filip", token_dim=0)(out)["loss"]
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(out["text_tokens"].grad).all()


def test_half_a_token_is_refused():
    with pytest.raises(ConfigError, match="keep"):
        build_loss("filip", DIMS, keep=2.5)


def test_it_says_which_width_it_lacks():
    with pytest.raises(CapabilityError, match=r"dims\['text_width'\]"):
        build_loss("filip", {"embed_dim": 6})
