"""RDE: its alignment, its selection of tokens, and how it tells clean pairs from wrong ones."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks.person import rde

from vladapt import CapabilityError, ConfigError, build_loss, load_backbone
from vladapt.core.testing.towers import WORDS
from vladapt.core.training.train import TrainingTask, train
from vladapt.domains.person.losses._clean_pairs import agreed, chunks_of, clean_by_loss
from vladapt.domains.person.losses._token_selection import TokenEmbedding, image_and_patches, selected, text_and_words
from vladapt.domains.person.losses.rde import triplet_alignment

WRONG = 0.2
EPOCHS = 11


def test_values_gradients_and_embeddings_are_the_released_ones(agrees):
    agrees(rde)


def by_hand(image, text, labels, margin, tau):
    """The paper's equation, a pair at a time."""
    found = []
    for i, label in enumerate(labels):
        terms = []
        for own, others in ((image[i], text), (text[i], image)):
            s = F.cosine_similarity(own[None], others)
            right = torch.tensor([other == label for other in labels])
            weights = (s[right] / tau).softmax(dim=0).detach()
            nearest = tau * (s[~right] / tau).exp().sum().log() if (~right).any() else -math.inf
            terms.append(torch.clamp(margin - (weights * s[right]).sum() + nearest, min=0))
        found.append(terms[0] + terms[1])
    return torch.stack(found)


