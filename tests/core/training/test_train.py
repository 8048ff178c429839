"""One training run: what each setting does, and that the batch may be cut in any way."""

from __future__ import annotations

import logging
import math
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from toy_pairs import ToyPairs

from vladapt import CapabilityError, ConfigError, DataError, Item, Label
from vladapt.core.training import hooks
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.sources import LabelledSource
from vladapt.core.training.train import TrainingTask, train

SETTINGS = {"epochs": 2, "batch_size": 8, "lr": 1e-3, "warmup": 0.0, "weight_decay": 0.1, "seed": 3}


def run(backbone, source, losses=None, task=None, folder=None, **settings):
    task = TrainingTask(source, losses or {"neg-clip": 1.0}, **(task or {}))
    return train(backbone, task, TrainingSettings(**{**SETTINGS, **settings}), folder)


def weights(backbone):
    return {name: value.clone() for name, value in backbone.model.state_dict().items()}


def distance(one, other):
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def weights_after(spec, source, **kwargs):
    from vladapt.core.backbones.load import load_backbone

    backbone = load_backbone(spec, device="cpu")
    run(backbone, source, **kwargs)
    return weights(backbone)


@pytest.fixture(scope="module")
def usual(small_clip_spec):
    """`usual(**settings)`: the weights after a training, made once."""
    return cache(partial(weights_after, small_clip_spec, ToyPairs()))


def test_the_loss_falls_and_the_towers_end_frozen(fresh_clip, toy_pairs):
    before = weights(fresh_clip)
    done = run(fresh_clip, toy_pairs(), epochs=6)
    assert done.history[-1]["loss"] < done.history[0]["loss"] - 0.2
    assert [row["epoch"] for row in done.history] == [1, 2, 3, 4, 5, 6]
    assert done.steps == 18
    assert distance(before, weights(fresh_clip)) > 0
    assert not fresh_clip.model.training
    assert not any(p.requires_grad for p in fresh_clip.model.parameters())


def test_no_file_is_left_open(fresh_clip, toy_pairs, tmp_path):
    """mmengine keeps the log of each Runner open as long as the process lives."""
    run(fresh_clip, toy_pairs(), folder=tmp_path, epochs=1)
    logger = MMLogger.get_current_instance()
    assert logger.instance_name.startswith("vladapt-") and logger.handlers
    assert not [each for each in logger.handlers if isinstance(each, logging.FileHandler)]


def test_the_same_seed_gives_the_same_weights_and_another_does_not(small_clip_spec, toy_pairs, usual):
    same, other = (weights_after(small_clip_spec, toy_pairs(), seed=seed) for seed in (3, 4))
    assert distance(usual(), same) == 0
    assert distance(usual(), other) > 0


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_micro_batches_change_no_weight(small_clip_spec, toy_pairs, usual, micro):
    plain = {"optimizer": "sgd", "lr": 0.05}
    parts = weights_after(small_clip_spec, toy_pairs(), micro_batch_size=micro, **plain)
    assert distance(usual(**plain), parts) < 1e-5


def test_recomputed_activations_change_no_weight(small_clip_spec, toy_pairs, monkeypatch):
    from vladapt.core.training import layers

    calls = []
    original = layers.checkpoint
    monkeypatch.setattr(layers, "checkpoint", lambda *a, **k: calls.append(1) or original(*a, **k))
    whole = weights_after(small_clip_spec, toy_pairs())
    assert not calls
    again = weights_after(small_clip_spec, toy_pairs(), checkpointing=True)
    assert calls
    assert distance(whole, again) < 1e-6


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 2e-3},
        {"optimizer": "sgd"},
        {"betas": (0.5, 0.9)},
        {"eps": 1e-2},
        {"weight_decay": 0.9},
        {"schedule": "constant"},
        {"warmup": 3},
        {"end_lr": 5e-4},
        {"layer_decay": 0.5},
        {"clip_grad": 1e-3},
        {"amp": "bf16"},
        {"ema": 0.5},
        {"lock": "image"},
        {"train_last": 1},
        {"lora": 2},
        {"crop_scale": (0.1, 0.2)},
        {"epochs": 3},
        {"batch_size": 12},
    ],
    ids=lambda s: next(iter(s)),
)
def test_each_setting_changes_the_weights(small_clip_spec, toy_pairs, usual, settings):
    assert distance(usual(), weights_after(small_clip_spec, toy_pairs(), **settings)) > 0


