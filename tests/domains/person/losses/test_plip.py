"""PLIP's three terms: who it is, what is said, which colours."""

import pytest
import torch
import torch.nn.functional as F

from vladapt import ConfigError, build_loss
from vladapt.core.training.train import TrainingTask, train
from vladapt.domains.person.losses._colours import LUMA, GuidedReader, grey_and_colours, patch_cells

TERMS = ("identity", "attributes", "colours")
EPOCHS = 10
READER = {"reader_width": 32, "reader_heads": 2}


def test_the_contrast_takes_all_of_a_person_for_right():
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(5, 4, generator=generator), dim=1) for _ in range(2))
    labels = torch.tensor([0, 1, 0, 2, 1])
    out = {"image_features": image, "text_features": text, "labels": labels, "logit_scale": torch.tensor(8.0)}
    found = build_loss("plip", attributes=0, colours=0)(out)["loss"]
    logits, same = 8 * image @ text.T, (labels[:, None] == labels).float()
    targets = same / same.sum(dim=1)
    wanted = (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2
    torch.testing.assert_close(found, wanted)
    alone = build_loss("plip", attributes=0, colours=0)({**out, "labels": torch.arange(5)})["loss"]
    right = torch.arange(5)
    torch.testing.assert_close(alone, (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2)


def test_the_loss_is_the_weighed_sum():
    errors = {"word_errors": torch.tensor([[1.0], [3.0]]), "colour_errors": torch.tensor([[0.5], [0.1]])}
    loss = build_loss("plip", identity=0, attributes=2.0, colours=0.5)
    assert loss.needs == set(errors)
    assert float(loss(errors)["loss"]) == pytest.approx(2 * 2 + 0.5 * 0.3)


def test_a_picture_in_grey_and_the_colours_it_lost(small_clip):
    plain = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v)[:, None, None] for v in (small_clip.image_mean, small_clip.image_std))
    grey, colours = grey_and_colours(small_clip, (plain - mean) / std)
    shown = grey * std + mean
    torch.testing.assert_close(shown[:, 0], sum(share * plain[:, i] for i, share in enumerate(LUMA)))
    torch.testing.assert_close(shown[:, 0], shown[:, 2])
    torch.testing.assert_close(shown + colours, plain)
    cells = patch_cells(colours, (2, 4), 2)
    assert cells.shape == (2, 8, 12)
    torch.testing.assert_close(cells[0, 5, 2], colours[0, 0, 6:8, 2:3].mean())  # second row, second column; lower left


def test_a_reader_looks_at_what_may_be_seen():
    torch.manual_seed(0)
    reader, tokens, others = GuidedReader(3, 4, 8, 2, 5).eval(), torch.randn(2, 6, 3), torch.randn(2, 7, 4)
    mask = torch.arange(7)[None] < torch.tensor([[3], [7]])
    told = reader(tokens, others, mask)
    changed = others.clone()
    changed[0, 3:] += 1
    torch.testing.assert_close(reader(tokens, changed, mask), told)
    assert (reader(tokens, others + 1, mask) - told).abs().max() > 1e-3


def test_each_term_moves_both_towers(fresh_clip, people):
    """So that dropping one changes the step."""
    torch.manual_seed(0)
    loss, source = build_loss("plip", **READER), people(4)
    loss.prepare(fresh_clip)
    pixels = torch.stack([fresh_clip.preprocess(False)(image) for image in source.images])
    batch = {"pixels": pixels, "tokens": fresh_clip.tokenize([source.text("caption", row, 0) for row in range(8)])}
    batch["draws"] = torch.rand(8, 4, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([source.label(row) for row in range(8)])
    moved = [fresh_clip.model.visual.proj, fresh_clip.model.token_embedding.weight]
    for parameter in moved:
        parameter.requires_grad_()
    out = {
        "image_features": fresh_clip.encode_image(pixels),
        "text_features": fresh_clip.encode_text(batch["tokens"]),
    }
    out |= {"labels": labels, "logit_scale": torch.tensor(10.0), **loss.further_outputs(batch, fresh_clip)}
    parts = loss(out)
    for term in TERMS:
        for gradient in torch.autograd.grad(parts[term], moved, retain_graph=True):
            assert gradient.abs().max() > 1e-6, term
    torch.testing.assert_close(parts["loss"], sum(parts[term] for term in TERMS))


def test_hidden_words_are_told_by_the_image(small_clip, people):
    """The error is of hidden words alone, and another image gives another one."""
    torch.manual_seed(0)
    loss, source = build_loss("plip", **READER).eval(), people(4)
    loss.prepare(small_clip)
    pixels = torch.stack([small_clip.preprocess(False)(image) for image in source.images])
    tokens = small_clip.tokenize(["a red coat and white shoes"] * 8)
    draws = torch.ones(8, 4, 32)  # no word is hidden
    draws[0, 0, 2] = 0.0  # but one
    with torch.no_grad():
        errors = loss._word_errors({"pixels": pixels, "tokens": tokens, "draws": draws}, small_clip)
        other = loss._word_errors({"pixels": pixels.roll(3, 0), "tokens": tokens, "draws": draws}, small_clip)
    assert errors[0] > 1 and (errors[1:] == 0).all() and abs(errors[0] - other[0]) > 1e-4


def test_colours_of_people_are_learned_and_the_caption_helps(fresh_clip, people, toy_settings):
    source = people(12)
    options = {**READER, "identity": 0.0, "attributes": 0.0, "cells": 2}
    done = train(
        fresh_clip, TrainingTask(source, {"plip": 1.0}, {"plip": options}), toy_settings(epochs=EPOCHS, lr=5e-3), None
    )
    assert done.history[-1]["plip.colours"] < 0.65 * done.history[0]["plip.colours"]
    loss = done.objective.losses["plip"].eval()
    pixels = torch.stack([fresh_clip.preprocess(False)(image) for image in source.images])
    tokens = fresh_clip.tokenize([source.text("caption", row, 0) for row in range(24)])
    with torch.no_grad():
        own, others = (
            loss.further_outputs({"pixels": pixels, "tokens": told}, fresh_clip)["colour_errors"].mean()
            for told in (tokens, tokens.roll(7, 0))
        )
    nothing = patch_cells(grey_and_colours(fresh_clip, pixels)[1], (2, 2), 2).mul(10).square().mean()
    assert own < 0.75 * nothing and own < 0.85 * others


def test_what_is_wrong_is_said():
    with pytest.raises(ConfigError, match=r"reader_width.*multiple of reader_heads"):
        build_loss("plip", reader_width=30, reader_heads=4)
