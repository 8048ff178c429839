"""Joined towers that are trained, by the packaged recipes, each beside a loop written out."""

from __future__ import annotations

import json
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vladapt import CapabilityError, ConfigError
from vladapt.core.backbones.join import JoinedBackbone
from vladapt.core.backbones.load import load_backbone
from vladapt.core.backbones.shared_spaces import LinearSpace, SideBySide, TextHead
from vladapt.core.backbones.text_towers import text_side
from vladapt.core.data.pairs.text_pairs import read_text_pairs
from vladapt.core.tasks.pretraining.options import plan_of_recipe
from vladapt.core.tasks.pretraining.pairs import stage_settings
from vladapt.core.training.adabelief import AdaBelief
from vladapt.core.training.sources import TextSource
from vladapt.core.training.teachers import own_texts
from vladapt.core.training.train import TrainingTask, train

transformers = pytest.importorskip("transformers", reason="extra hf is not installed")

COUNT = 8
COLOURS, THINGS = ("red", "green", "blue", "old"), ("cat", "dog")


@pytest.fixture(scope="module")
def write_bert(tmp_path_factory, small):
    """`write_bert(dropout)`: the spec of a small encoder of texts that is pooled by its mean."""

    def write(dropout: float = 0.0) -> str:
        folder = tmp_path_factory.mktemp("bert")
        width = {"hidden_size": 12, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
        drops = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": 0.0}
        config = transformers.BertConfig(vocab_size=40, max_position_embeddings=16, **width, **drops)
        small.scrambled(transformers.BertModel(config), 0).save_pretrained(folder)
        small.write_tokenizer(folder, {"pad": 0, "unknown": 1, "start": 2, "end": 3})
        (folder / "modules.json").write_text(json.dumps([{"type": "models.Transformer", "path": ""}]))
        return f"hf:{folder}"

    return write


@pytest.fixture(scope="module")
def bert(write_bert):
    return write_bert()


def joined(image, text, kind="text-head"):
    towers, side = load_backbone(image, "cpu"), text_side(text, load_backbone)
    torch.manual_seed(0)
    made = {
        "text-head": lambda *widths: TextHead(*widths),
        "projections": lambda *widths: LinearSpace(*widths, 10, bias=False, unit=False),
        "side-by-side": lambda *widths: SideBySide(*widths),
    }
    space = made[kind](towers.embed_dim, side.width)
    return JoinedBackbone(towers, side, space, 14.0, "joined")


def settings_of(recipe, tmp_path, **given):
    how = {"data.path": "pairs.csv", "out": str(tmp_path / "out"), "backbone": "embedded", "device": "cpu"}
    plan = plan_of_recipe(recipe, losses=None, settings={"batch_size": COUNT, **given}, **how)
    return plan.settings, plan.losses


class Pictures:
    """As many pictures as captions, read as they are."""

    texts, labelled, columns = frozenset({"caption"}), False, {}
    pixels = torch.randn(COUNT, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    captions = [f"a {COLOURS[row % 4]} {THINGS[row // 4]}" for row in range(COUNT)]  # noqa: RUF012

    def __len__(self):
        return COUNT

    def name(self, row):
        return str(row)

    def image(self, row):
        return np.full((1,), row)

    def text(self, kind, row, epoch):
        return self.captions[row]

    def view(self, decoded, seed):
        return self.pixels[int(decoded[0])]

    def task(self, losses):
        return TrainingTask(source=self, losses=losses, view=self.view)


def rates(peak, steps, warmup, shape):
    """Of each step: up a line, then down a cosine or a line."""
    rise = round(warmup * steps) if warmup < 1 else min(int(warmup), steps)
    up = [peak * (step + 1) / rise for step in range(rise)] if rise > 1 else [peak] * rise
    down = [(step - rise) / (steps - rise) for step in range(rise, steps)]
    return up + [peak * ((1 + np.cos(np.pi * x)) / 2 if shape == "cosine" else 1 - x) for x in down]


def contrastive(model, backbone, scale, tokens, mask):
    """CLIP's loss of towers that are asked directly, images before texts."""
    towers, space = backbone.towers, backbone.space
    images = F.normalize(space.image(towers.encode_image(Pictures.pixels, normalize=False)), dim=1)
    texts = F.normalize(space.text(model.text.of_words(model.text.words(tokens), mask)), dim=1)
    logits, own = scale * images @ texts.T, torch.arange(COUNT)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def tokens_of(backbone, texts):
    tokens = backbone.tokenize(list(texts))
    return tokens, backbone.token_mask(tokens)


def moved(before, after):
    """Roots of the parameters that changed."""
    return {name for name, value in after.items() if not torch.equal(value, before[name])}


def state(backbone):
    return {name: value.detach().clone() for name, value in backbone.model.state_dict().items()}


def assert_same(ours, loop):
    for name, value in loop.items():
        if name.endswith(
            "key.bias"
        ):  # a softmax does not see it: its gradient is rounding alone, which Adam makes large
            continue
        torch.testing.assert_close(
            ours[name], value, atol=2e-5, rtol=1e-4, msg=lambda text, name=name: f"{name}: {text}"
        )


def test_lit_trains_the_text_tower_under_a_locked_image_tower(small_clip_spec, bert, tmp_path):
    settings, losses = settings_of("lit", tmp_path, epochs=5, lr=1e-2)
    ours, loop = joined(small_clip_spec, bert), joined(small_clip_spec, bert)
    before = state(ours)
    done = train(ours, Pictures().task(losses), settings, None)
    changed = moved(before, state(ours))
    assert changed and all(name.startswith(("text.", "space.of_text.")) or name == "logit_scale" for name in changed)
    assert {"space.of_text.weight", "space.of_text.bias", "logit_scale"} <= changed

    model = loop.model.requires_grad_(True)
    model.image.requires_grad_(False)
    free = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in free if p.ndim > 1], "weight_decay": 0.2},
        {"params": [p for p in free if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-2, betas=(0.9, 0.98), eps=1e-6)
    values, (tokens, mask) = [], tokens_of(loop, Pictures.captions)
    for rate in rates(1e-2, 5, 0.1, "cosine"):
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = contrastive(model, loop, model.logit_scale.exp(), tokens, mask)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert [row["loss"] for row in done.history] == pytest.approx(values, abs=1e-5)
    assert values[-1] < values[0]
    assert_same(state(ours), state(loop))


def agc(parameters, factor):
    """Gradients of each row at most `factor` times as long as its weights, by the equation of arXiv 2102.06171."""
    for parameter in parameters:
        if parameter.grad is not None:
            rows = parameter.data.reshape(len(parameter), -1) if parameter.ndim > 1 else parameter.data.reshape(1, -1)
            grads = parameter.grad.reshape(rows.shape)
            most = factor * rows.norm(dim=1, keepdim=True).clamp(min=1e-3)
            length = grads.norm(dim=1, keepdim=True)
            grads.mul_(torch.where(length > most, most / length.clamp(min=1e-6), torch.ones_like(length)))


def test_clip_italian_warms_up_its_projections_and_then_trains_all(small_clip_spec, bert, tmp_path):
    from timm.optim.adabelief import AdaBelief as Reference

    settings, losses = settings_of("clip-italian", tmp_path, epochs=7, lr=3e-3)
    assert (settings.unlock_after, settings.lock, settings.optimizer) == (5, ("towers",), "adabelief")
    assert (settings.logit_scale, settings.clip_units, settings.weight_decay) == (20.0, 0.01, 0.0)
    ours, loop = joined(small_clip_spec, bert, "projections"), joined(small_clip_spec, bert, "projections")
    start, losses_of_ours, after = state(ours), [], []
    for stage in stage_settings(settings):
        losses_of_ours += [row["loss"] for row in train(ours, Pictures().task(losses), stage, None).history]
        after.append(state(ours))
    assert moved(start, after[0]) == {
        "space.of_image.weight",
        "space.of_text.weight",
        "logit_scale",
    }  # 20, from then on
    changed = moved(after[0], after[1])
    assert {name.partition(".")[0] for name in changed} == {"image", "text", "space"}
    assert float(ours.logit_scale) == pytest.approx(20.0)

    model, values = loop.model, []
    (tokens, mask) = tokens_of(loop, Pictures.captions)
    for epochs, roots in ((5, ("space.",)), (2, ("space.", "image.", "text."))):
        free = [p for name, p in model.named_parameters() if name.startswith(roots)]
        for parameter in model.parameters():
            parameter.requires_grad_(any(parameter is each for each in free))
        optimizer = Reference(free, lr=3e-3, betas=(0.9, 0.999), eps=1e-16, weight_decay=0, rectify=False)
        for rate in rates(3e-3, epochs, 0.1, "cosine"):
            optimizer.param_groups[0]["lr"] = rate
            loss = contrastive(model, loop, 20.0, tokens, mask)
            optimizer.zero_grad()
            loss.backward()
            agc(free, 0.01)
            optimizer.step()
            values.append(loss.item())
    assert losses_of_ours == pytest.approx(values, abs=1e-4)
    assert values[-1] < values[0]
    mine, theirs = state(ours), state(loop)
    for name in ("space.of_image.weight", "space.of_text.weight"):
        torch.testing.assert_close(mine[name], theirs[name], atol=2e-3, rtol=1e-2)


def test_gradients_that_are_not_clipped_by_unit_and_a_learned_scale_give_another_model(small_clip_spec, bert, tmp_path):
    given = {"epochs": 6, "lr": 3e-3}
    settings, losses = settings_of("clip-italian", tmp_path, **given)
    first = stage_settings(settings)[0]
    made = []
    for other in ({}, {"clip_units": None}, {"logit_scale": None}, {"optimizer": "adamw", "eps": 1e-8}):
        ours = joined(small_clip_spec, bert, "projections")
        train(ours, Pictures().task(losses), replace(first, epochs=2, **other), None)
        made.append(state(ours))
    weights = [each["space.of_text.weight"] for each in made]
    assert all(not torch.allclose(weights[0], other, atol=1e-6) for other in weights[1:])
    assert float(made[2]["logit_scale"].exp()) != pytest.approx(20.0, abs=1e-4)


SENTENCES = [(text, f"{text.split()[2]} {text.split()[1]}") for text in Pictures.captions]


@pytest.fixture
def sentences(tmp_path):
    (tmp_path / "s.csv").write_text("\n".join(["caption,caption_de", *(",".join(row) for row in SENTENCES)]))
    return read_text_pairs(tmp_path / "s.csv", val=0.0, test=0.0)


def test_m_clip_learns_what_the_image_towers_own_texts_say(small_clip_spec, bert, sentences, tmp_path):
    settings, losses = settings_of("m-clip", tmp_path, epochs=6, lr=1e-2, warmup=2)
    ours, loop = joined(small_clip_spec, bert), joined(small_clip_spec, bert)
    teachers, before = own_texts(ours, losses), state(ours)
    done = train(ours, TrainingTask(source=TextSource(sentences), losses=losses, teachers=teachers), settings, None)
    changed = moved(before, state(ours))
    assert changed and all(name.startswith(("text.", "space.of_text.")) for name in changed)

    english = load_backbone(small_clip_spec, "cpu")
    with torch.no_grad():
        target = english.encode_text([sentence for sentence, _ in SENTENCES], normalize=False)  # (N, D), not unit
    model = loop.model
    free = [p for name, p in model.named_parameters() if name.startswith(("text.", "space."))]
    optimizer = torch.optim.AdamW([p.requires_grad_(True) for p in free], betas=(0.9, 0.999), eps=1e-8, weight_decay=0)
    values, (tokens, mask) = [], tokens_of(loop, [translation for _, translation in SENTENCES])
    for rate in rates(1e-2, 6, 2, "line"):
        optimizer.param_groups[0]["lr"] = rate
        hidden = model.text.encoder(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        mean = (hidden * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        read = F.linear(mean, model.space.of_text.weight, model.space.of_text.bias)
        loss = ((read - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert [row["loss"] for row in done.history] == pytest.approx(values, rel=1e-4)
    assert values[-1] < values[0]
    assert_same(state(ours), state(loop))


def test_a_teacher_of_sentences_is_needed_and_must_know_where_images_are(small_clip_spec, bert, sentences, tmp_path):
    settings, losses = settings_of("m-clip", tmp_path)
    assert own_texts(joined(small_clip_spec, bert), {"clip": 1.0}) == []
    with pytest.raises(CapabilityError, match="its images were moved into another space"):
        own_texts(joined(small_clip_spec, bert, "projections"), losses)
    alone = load_backbone(small_clip_spec, "cpu")
    with pytest.raises(CapabilityError):
        train(alone, TrainingTask(source=TextSource(sentences), losses=losses), settings, None)
    backbone = joined(small_clip_spec, bert)
    task = TrainingTask(source=Pictures(), losses=losses, teachers=own_texts(backbone, losses))
    with pytest.raises(CapabilityError, match="the data has none, give a table of sentences and their translations"):
        train(backbone, task, settings, None)


def test_a_locked_tower_sees_no_dropout(small_clip_spec, write_bert, tmp_path):
    settings, losses = settings_of("lit", tmp_path, epochs=1)
    modes = {}
    for lock in (("image",), ("text",), ("towers",)):
        backbone = joined(small_clip_spec, write_bert(0.5), "projections")
        seen = modes[lock[0]] = {}

        class Watched(Pictures):
            def image(self, row, backbone=backbone, seen=seen):
                seen.update({name: getattr(backbone.model, name).training for name in ("image", "text")})
                return super().image(row)

        train(backbone, Watched().task(losses), replace(settings, lock=lock), None)
    assert modes == {
        "image": {"image": False, "text": True},
        "text": {"image": True, "text": False},
        "towers": {"image": False, "text": False},
    }


def test_towers_without_a_projection_cannot_be_locked_both(small_clip_spec, bert, tmp_path):
    settings, losses = settings_of("clip-italian", tmp_path, epochs=6)
    with pytest.raises(ConfigError, match=r"lock=towers.*no projections to train"):
        train(joined(small_clip_spec, bert, "side-by-side"), Pictures().task(losses), stage_settings(settings)[0], None)
    for wrong in ({"parallel": "fsdp"}, {"lock": ("image", "text")}):
        with pytest.raises(ConfigError):
            type(settings)(**{**settings.to_dict(), **wrong})


def test_adabelief_is_that_of_timm_and_leaves_out_what_is_not_finite():
    from timm.optim.adabelief import AdaBelief as Reference

    random = torch.Generator().manual_seed(0)
    start = torch.randn(5, 3, generator=random)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    how = {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-8, "weight_decay": 0.1}
    mine, reference = AdaBelief([ours], **how), Reference([theirs], **how, rectify=False)
    for step in range(6):
        gradient = torch.randn(5, 3, generator=random)
        if step == 3:
            kept = deepcopy((ours.data, mine.state[ours]))
            ours.grad, mine.found_inf = gradient * torch.inf, torch.ones(())
            mine.step()
            del mine.found_inf
            assert torch.equal(ours.data, kept[0])
            assert all(torch.equal(mine.state[ours][name], value) for name, value in kept[1].items())
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        mine.step()
        reference.step()
        torch.testing.assert_close(ours.data, theirs.data, atol=1e-6, rtol=1e-5)
    adam = torch.nn.Parameter(start.clone())
    adam.grad = torch.ones(5, 3)
    torch.optim.AdamW([adam], **how).step()
    assert not torch.allclose(adam.data, ours.data)
