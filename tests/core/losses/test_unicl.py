"""UniCL beside its equation, and the prefixes that say where a text comes from."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vladapt import CapabilityError, ConfigError, build_loss
from vladapt.core.backbones.positions import insert_after_start

DIMS = {"text_width": 4, "context_length": 8}


def example(labels, seed=0, dim=5):
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(2, len(labels), dim, generator=generator, dtype=torch.float64)
    image, text = (x.requires_grad_() for x in F.normalize(drawn, dim=-1))
    scale = torch.tensor(6.0, dtype=torch.float64, requires_grad=True)
    return {"image_features": image, "text_features": text, "logit_scale": scale, "labels": torch.tensor(labels)}


def by_hand(out):
    """UniCL's two sums over each sample's positives."""
    labels, count, total = out["labels"].tolist(), len(out["labels"]), 0.0
    for own, other in (("image_features", "text_features"), ("text_features", "image_features")):
        for i in range(count):
            positives = [k for k in range(count) if k == i or (labels[i] >= 0 and labels[k] == labels[i])]
            logits = [out["logit_scale"] * out[own][i] @ out[other][j] for j in range(count)]
            everything = sum(logit.exp() for logit in logits)
            for k in positives:
                total = total - (logits[k].exp() / everything).log() / len(positives) / (2 * count)
    return total


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(-1, 3), min_size=1, max_size=8), st.integers(0, 100))
def test_value_and_gradients_are_the_equations(labels, seed):
    out = example(labels, seed)
    ours, theirs = build_loss("unicl")(out)["loss"], by_hand(out)
    torch.testing.assert_close(ours, theirs)
    learned = [out[name] for name in ("image_features", "text_features", "logit_scale")]
    wanted = torch.autograd.grad(theirs, learned, allow_unused=True)
    for gradient, known in zip(torch.autograd.grad(ours, learned), wanted):
        torch.testing.assert_close(gradient, torch.zeros_like(gradient) if known is None else known)


def test_without_labels_it_is_clip_and_labels_change_it():
    out = example([-1, -1, -1, -1])
    clip = build_loss("clip")(out)["loss"]
    torch.testing.assert_close(build_loss("unicl")(out)["loss"], clip)
    torch.testing.assert_close(build_loss("unicl")({**out, "labels": torch.arange(4)})["loss"], clip)
    assert abs(build_loss("unicl")({**out, "labels": torch.tensor([2, -1, 2, -1])})["loss"] - clip) > 1e-3


def test_image_and_text_are_alike_to_it():
    out = example([0, 1, 0, -1, 1])
    swapped = {**out, "image_features": out["text_features"], "text_features": out["image_features"]}
    torch.testing.assert_close(build_loss("unicl")(out)["loss"], build_loss("unicl")(swapped)["loss"])


def words(rows, length=8):
    """Embeddings whose first entry is the place of a token in its text; rows of so many tokens."""
    embeddings = torch.arange(length, dtype=torch.float32).expand(len(rows), -1)[:, :, None].expand(-1, -1, 4).clone()
    return embeddings, torch.arange(length) < torch.tensor(rows)[:, None]


def test_each_source_has_its_prefix_after_the_start_token():
    loss = build_loss("unicl", DIMS, n_prefix=2)
    embeddings, mask = words([4, 8])
    whole, valid = loss.text_prompt(embeddings, mask, {"labels": torch.tensor([-1, 5])})
    assert whole.shape == embeddings.shape and valid.tolist() == [[True] * 6 + [False] * 2, [True] * 8]
    for i, source in enumerate(("caption", "label")):
        torch.testing.assert_close(whole[i, 1:3], loss.prompt_prefix(source))
    assert whole[0, :, 0].tolist()[0:1] + whole[0, 3:6, 0].tolist() == [0, 1, 2, 3]
    assert whole[1, :, 0].tolist()[0:1] + whole[1, 3:, 0].tolist() == [0, 1, 2, 3, 4, 7]  # 5 and 6 have no place
    without, _ = loss.text_prompt(embeddings, mask, {})
    torch.testing.assert_close(without[1, 1:3], loss.prompt_prefix("caption"))


def test_a_cut_text_grows_up_to_what_the_tower_takes():
    embeddings, mask = words([5, 3], length=5)
    whole, valid = insert_after_start(embeddings, mask, torch.full((2, 2, 4), -1.0), 8)
    assert whole[:, :, 0].tolist() == [[0, -1, -1, 1, 2, 3, 4], [0, -1, -1, 1, 2, 3, 4]]
    assert valid.sum(dim=1).tolist() == [7, 5]


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.integers(1, 5), st.integers(8, 10))
def test_start_and_end_are_kept_whatever_the_length(tokens, n, longest):
    embeddings, mask = words([tokens])
    whole, valid = insert_after_start(embeddings, mask, torch.full((1, n, 4), -1.0), longest)
    seen = whole[0, valid[0], 0].tolist()
    assert seen[0] == 0 and seen[1 : 1 + n] == [-1] * n and seen[-1] == tokens - 1
    assert seen[1 + n : -1] == list(range(1, len(seen) - n - 1)) and len(seen) == min(tokens + n, longest)


def test_prefixes_learn_through_the_text_tower(small_clip):
    width = small_clip.embed_tokens(small_clip.tokenize(["a"])).shape[-1]
    loss = build_loss("unicl", {"text_width": width, "context_length": small_clip.context_length}, n_prefix=3)
    tokens = small_clip.tokenize(["a cat on a mat", "a photo of a dog", "word " * 100])
    embeddings, mask = small_clip.embed_tokens(tokens), small_clip.token_mask(tokens)
    prompted = loss.text_prompt(embeddings, mask, {"labels": torch.tensor([-1, 3, -1])})
    features = small_clip.encode_prompt(*prompted)
    assert ((features - small_clip.encode_text(tokens)).norm(dim=1) > 1e-4).all()
    images = F.normalize(torch.randn(3, features.shape[1], generator=torch.Generator().manual_seed(0)), dim=1)
    out = {"image_features": images, "text_features": features, "logit_scale": torch.tensor(10.0)}
    loss({**out, "labels": torch.tensor([-1, 3, -1])})["loss"].backward()
    assert (loss.prefixes.grad.abs().amax(dim=(1, 2)) > 0).all()


def test_without_prefixes_texts_stay_as_they_are():
    loss = build_loss("unicl")
    embeddings, mask = words([4])
    assert loss.text_prompt(embeddings, mask, {"labels": torch.tensor([1])}) == (embeddings, mask)
    assert not list(loss.parameters())
    with pytest.raises(ConfigError, match="n_prefix=0"):
        loss.prompt_prefix("caption")


def test_options_are_checked():
    for n_prefix in (-1, 6):
        with pytest.raises(ConfigError, match=f"n_prefix={n_prefix}"):
            build_loss("unicl", DIMS, n_prefix=n_prefix)
    with pytest.raises(CapabilityError, match="text_width"):
        build_loss("unicl", {"context_length": 8}, n_prefix=2)
    with pytest.raises(ConfigError, match="source"):
        build_loss("unicl", DIMS, n_prefix=2).prompt_prefix("web")
