"""Tokens inside the towers: trained as published, alone, through the engine; on pairs, several labels and in files."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from vladapt import Batch, CapabilityError, ConfigError, build_adapter, build_classifier, load_adapter, load_backbone
from vladapt.core.contracts import TrainingPlace
from vladapt.core.contracts.adapter_file import read_adapter_file
from vladapt.core.training.batches import epoch_order
from vladapt.core.training.schedules import LearningRates
from vladapt.core.training.tower_weights import copy_of

sys.path.insert(0, str(Path(__file__).parent))

from token_towers import ALL, fitted, logits, plainly

CLOSE = {"atol": 1e-5, "rtol": 1e-4}


# The published training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "lr", "texts"),
    [
        ("vpt", 2.5e-3, "a colour {} square."),
        ("maple", 3.5e-3, "of a colour {}."),
        ("prompt-src", 2.5e-3, "colour {}."),
    ],
)
def test_it_trains_as_published(make_problem, deep_clip, name, lr, texts):
    """Beside a plain loop: SGD with momentum on all tokens and maps, one rate an epoch, and here no self-regulation."""
    problem = make_problem(backbone=deep_clip)
    rates = []
    place = TrainingPlace(None, on_step=lambda done, total, values: rates.append(values["lr"]))
    options = {"gpa": False, "loss": "cross-entropy"} if name == "prompt-src" else {}
    adapter = build_adapter(name, epochs=5, **options)
    problem.fit(adapter, seed=5, images=plainly(problem), place=place)

    torch.manual_seed(5)
    backbone = copy_of(deep_clip)
    adapter._choose(backbone)
    trained = [parameter for parameter in backbone.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=lr, momentum=0.9, weight_decay=5e-4)
    expected = LearningRates.dassl(lr, 5)
    for epoch, rate in enumerate(expected):
        optimizer.param_groups[0]["lr"] = rate
        for rows in epoch_order(12, epoch, 5).split(4):
            text = backbone.encode_text([texts.format(i) for i in range(3)])
            image = backbone.encode_image(problem.pixels()[rows])
            loss = F.cross_entropy(deep_clip.logit_scale * image @ text.T, problem.support.labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert rates == pytest.approx([rate for rate in expected for _ in range(3)])
    for key, value in backbone.prompts.state_dict().items():
        torch.testing.assert_close(adapter.changed[key], value, atol=2e-6, rtol=1e-4)
    assert adapter.logit_scale == pytest.approx(float(deep_clip.logit_scale))


@pytest.mark.parametrize("name", ALL)
def test_the_tokens_alone_change(make_problem, deep_clip, name):
    problem = make_problem(backbone=deep_clip)
    before = {key: value.clone() for key, value in deep_clip.model.state_dict().items()}
    adapter = fitted(problem, name)
    adapted = adapter.adapted(deep_clip)
    assert all(torch.equal(value, before[key]) for key, value in deep_clip.model.state_dict().items())
    after = adapted.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert {key for key in after if key not in before} == {f"prompts.{key}" for key in adapter.changed}
    assert not any(parameter.requires_grad for parameter in adapted.model.parameters())
    assert adapted.fingerprint != deep_clip.fingerprint and deep_clip.prompts is None
    assert adapter.report.trained_parameters == sum(v.numel() for k, v in adapter.changed.items() if k != "lead")
    assert any("in the image tower, new ones before 3 of its blocks" in note for note in adapter.report.notes)


@pytest.mark.parametrize("name", ALL)
def test_it_learns(make_problem, deep_clip, name):
    """More images get their class than before, on images it has not seen."""
    problem = make_problem(classes=4, shots=8, val=6, backbone=deep_clip)
    labels = torch.tensor([item.target.index for item in problem.images.val])
    loss = {"loss": "cross-entropy"} if name == "prompt-src" else {}
    adapter = fitted(problem, name, epochs=15, lr=0.1, batch_size=8, **loss)
    with torch.no_grad():
        plain = problem.classifier.logits(deep_clip.encode_image(problem.pixels(problem.images.val)))
    before, after = ((found.argmax(1) == labels).float().mean() for found in (plain, logits(adapter, problem)))
    assert after > before + 0.2
    assert adapter.report.history[-1]["cross-entropy"] < adapter.report.history[0]["cross-entropy"]


def test_couplings_after_the_first_start_alike(deep_clip):
    couplings = build_adapter("maple")._tokens(deep_clip)["couplings"]
    assert len(couplings) == 3
    assert torch.equal(couplings[1].weight, couplings[2].weight) and torch.equal(couplings[1].bias, couplings[2].bias)
    assert not torch.equal(couplings[0].weight, couplings[1].weight)
    assert couplings[1].weight is not couplings[2].weight


# Texts ----------------------------------------------------------------------------------------------------------------


def test_what_the_words_start_from(deep_clip):
    ids = deep_clip.tokenize(["a photo of a"])
    words = deep_clip.embed_tokens(ids)[0, 1:5]
    some = build_adapter("maple")._tokens(deep_clip)["text"]
    assert torch.equal(some[0], words[:2]) and some[1:].abs().max() < 0.2
    four = build_adapter("prompt-src")._tokens(deep_clip)["text"]
    assert torch.equal(four[0], words)
    for drawn in ({"n_ctx": 5}, {"ctx_init": None}):
        tokens = build_adapter("maple", **drawn)._tokens(deep_clip)["text"]
        assert float(tokens.detach().std()) == pytest.approx(0.02, rel=0.2)


@pytest.mark.parametrize(
    ("options", "template"),
    [
        ({}, "of a {}."),
        ({"n_ctx": 4}, "{}."),
        ({"n_ctx": 5}, "{}."),
        ({"ctx_init": None}, "{}."),
        ({"ctx_init": "one big photograph of the"}, "photograph of the {}."),
    ],
    ids=str,
)
def test_the_words_around_a_name(make_problem, options, template):
    problem = make_problem()
    adapter = fitted(problem, "maple", epochs=1, **options)
    assert adapter.templates == [template]
    other = adapter.for_classes(problem.backbone, ["colour 1", "colour_9"])
    towers = adapter.adapted(problem.backbone)
    expected = towers.encode_text([template.format("colour 1"), template.format("colour 9")])
    torch.testing.assert_close(other.weights, expected, **CLOSE)
    torch.testing.assert_close(other.weights[0], adapter.weights[1], **CLOSE)


def test_tokens_end_at_a_word(make_problem):
    with pytest.raises(ConfigError, match="its first 2 tokens end inside a word"):
        fitted(make_problem(), "maple", ctx_init="a polkadottedness of")


def test_without_words_all_stands_as_it_would_in_one_text(deep_clip):
    """Tokens that are a text's own words change nothing."""
    ours = copy_of(deep_clip)
    ours.attach_prompts(text=build_adapter("prompt-src", text_depth=1)._tokens(deep_clip)["text"])
    found = ours.encode_text(["sea.", "green lake."])
    torch.testing.assert_close(found, deep_clip.encode_text(["a photo of a sea.", "a photo of a green lake."]), **CLOSE)