def test_a_locked_tower_stays(fresh_clip, toy_pairs):
    before = weights(fresh_clip)
    run(fresh_clip, toy_pairs(), lock="image")
    after = weights(fresh_clip)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not any(name.startswith("visual.") for name in moved)
    assert "transformer.resblocks.0.mlp.c_fc.weight" in moved


@pytest.mark.parametrize("settings", [{"lora_alpha": 8.0}, {"lora_dropout": 0.0}, {"lora": 4}], ids=str)
def test_each_choice_of_lora_changes_the_weights(small_clip_spec, toy_pairs, usual, settings):
    other = weights_after(small_clip_spec, toy_pairs(), **{"lora": 2, "lr": 1e-2, **settings})
    assert distance(usual(lora=2, lr=1e-2), other) > 0


def test_what_towers_drop_out_follows_the_seed_and_the_rank(monkeypatch):
    def drawn(seed, rank):
        monkeypatch.setattr(hooks, "rank", lambda: rank)
        with torch.random.fork_rng(devices=[]):
            hooks.StepHook(None, None, None, seed).before_run(None)
            return tuple(torch.rand(3).tolist())

    assert drawn(3, 0) == drawn(3, 0)
    assert len({drawn(seed, rank) for seed in (3, 4) for rank in (0, 1)}) == 4


def test_lora_leaves_all_but_attention_as_it_was(fresh_clip, toy_pairs):
    before = weights(fresh_clip)
    run(fresh_clip, toy_pairs(), lora=2, lr=1e-2)
    after = weights(fresh_clip)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all(name.endswith("attn.in_proj_weight") for name in moved)


def test_fp16_scales_its_loss(small_clip_spec, toy_pairs, usual):
    plain = usual()
    half = weights_after(small_clip_spec, toy_pairs(), amp="fp16")
    assert 0 < distance(plain, half) < 0.1


def test_the_rate_rises_and_falls(fresh_clip, toy_pairs):
    rates = []
    settings = TrainingSettings(**{**SETTINGS, "warmup": 3, "epochs": 3, "end_lr": 1e-4})
    task = TrainingTask(toy_pairs(), {"neg-clip": 1.0})
    train(fresh_clip, task, settings, None, on_step=lambda done, total, values: rates.append(values["lr"]))
    rise = [1e-3 * (i + 1) / 3 for i in range(3)]
    fall = [1e-4 + 9e-4 * 0.5 * (1 + math.cos(math.pi * i / 6)) for i in range(6)]
    assert rates == pytest.approx(rise + fall)


def test_the_average_of_the_weights_is_kept(small_clip_spec, toy_pairs):
    steps = []
    from vladapt.core.backbones.load import load_backbone

    backbone = load_backbone(small_clip_spec, device="cpu")
    expected = weights(backbone)
    task = TrainingTask(toy_pairs(), {"neg-clip": 1.0})
    settings = TrainingSettings(**{**SETTINGS, "ema": 0.4})
    train(backbone, task, settings, None, on_step=lambda done, total, values: steps.append(weights(backbone)))
    for done, now in enumerate(steps, start=1):
        keep = min(0.4, (1 + done) / (10 + done))
        expected = {n: keep * expected[n] + (1 - keep) * now[n] for n in expected}
    assert distance(expected, weights(backbone)) < 1e-6


def test_the_best_epoch_on_val_is_kept_and_patience_ends_the_run(fresh_clip, toy_pairs):
    scores, seen = iter([0.2, 0.9, 0.5, 0.4, 0.3, 0.2]), []

    def validate():
        assert not fresh_clip.model.training
        seen.append(weights(fresh_clip))
        return next(scores)

    done = run(fresh_clip, toy_pairs(), epochs=6, patience=2, task={"validate": validate})
    assert done.best_epoch == 2
    assert len(seen) == 4
    assert distance(seen[1], weights(fresh_clip)) == 0
    assert [row["val"] for row in done.history] == [0.2, 0.9, 0.5, 0.4]


def test_unreadable_samples_are_replaced_and_listed(fresh_clip, toy_pairs):
    done = run(fresh_clip, toy_pairs(48, broken=frozenset({5})))
    assert done.broken == [("toy-5", "toy-5: damaged on purpose")]


def test_too_many_of_them_end_the_run(fresh_clip, toy_pairs):
    with pytest.raises(DataError, match="more than 5 %"):
        run(fresh_clip, toy_pairs(24, broken=frozenset({5, 6})))