@settings(max_examples=10)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.integers(0, 99), st.floats(0.05, 1))
def test_the_alignment_is_the_papers(labels, seed, tau):
    drawn = torch.randn(2, len(labels), 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    image, text = (x.requires_grad_() for x in drawn)
    ours = triplet_alignment(image, text, torch.tensor(labels), 0.3, tau)
    theirs = by_hand(image, text, labels, 0.3, tau)
    torch.testing.assert_close(ours, theirs)
    gradients = torch.autograd.grad(ours.sum(), [image, text])
    assert all(gradient.isfinite().all() for gradient in gradients)
    if len(set(labels)) > 1:
        for gradient, wanted in zip(gradients, torch.autograd.grad(theirs.sum(), [image, text])):
            torch.testing.assert_close(gradient, wanted)


def test_one_that_is_far_from_all_others_costs_nothing():
    """The margin is met; without a margin nothing is asked for that holds already."""
    near = torch.eye(3)
    assert triplet_alignment(near, near, torch.arange(3), 0.1, 0.015).sum() == 0
    assert (triplet_alignment(near, near.roll(1, 0), torch.arange(3), 0.1, 0.015) > 1).all()


def features_of(count, wrong, seed=0, noise=0.35):
    """Outputs of a training set whose first `wrong` captions are of somebody else."""
    generator = torch.Generator().manual_seed(seed)
    people = torch.randn(count, 32, generator=generator)
    told = people.clone()
    told[:wrong] = told[:wrong].roll(1, 0)
    out = {}
    for kind in ("whole", "selection"):
        names = (f"{kind}_image", f"{kind}_text") if kind == "whole" else ("image_selection", "text_selection")
        for name, base in zip(names, (people, told)):
            out[name] = base + noise * torch.randn(count, 32, generator=generator)
    return {**out, "labels": torch.arange(count).float()}


def loss_of(count, **options):
    torch.manual_seed(0)
    return build_loss("rde", {"embed_dim": 32, "num_samples": count}, selection_dim=8, **options)


def test_clean_pairs_are_found_among_wrong_ones():
    count, wrong = 200, round(WRONG * 200)
    loss, out = loss_of(count), features_of(count, wrong)
    loss.before_epoch(lambda names: {name: out[name] for name in names})
    assert loss.clean[:wrong].float().mean() < 0.03 and loss.clean[wrong:].float().mean() > 0.97
    first = loss.clean.clone()
    again = loss_of(count)
    again.before_epoch(lambda names: {name: out[name] for name in names})
    assert torch.equal(again.clean, first)  # coins and order are the seed's


def test_seed_chunks_and_fit_change_what_is_called_clean():
    out, found = features_of(60, 12, noise=1.2), []
    for options in ({}, {"seed": 1}, {"pairs_at_once": 20}, {"mixture": "fine"}):
        loss = loss_of(60, **options)
        loss.before_epoch(lambda names: {name: out[name] for name in names})
        found.append(loss.clean)
    assert not any(torch.equal(found[0], other) for other in found[1:])


def test_pairs_are_left_out_of_the_step_where_both_embeddings_call_them_wrong():
    loss, rows = loss_of(6), torch.arange(4)
    generator = torch.Generator().manual_seed(2)
    drawn = {name: torch.randn(4, 32, generator=generator) for name in ("whole_image", "whole_text")}
    drawn |= {name: torch.randn(4, 3, 32, generator=generator) for name in ("patches", "words")}
    out = {**drawn, "word_counts": torch.full((4,), 3), "labels": rows, "index": rows}
    loss.eval()
    whole = loss(out)
    each = triplet_alignment(out["whole_image"], out["whole_text"], rows, loss.margin, loss.tau)
    torch.testing.assert_close(whole["global"], each.sum())
    loss.clean[1] = False
    torch.testing.assert_close(loss(out)["global"], each.sum() - each[1])
    assert loss(out)["selection"] < whole["selection"] and loss(out)["clean"] == 0.75
    torch.testing.assert_close(whole["loss"], whole["global"] + whole["selection"])


def test_epochs_may_be_trusted_and_pairs_not_divided():
    out = features_of(60, 12)
    trusting, blind = loss_of(60, trust_epochs=1), loss_of(60, divide=False)
    for loss in (trusting, blind):
        loss.before_epoch(lambda names: {name: out[name] for name in names})
        assert loss.clean.all()
    trusting.before_epoch(lambda names: {name: out[name] for name in names})
    assert not trusting.clean.all()
    restored = loss_of(60, trust_epochs=1)
    restored.load_state_dict(trusting.state_dict())
    assert torch.equal(restored.clean, trusting.clean) and restored.epochs == 2


def test_two_gaussians_of_losses():
    generator = torch.Generator().manual_seed(0)
    low, high = 0.1 * torch.rand(80, generator=generator), 2 + 0.1 * torch.rand(20, generator=generator)
    for fit in ("coarse", "fine"):
        clean = clean_by_loss(torch.cat([low, high]), fit, 0)
        assert clean[:80].all() and not clean[80:].any()
    assert clean_by_loss(torch.ones(9), "coarse", 0).all()


def test_where_two_differ_a_coin_decides():
    yes, no = torch.ones(400, dtype=torch.bool), torch.zeros(400, dtype=torch.bool)
    first, second = torch.cat([yes, no, yes]), torch.cat([yes, no, no])
    said = agreed(first, second, torch.Generator().manual_seed(1))
    assert said[:400].all() and not said[400:800].any() and 0.4 < said[800:].float().mean() < 0.6
    parts = chunks_of(13, 4, torch.Generator().manual_seed(1))
    assert sorted(torch.cat(parts).tolist()) == list(range(13)) and {len(part) for part in parts} == {3, 4}


def test_the_highest_tokens_that_are_allowed_come_first():
    tokens = torch.arange(10.0).view(2, 5, 1)
    scores = torch.tensor([[0.1, 0.5, 0.9, 0.2, 0.3], [0.9, 0.8, 0.1, 0.2, 0.3]])
    allowed = torch.tensor([[True, True, False, True, True], [False, False, True, False, False]])
    chosen, counts = selected(tokens, scores, allowed, 3)
    assert chosen[0, :, 0].tolist() == [1.0, 4.0, 3.0] and chosen[1, 0, 0] == 7.0
    assert counts.tolist() == [3, 1]
    embedding = TokenEmbedding(1, 4, 2).eval()
    torch.testing.assert_close(embedding(chosen, counts)[1], embedding(chosen[1:, :1])[0])


def test_tokens_are_selected_by_the_last_attention(small_clip):
    """Of a class token and of the end of a text, as torch's own module gives it."""
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    tokens = small_clip.tokenize(["a woman in a red coat", "boots", "a man with a black bag and white shoes"])
    visual = small_clip.model.visual
    with torch.no_grad():
        block = visual.transformer.resblocks[-1]
        x = block.ln_1(small_clip.embed_image(pixels))  # of the one block
        weights = block.attn(x, x, x, need_weights=True)[1][:, 0, 1:]
        whole, patches = image_and_patches(small_clip, pixels, 0.5, by_attention=True)
        every = small_clip.image_tokens(pixels)[0]
        best = weights.topk(2, dim=1).indices
        torch.testing.assert_close(patches, every.gather(1, best[..., None].expand(-1, -1, 24)))
        torch.testing.assert_close(whole, small_clip.encode_image(pixels, normalize=False))
        text, words, counts = text_and_words(small_clip, tokens, 0.1, by_attention=True)
        torch.testing.assert_close(text, small_clip.encode_text(tokens, normalize=False))
    assert words.shape == (3, 7, 24) and counts.tolist() == [6, 1, 7]  # 0.1 of 75; start and end are no words


@pytest.mark.thorough
def test_a_training_finds_the_wrong_captions(write_clip, dolls, toy_settings):
    """Towers that start from nothing need a higher temperature, some epochs of trust, and a vector for each word."""
    towers = load_backbone(write_clip(vocab_size=WORDS), device="cpu")
    wrong = [row % 5 == 0 for row in range(72)]
    source = dolls(72, {row for row in range(72) if wrong[row]})
    options = {"selection_dim": 32, "pairs_at_once": 48, "ratio": 0.5, "tau": 0.1, "trust_epochs": EPOCHS - 1}
    settings = toy_settings(epochs=EPOCHS, batch_size=16, crop_scale=(0.95, 1.0), weight_decay=0.01)
    done = train(towers, TrainingTask(source, {"rde": 1.0}, {"rde": options}), settings, None)
    doubted, is_wrong = ~done.objective.losses["rde"].clean, torch.tensor(wrong)
    assert doubted[is_wrong].float().mean() > 0.7 and doubted[~is_wrong].float().mean() < 0.4
    shares = [row["rde.clean"] for row in done.history]
    assert set(shares[:-1]) == {1.0} and shares[-1] < 0.8


def test_towers_without_a_class_token_select_by_similarity(small_clip):
    embedded = load_backbone("embedded", device="cpu")
    with pytest.raises(CapabilityError, match=r"backbone 'embedded' has not; .*select_by=similarity"):
        loss_of(3).prepare(embedded)
    loss_of(3, select_by="similarity").prepare(embedded)
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, patches = image_and_patches(small_clip, pixels, 0.5, by_attention=False)
        torch.testing.assert_close(whole, small_clip.encode_image(pixels, normalize=False))
        every = small_clip.image_tokens(pixels)[0]
        cosines = F.cosine_similarity(every, small_clip.encode_image(pixels)[:, None], dim=2)
    best = cosines.topk(2, dim=1).indices
    torch.testing.assert_close(patches, every.gather(1, best[..., None].expand(-1, -1, 24)))


def test_what_is_wrong_is_said():
    for options in ({"margin": -1}, {"tau": 0}, {"ratio": 0}, {"mixture": "other"}, {"pairs_at_once": 1}):
        with pytest.raises(ConfigError, match=next(iter(options))):
            loss_of(3, **options)
    with pytest.raises(CapabilityError, match="num_samples"):
        build_loss("rde", {"embed_dim": 4})


def test_margin_ratio_and_temperature_change_the_loss():
    generator = torch.Generator().manual_seed(2)
    image, text = torch.randn(2, 4, 32, generator=generator)
    values = [
        triplet_alignment(image, text, torch.arange(4), *how).sum() for how in ((0.1, 0.015), (0.2, 0.015), (0.1, 0.1))
    ]
    assert len({round(float(value), 4) for value in values}) == 3


def test_a_pair_is_found_by_the_mean_of_both_cosines(small_clip):
    loss = build_loss("rde", {"embed_dim": 24, "num_samples": 3}, selection_dim=8, ratio=0.5).eval()
    pixels = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    tokens = small_clip.tokenize(["a red coat", "jeans and a bag", "white shoes"])
    image, text = loss.embed_image(small_clip, pixels), loss.embed_text(small_clip, tokens)
    made = loss.further_outputs({"pixels": pixels, "tokens": tokens}, small_clip)
    cosines = [
        F.cosine_similarity(made[one], made[other], dim=1)
        for one, other in (("whole_image", "whole_text"), ("image_selection", "text_selection"))
    ]
    torch.testing.assert_close((image * text).sum(dim=1), sum(cosines) / 2)
    torch.testing.assert_close(image.norm(dim=1), torch.ones(3))