# Shapes, kinds, files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("case", [{"classes": 2, "shots": 1}, {"shots": [1, 7, 2]}, {"shots": [4, 0, 4]}], ids=str)
def test_hard_shapes(make_problem, name, case):
    problem = make_problem(**case)
    found = logits(fitted(problem, name), problem)
    assert found.shape == (len(problem.images.val), len(problem.classifier)) and torch.isfinite(found).all()


@pytest.mark.parametrize("name", ALL)
def test_several_labels_an_image(make_problem, name):
    problem = make_problem(
        shots=6, labels=lambda of: tuple(float(of == c) if c < 2 else float("nan") for c in range(3))
    )
    if name == "prompt-src":
        with pytest.raises(CapabilityError, match="takes one label per image"):
            fitted(problem, name)
        return
    adapter = fitted(problem, name, epochs=10)
    history = adapter.report.history
    assert history[-1]["binary-cross-entropy"] < history[0]["binary-cross-entropy"]
    found = adapter.predict(Batch(pixels=problem.pixels(problem.images.val)))
    assert found.shape == (6, 3) and found.min() >= 0 and found.max() <= 1


@pytest.mark.parametrize("name", ALL)
def test_a_file_gives_the_same_towers(make_problem, small_clip_spec, name, tmp_path):
    problem = make_problem()
    adapter = fitted(problem, name)
    _, tensors = read_adapter_file(adapter.save(tmp_path / "a.safetensors"))
    assert {key.removeprefix("changed/") for key in tensors if key.startswith("changed/")} == set(adapter.changed)
    again = load_adapter(tmp_path / "a.safetensors", fresh := load_backbone(small_clip_spec, device="cpu"))
    state = torch.random.get_rng_state()
    assert again.adapted(fresh).fingerprint == adapter.adapted(problem.backbone).fingerprint
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(parameter.requires_grad for parameter in again.adapted(fresh).model.parameters())
    assert torch.equal(logits(again, problem), logits(adapter, problem)) and again.options == adapter.options
    features = adapter.adapted(problem.backbone).encode_image(problem.pixels(), normalize=False)
    torch.testing.assert_close(
        again.logits(Batch(pixels=problem.pixels())), again.logits(features), atol=1e-4, rtol=1e-5
    )
    with pytest.raises(CapabilityError, match="has learned tokens in its towers;"):
        make_on = replace(problem, backbone=adapter.adapted(problem.backbone))
        fitted(make_on, name)