@pytest.mark.parametrize(("broken", "tolerate", "stops"), [(2, 0.1, False), (1, 0.01, False), (1, 0.0, True)])
def test_as_many_are_replaced_as_are_tolerated_and_always_one(fresh_clip, toy_pairs, broken, tolerate, stops):
    pairs = toy_pairs(24, broken=frozenset(range(broken)))
    if stops:
        with pytest.raises(DataError, match="1 of 24 training samples cannot be read, more than 0 %"):
            run(fresh_clip, pairs, tolerate=tolerate)
    else:
        assert len(run(fresh_clip, pairs, tolerate=tolerate).broken) == broken


def test_a_loss_that_is_no_number_stops_the_run(fresh_clip, toy_pairs):
    with pytest.raises(DataError, match=r"step \d+ \(epoch 1.*try a smaller --lr"):
        run(fresh_clip, toy_pairs(), optimizer="sgd", lr=1e30)


def test_what_neither_data_nor_towers_have_is_said_at_once(fresh_clip, toy_pairs):
    class Bare(toy_pairs):
        texts = frozenset({"caption"})
        labelled = False

    with pytest.raises(CapabilityError, match=r"'text_negative'.*give a column 'negative'"):
        run(fresh_clip, Bare())
    with pytest.raises(CapabilityError, match="'labels'"):
        run(fresh_clip, Bare(), losses={"cross-entropy": 1.0})


def test_labels_train_by_the_scores_of_all_classes(fresh_clip, toy_pairs):
    prompts = [[f"a {colour} area", f"{colour}"] for colour in ("red", "green", "blue", "yellow")]
    task = {"class_prompts": prompts}
    done = run(fresh_clip, toy_pairs(), losses={"cross-entropy": 1.0}, task=task, epochs=8)
    assert done.history[-1]["loss"] < done.history[0]["loss"]


def test_losses_add_up_by_weight(small_clip_spec, toy_pairs):
    from vladapt.core.backbones.load import load_backbone

    rows = []
    for losses in ({"neg-clip": 1.0}, {"neg-clip": 1.0, "triplet-clip": 0.5}):
        backbone = load_backbone(small_clip_spec, device="cpu")
        rows.append(run(backbone, toy_pairs(), losses=losses, epochs=1).history[0])
    total = rows[1]["neg-clip"] + 0.5 * rows[1]["triplet-clip"]
    assert rows[1]["loss"] == pytest.approx(total, rel=1e-5)


def test_more_processes_than_fit_a_batch_are_refused(monkeypatch):
    from vladapt.core.training import batches

    monkeypatch.setattr(batches, "world_size", lambda: 3)
    with pytest.raises(ConfigError, match="--batch-size 8 is not a multiple of the 3 processes"):
        batches.GlobalBatches(24, 8, seed=1)
    with pytest.raises(ConfigError, match="2 training samples for 3 processes"):
        batches.GlobalBatches(2, 3, seed=1)


def test_every_rank_has_its_part_of_the_same_batches(monkeypatch):
    from vladapt.core.training import batches

    def rows(world, epoch=1, start=0):
        monkeypatch.setattr(batches, "world_size", lambda: world)
        found = []
        for me in range(world):
            monkeypatch.setattr(batches, "rank", lambda me=me: me)
            sampler = batches.GlobalBatches(20, 6, seed=2)
            sampler.epoch, sampler.start = epoch, start
            found.append(list(sampler))
        return [[row for part in parts for row in part] for parts in zip(*found)]

    assert rows(1) == rows(2) == rows(3)
    assert rows(1)[1:] == rows(1, start=1)
    assert rows(1) != rows(1, epoch=2)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0),
        ("batch_size", 1),
        ("micro_batch_size", 0),
        ("lr", 0.0),
        ("schedule", "exponential"),
        ("amp", "int8"),
        ("lock", ("image", "text")),
        ("ema", 1.0),
        ("layer_decay", 0.0),
        ("unlock_after", 1),
        ("keep", 1),
        ("captions", "last"),
        ("crop_scale", (0.9, 0.1)),
        ("parallel", "pipeline"),
        ("optimizer", "adamax"),
        ("patience", 0),
        ("lora", -1),
        ("lora_alpha", 0.0),
        ("lora_dropout", 1.0),
    ],
)
def test_settings_out_of_range_are_refused(option, value):
    with pytest.raises(ConfigError, match=option):
        TrainingSettings(**{option: value})


def test_the_towers_are_compiled_where_asked(small_clip_spec, toy_pairs, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: compiled.append(function) or function)
    plain = weights_after(small_clip_spec, toy_pairs())
    assert not compiled
    assert distance(plain, weights_after(small_clip_spec, toy_pairs(), compile=True)) == 0
    assert len(compiled) == 1


