"""What the command line says of a training's length, rate, batches and precision."""

from __future__ import annotations

import pytest

from vladapt.core.errors import ConfigError
from vladapt.domains.open_vocab.plans.schedule import apply_schedule


def by_epochs():
    return {
        "train_cfg": {"type": "EpochBasedTrainLoop", "max_epochs": 12},
        "train_dataloader": {"batch_size": 2, "num_workers": 2, "persistent_workers": True},
        "optim_wrapper": {"type": "OptimWrapper", "optimizer": {"type": "SGD", "lr": 0.02}},
        "param_scheduler": [
            {"type": "LinearLR", "by_epoch": False, "begin": 0, "end": 500},
            {"type": "MultiStepLR", "by_epoch": True, "begin": 0, "end": 12, "milestones": [8, 11]},
        ],
        "val_cfg": {}, "val_dataloader": {}, "test_evaluator": {},
        "default_hooks": {"visualization": {"type": "X"}, "timer": {"type": "Y"}},
    }  # fmt: skip


def by_steps():
    return {
        **by_epochs(),
        "train_cfg": {"type": "IterBasedTrainLoop", "max_iters": 80000, "val_interval": 8000},
        "param_scheduler": {"type": "PolyLR", "by_epoch": False, "begin": 0, "end": 80000, "power": 0.9},
    }


def applied(plan, options, images=10, **flags):
    apply_schedule(plan, options(**flags).schedule, images)
    return plan


def test_epochs_stretch_a_schedule_of_epochs(options):
    plan = applied(by_epochs(), options, **{"adapter.epochs": 24})
    assert plan["train_cfg"]["max_epochs"] == 24
    warmup, steps = plan["param_scheduler"]
    assert (warmup["begin"], warmup["end"]) == (0, 500)
    assert (steps["begin"], steps["end"], steps["milestones"]) == (0, 24, [16, 22])
    short = applied(by_epochs(), options, **{"adapter.epochs": 1})["param_scheduler"][1]
    assert (short["end"], short["milestones"]) == (1, [1])


def test_epochs_become_steps_where_a_training_counts_those(options):
    plan = applied(by_steps(), options, images=11, **{"adapter.epochs": 10})
    assert plan["train_cfg"]["max_iters"] == 10 * 6
    assert plan["param_scheduler"]["end"] == 60
    larger = applied(by_steps(), options, images=11, **{"adapter.epochs": 10, "batch_size": 4})
    assert larger["train_cfg"]["max_iters"] == 10 * 3


def test_a_cosine_ends_where_the_training_ends(options):
    plan = by_epochs()
    plan["param_scheduler"] = [{"type": "CosineAnnealingLR", "T_max": 6, "begin": 6, "end": 12, "by_epoch": True}]
    (cosine,) = applied(plan, options, **{"adapter.epochs": 4})["param_scheduler"]
    assert (cosine["T_max"], cosine["begin"], cosine["end"]) == (2, 2, 4)


def test_rate_batches_workers_and_precision(options):
    plan = applied(by_epochs(), options, **{"adapter.lr": 0.5, "batch_size": 3, "workers": 0, "amp": "bf16"})
    assert plan["optim_wrapper"]["optimizer"] == {"type": "SGD", "lr": 0.5}
    assert plan["train_dataloader"] == {"batch_size": 3, "num_workers": 0, "persistent_workers": False}
    assert plan["optim_wrapper"]["type"] == "vladapt.AutocastOptimWrapper"
    assert plan["optim_wrapper"]["dtype"] == "bfloat16"
    assert applied(by_epochs(), options, amp="fp16")["optim_wrapper"]["dtype"] == "float16"


def test_nothing_said_changes_nothing_but_tests_and_pictures(options):
    plan, before = applied(by_epochs(), options), by_epochs()
    for key in ("train_cfg", "optim_wrapper", "param_scheduler"):
        assert plan[key] == before[key]
    assert not {"val_cfg", "val_dataloader", "test_evaluator"} & set(plan)
    assert plan["default_hooks"] == {"timer": {"type": "Y"}}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"adapter.epochs": 0}, "--epochs 0: give a whole number, 1 or more"),
        ({"adapter.epochs": 1.5}, "--epochs 1.5"),
        ({"adapter.lr": 0}, "--lr 0: give a number above 0"),
        ({"adapter.lr": float("inf")}, "--lr inf"),
        ({"adapter.lr": "fast"}, "--lr fast"),
    ],
)
def test_values_out_of_range(options, flags, says):
    with pytest.raises(ConfigError, match=says):
        applied(by_epochs(), options, **flags)


def test_a_rate_needs_an_optimizer(options):
    plan = {**by_epochs(), "optim_wrapper": {"type": "OptimWrapper"}}
    with pytest.raises(ConfigError, match=r"--lr: the config has no optim_wrapper\.optimizer to set it in"):
        applied(plan, options, **{"adapter.lr": 0.1})


def test_batches_are_shared_by_processes(options, monkeypatch):
    from vladapt.core.tasks.config_training import base
    from vladapt.domains.open_vocab.plans import schedule

    monkeypatch.setattr(schedule, "get_world_size", lambda: 2)
    monkeypatch.setattr(base, "world_size", lambda: 2)
    plan = applied(by_steps(), options, images=16, **{"batch_size": 4, "adapter.epochs": 3})
    assert plan["train_dataloader"]["batch_size"] == 2 and plan["train_cfg"]["max_iters"] == 3 * 4
    with pytest.raises(ConfigError, match="--batch-size 3: 2 processes share a step; give a multiple of 2"):
        applied(by_steps(), options, batch_size=3)


def test_a_warm_up_of_an_epoch_of_one_step_is_left_out(options):
    """mmengine never raises the rate of one: it would stay at a hundredth."""
    for images, kept in ((2, 0), (3, 1)):
        plan = by_epochs()
        plan["param_scheduler"] = [{"type": "LinearLR", "begin": 0, "end": 1, "convert_to_iter_based": True}]
        assert len(applied(plan, options, images=images)["param_scheduler"]) == kept