@pytest.mark.parametrize("name", ALL)
def test_a_resume_ends_alike(make_problem, name, tmp_path):
    problem = make_problem()
    options = {"lr": 0.05, "epochs": 4, "batch_size": 6, "save_every": 3}

    class Stop(Exception):
        pass

    def stop(done, total, values):
        if done == 5:
            raise Stop

    with pytest.raises(Stop):
        problem.fit(build_adapter(name, **options), place=TrainingPlace(tmp_path, on_step=stop))
    said, again = [], build_adapter(name, **options)
    problem.fit(again, place=TrainingPlace(tmp_path, resume=True, on_message=said.append))
    assert said[0].startswith("Resumed at step 3 of 8")
    whole = build_adapter(name, **options)
    problem.fit(whole)
    assert torch.equal(logits(again, problem), logits(whole, problem))


@pytest.mark.parametrize("name", ALL)
def test_pairs_in_place_of_labels(small_clip, small_clip_spec, toy_pairs, name, tmp_path):
    adapter = build_adapter(name, epochs=6, lr=0.05, batch_size=8)
    report = adapter.fit_pairs(toy_pairs(), small_clip, seed=2)
    assert report.history[-1]["loss"] < report.history[0]["loss"] and "clip" in report.history[0]
    adapter.save(tmp_path / "a.safetensors")
    again = load_adapter(tmp_path / "a.safetensors", fresh := load_backbone(small_clip_spec, device="cpu"))
    texts = ["a red area on the left"]
    assert torch.equal(again.adapted(fresh).encode_text(texts), adapter.adapted(small_clip).encode_text(texts))
    moved = not torch.allclose(adapter.adapted(small_clip).encode_text(texts), small_clip.encode_text(texts), atol=1e-3)
    assert moved == (name != "vpt")


@pytest.mark.parametrize("name", ALL)
def test_a_tower_without_blocks_is_refused(make_problem, open_clip_resnet, name):
    problem = make_problem(backbone=load_backbone(open_clip_resnet, device="cpu"))
    with pytest.raises(CapabilityError, match=r"no transformer blocks of the image tower; .*models of open_clip"):
        fitted(problem, name)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("name", ALL)
def test_towers_of_transformers(make_problem, hf_folder, name, kind):
    problem = make_problem(backbone=load_backbone(f"hf:{hf_folder(kind)}", device="cpu"))
    known = build_classifier(problem.backbone, ("cat", "sea", "dog"), ["a photo of a {}"])  # words of its tokenizer
    problem = replace(problem, classifier=known, images=replace(problem.images, prompts=known.texts))
    adapter = fitted(problem, name, epochs=6)
    assert torch.isfinite(logits(adapter, problem)).all()
    assert adapter.report.history[-1]["cross-entropy"] < adapter.report.history[0]["cross-entropy"]
    if name == "maple":
        assert adapter.templates == ["of a {}."]