def test_the_logit_scale_stays_within_its_published_bounds(fresh_clip, toy_pairs):
    with torch.no_grad():
        fresh_clip.model.logit_scale.fill_(math.log(99.9))
    run(fresh_clip, toy_pairs(), losses={"clip": 1.0}, optimizer="sgd", lr=5.0, train_last=1, clip_grad=1.0)
    assert 1.0 <= float(fresh_clip.logit_scale) <= 100.0 + 1e-3


def test_a_scale_that_starts_above_its_bounds_keeps_its_own(fresh_clip, toy_pairs):
    """The embedded backbone's is about 430: bringing it to 100 at once would be a jump."""
    with torch.no_grad():
        fresh_clip.model.logit_scale.fill_(math.log(430.0))
    run(fresh_clip, toy_pairs(), losses={"clip": 1.0}, lr=1e-6)
    assert 400 < float(fresh_clip.logit_scale) <= 430.0 + 1e-2


def test_a_learned_prefix_stays_with_the_towers(fresh_clip, toy_pairs):
    seen = []

    def validate():
        seen.append(fresh_clip.encode_text(["a red area"]))
        return float(len(seen))

    task = {"loss_options": {"unicl": {"n_prefix": 2}}, "validate": validate}
    done = run(fresh_clip, toy_pairs(), losses={"unicl": 1.0}, task=task, lr=1e-2)
    learned = done.objective.losses["unicl"].prompt_prefix("caption")
    assert torch.equal(fresh_clip.text_prefix, learned) and learned.abs().max() > 0.02
    assert not torch.allclose(seen[0], seen[1])


def test_a_batch_that_is_not_full_is_shared_by_the_ranks_where_it_is_kept(monkeypatch):
    """What they cannot share equally is left out."""
    from vladapt.core.training import batches

    def rows(world, size=20, batch_size=6):
        monkeypatch.setattr(batches, "world_size", lambda: world)
        found = []
        for me in range(world):
            monkeypatch.setattr(batches, "rank", lambda me=me: me)
            sampler = batches.GlobalBatches(size, batch_size, seed=2, drop_last=False)
            found.append(list(sampler))
            assert len(found[-1]) == len(sampler)
        return [[row for part in parts for row in part] for parts in zip(*found)]

    assert [len(batch) for batch in rows(1)] == [6, 6, 6, 2] and rows(1) == rows(2)
    assert rows(3) == rows(1)[:3]
    assert sorted(row for batch in rows(1) for _, row in batch) == list(range(20))
    assert [len(batch) for batch in rows(1, size=18)] == [6, 6, 6] and [len(batch) for batch in rows(1, size=4)] == [4]


def test_a_training_ends_after_its_steps(fresh_clip, toy_pairs):
    """In the middle of an epoch, with a cosine as long as these steps, and the rest of it never seen."""
    told = []
    task = TrainingTask(toy_pairs(20), {"clip": 1.0})
    settings = TrainingSettings(
        **{**SETTINGS, "epochs": 3, "batch_size": 8, "steps": 7, "drop_last": False, "warmup": 0, "end_lr": 1e-4}
    )
    done = train(fresh_clip, task, settings, None, on_step=lambda *step: told.append(step))
    assert done.steps == 7 and [step[:2] for step in told] == [(step, 7) for step in range(1, 8)]
    peak = settings.lr
    expected = [1e-4 + (peak - 1e-4) * (1 + math.cos(math.pi * step / 7)) / 2 for step in range(7)]
    assert [step[2]["lr"] for step in told] == pytest.approx(expected)
    assert len(done.history) == 3


def test_a_head_may_be_all_that_is_trained(fresh_clip, toy_pairs):
    """The towers stay bit for bit."""
    before, pairs, head = weights(fresh_clip), toy_pairs(16), torch.nn.Linear(24, 3)
    start = head.weight.detach().clone()
    items = [Item(str(i), Path(), {}, Label(i % 3)) for i in range(16)]
    source = LabelledSource(items, lambda item: pairs.image(int(item.id)), [["a"]] * 3)
    frozen = {"select": lambda towers: towers.model.requires_grad_(False)}
    task = {"class_scores": head, **frozen}
    done = run(fresh_clip, source, losses={"cross-entropy": 1.0}, task=task, epochs=1)
    assert not torch.equal(head.weight, start) and done.trained_parameters == 0
    assert distance(weights(fresh_clip), before) == 0
    with pytest.raises(ConfigError, match="no part of the towers is trained"):
        run(fresh_clip, pairs, losses={"clip": 1.0}, task=frozen)
