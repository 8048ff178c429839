"""A plan of a domain's own: trained, stopped and resumed, on two processes, with its faults told in one line."""

from __future__ import annotations

import copy
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from forked import run, run_ranks
from mmengine import Config
from safetensors.torch import load_file

import vladapt
from vladapt.core.errors import ConfigError, DataError, UnknownNameError
from vladapt.core.runtime.progress import Reporter
from vladapt.core.tasks.config_training import runner as config_runner
from vladapt.core.tasks.config_training.kept_plan import check_plan, kept_of, with_tuples
from vladapt.core.tasks.config_training.runner import build_model, plan_key, train_plan

THIRD_PARTY = Path(__file__).parent / "third_party"
pytestmark = pytest.mark.usefixtures("in_toy_folder")
CPU = torch.device("cpu")
SHORT = {"train_cfg": {"by_epoch": True, "max_epochs": 3}}
QUIET = Reporter(quiet=True)


def fit(spec, plan=SHORT, **flags):
    return vladapt.fit(domain="toy-boxes", backbone=spec, seed=1, plan=plan, **flags)


def toy_plan(**changes):
    """A plan as the toy domain makes it, small."""
    import toy_config_tasks

    plan = Config(
        {
            "model": {"type": "ToyBoxModel", "size": toy_config_tasks.SIZE},
            "train_dataloader": {
                "batch_size": 4,
                "dataset": {"type": "ToyScenes", "indices": list(range(8))},
                "sampler": {"type": "DefaultSampler", "shuffle": True},
                "collate_fn": {"type": "pseudo_collate"},
            },
            "train_cfg": {"by_epoch": True, "max_epochs": 2},
            "optim_wrapper": {"optimizer": {"type": "SGD", "lr": 0.01}},
        }
    )
    plan.merge_from_dict(copy.deepcopy(changes))
    return plan


def trained(folder, seed=1, resume=False, **changes):
    return train_plan(toy_plan(**changes), folder, seed, CPU, QUIET, resume)


def weights(result):
    return load_file(str(result.run / "adapter.safetensors"))


def assert_equal(one, other):
    assert set(one) == set(other)
    for name in one:
        assert torch.equal(one[name], other[name]), name


# a training that is stopped ------------------------------------------------------------------------------------------


@pytest.fixture
def environment(tmp_path):
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(THIRD_PARTY), os.environ.get("PYTHONPATH", "")]),
        "VLADAPT_CACHE": str(tmp_path / "vladapt-cache"),
    }


def command(spec, *more):
    plan = "plan.train_cfg.max_epochs=3"
    return ["fit", "--domain", "toy-boxes", "--backbone", spec, "--seed", "1", "--set", plan, *more]


def test_a_killed_training_is_refused_then_resumed_and_ends_as_if_unbroken(small_clip_spec, environment, tmp_path):
    unbroken = fit(small_clip_spec, plan={"train_cfg": {"max_epochs": 3}}, out=str(tmp_path / "unbroken"))
    steps = json.loads((unbroken.run / "run.json").read_text())["data"]["counts"]["train"]["square"] // 16
    killed = run(
        ["-m", "vladapt", *command(small_clip_spec), "--out", "killed"],
        env={**environment, "TOY_KILL_AT": str(2 * steps + 1)},
        cwd=tmp_path,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not list((tmp_path / "killed").glob("*/run.json"))
    again = {"plan": {"train_cfg": {"max_epochs": 3}}, "out": str(tmp_path / "killed")}
    with pytest.raises(ConfigError, match=r"this fit was stopped after epoch_\d; add --resume"):
        fit(small_clip_spec, **again)
    resumed = fit(small_clip_spec, **again, resume=True)
    assert_equal(weights(unbroken), weights(resumed))
    assert resumed.metrics == unbroken.metrics
    assert not (tmp_path / "killed" / ".resume").exists()


TWO_FITS = """
import contextlib, json, os, sys
from vladapt.cli import main
from vladapt.core.runtime.distributed import start_from_environment
start_from_environment()
for command in json.loads(sys.argv[1]):
    with contextlib.suppress(SystemExit):
        main([each.replace("RANK", os.environ["RANK"]) for each in command])
"""


def test_two_processes_train_one_plan_the_first_writes_and_a_bad_loss_on_the_other_ends_both(
    small_clip_spec, environment, tmp_path
):
    """And nothing is trained where they have read different data."""
    (tmp_path / "fits.py").write_text(TWO_FITS)
    on_cpu = command(small_clip_spec, "--device", "cpu", "--json")
    fits = [[*on_cpu, "--set", "plan.model.nan_at=(1, 2)", "--out", "failed"], on_cpu]
    fits.insert(0, [*on_cpu, "--set", "split_seed=RANK", "--out", "apart"])
    first, second = run_ranks(["fits.py", json.dumps(fits)], env=environment, cwd=tmp_path)
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    told, printed = first.stderr + second.stderr, first.stdout + second.stdout
    ours = [line for line in told.splitlines() if line.startswith("vladapt: ")]
    assert len(ours) == 2 and "process 1 has read other images or annotations than process 0" in ours[0]
    assert "training stopped at step 2: the loss is nan" in ours[1]
    assert not [*tmp_path.glob("failed/*/run.json"), *tmp_path.glob("apart/*/run.json")]
    made = json.loads(printed)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == [Path(made["run"]).name]
    said = [line for line in told.partition("the loss is nan")[2].splitlines() if line.startswith("Step ")]
    assert len(said) == len(set(said)) > 1
    assert made["adapted"]["mean_error"] < 1.5 * fit(small_clip_spec).metrics["adapted"]["mean_error"]


# how a plan is run ---------------------------------------------------------------------------------------------------


def test_the_device_that_is_asked_for_is_the_one_trained_on(tmp_path, monkeypatch):
    """Even where there is a GPU, which mmengine would take."""
    from mmengine.runner import runner as mmengine_runner

    monkeypatch.setattr(mmengine_runner, "get_device", lambda: "meta")
    model, _ = trained(tmp_path)
    assert model.head.weight.device == CPU and not model.training
    model, _ = train_plan(toy_plan(train_cfg={"_delete_": True}), tmp_path, 1, torch.device("meta"), QUIET)
    assert model.head.weight.device.type == "meta"


def test_a_training_resumed_between_epochs_goes_on_step_by_step(tmp_path, monkeypatch):
    """Of a training counted in steps, whose random numbers do not start again with it."""
    steps = {
        "train_cfg": {"_delete_": True, "type": "IterBasedTrainLoop", "max_iters": 7},
        "train_dataloader": {"sampler": {"type": "InfiniteSampler"}},
    }
    whole, curve = trained(tmp_path / "whole", **steps)
    assert [row["step"] for row in curve] == list(range(1, 8))
    monkeypatch.setattr(config_runner._StepRecorder, "before_train_iter", stopping_before(6))
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", **steps)
    assert config_runner.newest_epoch(tmp_path / "stopped") == "iter_5"
    monkeypatch.undo()
    resumed, history = trained(tmp_path / "stopped", resume=True, **steps)
    assert [(row["step"], row["loss"]) for row in history] == [(row["step"], row["loss"]) for row in curve]
    assert_equal(whole.state_dict(), resumed.state_dict())


def stopping_before(step):
    draw = config_runner._StepRecorder.before_train_iter

    def before_train_iter(self, runner, *args, **kwargs):
        if runner.iter + 1 == step:
            raise KeyboardInterrupt
        draw(self, runner, *args, **kwargs)

    return before_train_iter


def test_no_checkpoint_holds_what_a_bad_loss_made(tmp_path):
    steps = {
        "train_cfg": {"_delete_": True, "type": "IterBasedTrainLoop", "max_iters": 7},
        "train_dataloader": {"sampler": {"type": "InfiniteSampler"}},
    }
    with pytest.raises(DataError, match="at step 3: the loss is nan"):
        trained(tmp_path, model={"nan_at": (0, 3)}, **steps)
    assert config_runner.newest_epoch(tmp_path) == "iter_2"


def test_a_training_that_began_with_weights_resumes_from_its_own(tmp_path, monkeypatch):
    start = {name: torch.full_like(value, 0.1) for name, value in build(toy_plan()).state_dict().items()}
    torch.save(start, tmp_path / "start.pth")
    begun = {"load_from": str(tmp_path / "start.pth"), "optim_wrapper": {"optimizer": {"lr": 1e-4}}}
    whole, _ = trained(tmp_path / "whole", **begun)
    assert (whole.head.weight - 0.1).abs().max() < 0.01
    monkeypatch.setattr(config_runner._StepRecorder, "before_train_iter", stopping_before(4))
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "stopped", **begun)
    monkeypatch.undo()
    assert_equal(whole.state_dict(), trained(tmp_path / "stopped", resume=True, **begun)[0].state_dict())
    assert_equal(whole.state_dict(), trained(tmp_path / "new", resume=True, **begun)[0].state_dict())


def test_what_mmengine_prints_of_weights_leaves_stdout_alone(tmp_path, capsys):
    start = {name: torch.zeros_like(value) for name, value in build(toy_plan()).state_dict().items()}
    torch.save(start, tmp_path / "start.pth")
    trained(tmp_path / "fits", load_from=str(tmp_path / "start.pth"))
    assert capsys.readouterr() == ("", "")
    torch.save({**start, "elsewhere.weight": torch.zeros(2)}, tmp_path / "start.pth")
    trained(tmp_path / "misfits", load_from=str(tmp_path / "start.pth"))
    told = capsys.readouterr()
    assert told.out == "" and "unexpected key in source state_dict: elsewhere.weight" in told.err


def build(plan):
    return build_model(kept_of(plan), CPU)


@pytest.mark.parametrize("randomness", [{}, {"randomness": {"deterministic": False}}, {"randomness": {"seed": None}}])
def test_the_seed_fixes_the_weights_whatever_else_the_plan_says_of_randomness(tmp_path, randomness):
    one, other = (trained(tmp_path / name, **randomness)[0].state_dict() for name in "ab")
    assert_equal(one, other)
    assert not torch.equal(one["head.weight"], trained(tmp_path / "c", seed=2)[0].head.weight)


def test_averaged_weights_are_what_a_training_gives(tmp_path):
    fixed = {"type": "EMAHook", "momentum": 1e-6}
    plain, averaged = trained(tmp_path / "a")[0], trained(tmp_path / "b", custom_hooks=[fixed])[0]
    assert not torch.allclose(plain.head.weight, averaged.head.weight, atol=1e-4)
    one_step = {"_delete_": True, "type": "IterBasedTrainLoop", "max_iters": 1}
    assert torch.allclose(trained(tmp_path / "c", train_cfg=one_step)[0].head.weight, averaged.head.weight, atol=1e-5)


@pytest.mark.parametrize(
    ("given", "loop", "kept"),
    [
        ({}, {"max_epochs": 3}, {"interval": 1}),
        ({"max_keep_ckpts": 1, "interval": 2}, {"max_epochs": 3}, {"max_keep_ckpts": 2, "interval": 2}),
        ({"max_keep_ckpts": 5}, {"max_epochs": 3}, {"max_keep_ckpts": 5, "interval": 1}),
        ({}, {"max_iters": 100}, {"max_keep_ckpts": 2, "by_epoch": False, "interval": 5}),
        ({"by_epoch": False, "interval": 8000}, {"max_iters": 10}, {"by_epoch": False, "interval": 1}),
        ({"by_epoch": False, "interval": 2}, {"max_iters": 100}, {"by_epoch": False, "interval": 2}),
    ],
)
def test_checkpoints_come_often_enough_to_go_on_from(given, loop, kept):
    hook = {"type": "CheckpointHook", **given}
    settings = Config({"train_cfg": loop, **({"default_hooks": {"checkpoint": hook}} if given else {})})
    config_runner._set_checkpoints(settings)
    assert dict(settings.default_hooks.checkpoint) == {"type": "CheckpointHook", "max_keep_ckpts": 2, **kept}


def test_no_time_is_spent_on_formatting_the_configs_text(tmp_path, monkeypatch):
    monkeypatch.setattr("mmengine.config.config.FormatCode", lambda *a, **k: pytest.fail("formatted"))
    trained(tmp_path)
    assert config_runner.newest_epoch(tmp_path) == "epoch_2"


def test_a_plan_without_checkpoints_keeps_none(tmp_path):
    trained(tmp_path, default_hooks={"checkpoint": None})
    assert not list(tmp_path.glob("*.pth"))


def test_what_changes_speed_alone_is_the_same_training():
    key = plan_key(toy_plan(), 1)
    assert plan_key(toy_plan(train_dataloader={"num_workers": 2, "persistent_workers": True}, work_dir="x"), 1) == key
    others = [plan_key(toy_plan(), 2), plan_key(toy_plan(train_dataloader={"batch_size": 2}), 1)]
    assert key not in [*others, plan_key(toy_plan(optim_wrapper={"optimizer": {"lr": 1.0}}), 1)]


@pytest.mark.parametrize("factor, rates", [(1.0, [0.01]), (3.0, [0.01, 0.03])])
def test_weights_of_the_same_options_are_one_group_and_learn_the_same(tmp_path, monkeypatch, factor, rates):
    options = {"optim_wrapper": {"paramwise_cfg": {"bias_lr_mult": factor}}}
    merge, seen = config_runner.merge_groups, []
    monkeypatch.setattr(config_runner, "merge_groups", lambda optimizer: (merge(optimizer), seen.append(optimizer)))
    merged, _ = trained(tmp_path / "merged", **options)
    assert [group["lr"] for group in seen[0].param_groups] == rates
    monkeypatch.setattr(config_runner, "merge_groups", seen.append)
    apart, _ = trained(tmp_path / "apart", **options)
    assert len(seen[1].param_groups) == 2
    assert_equal(merged.state_dict(), apart.state_dict())


# what is kept of a plan ----------------------------------------------------------------------------------------------


def test_tuples_and_infinity_survive_json():
    group = {"test_pipeline": [{"type": "Resize", "scale": (4, 3), "steps": [1, (2, [3, ()])]}]}
    plan = toy_plan(model={"scale": (16, 16), "most": float("inf")}, vladapt=group, default_scope="vladapt")
    kept = json.loads(json.dumps(kept_of(plan), allow_nan=False))
    assert set(kept) == {"model", "vladapt", "default_scope"}
    again = with_tuples(kept)
    assert again["model"]["scale"] == (16, 16) and again["model"]["most"] == float("inf")
    assert again["vladapt"]["test_pipeline"] == [{"type": "Resize", "scale": (4, 3), "steps": [1, (2, [3, ()])]}]


def test_a_model_is_built_again_with_its_tuples_and_what_belongs_to_it(tmp_path):
    """The toy model refuses a list."""
    group = {"test_pipeline": [{"type": "Resize", "scale": (4, 3)}]}
    for model in (build(toy_plan(model={"scale": (8, 8)}, vladapt=group)), trained(tmp_path, vladapt=group)[0]):
        assert type(model.cfg.vladapt.test_pipeline[0].scale) is tuple
        assert "train_cfg" not in model.cfg


# faults of plans -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        (
            {"model": {"type": "ToyBoxModle"}},
            UnknownNameError,
            r"the config names 'ToyBoxModle', which no registry has \(.*model\); did you mean ToyBoxModel",
        ),
        ({"train_dataloader": {"dataset": {"type": "ToyScene"}}}, UnknownNameError, "did you mean ToyScenes"),
        ({"optim_wrapper": {"optimizer": {"type": "Adamm"}}}, UnknownNameError, "did you mean Adam"),
        ({"model": {"_delete_": True, "size": 16}}, ConfigError, "the config lacks the key .*type"),
        ({"model": {"sizes": 3}}, ConfigError, "unexpected keyword argument 'sizes'"),
        ({"model": {"scale": [16, 16]}}, ConfigError, "the config cannot be run: AssertionError"),
        ({"train_cfg": {"max_epochs": "many"}}, ConfigError, "the config cannot be run"),
        ({"train_dataloader": {"batch_size": "4"}}, ConfigError, "the config cannot be run"),
        ({"load_from": "no-such-file.pth"}, ConfigError, "no-such-file.pth"),
        ({"model": {"nan_at": (0, 3)}}, DataError, "training stopped at step 3: the loss is nan; try a smaller --lr"),
        ({"train_dataloader": {"dataset": {"broken": "data"}}}, DataError, "^scene.png: cannot be read; remove it$"),
    ],
)
def test_a_fault_of_a_plan_is_one_line(tmp_path, changes, error, says):
    with pytest.raises(error, match=says):
        trained(tmp_path, **changes)


@pytest.mark.parametrize(
    ("broken", "error", "says"),
    [
        ("data", DataError, r"^scene.png: cannot be read; remove it$"),
        ("key", ConfigError, r"the config lacks the key 'gt'"),
        ("bug", DataError, r"^a training sample cannot be made: 7; --debug shows where$"),
    ],
)
def test_a_fault_in_a_process_that_makes_samples_is_one_line(tmp_path, broken, error, says):
    loader = {"num_workers": 1, "dataset": {"broken": broken}}
    with pytest.raises(error, match=says):
        trained(tmp_path, train_dataloader=loader)


def test_an_error_of_ours_keeps_its_exit_code(small_clip_spec, capsys):
    from vladapt.cli import main

    with pytest.raises(SystemExit) as ended:
        main(command(small_clip_spec, "--set", "plan.model.type=ToyBoxModle"))
    lines = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2
    assert lines[-1].startswith("vladapt: the config names 'ToyBoxModle'") and "ToyBoxModel" in lines[-1]


@pytest.mark.parametrize("plan", [{"model": {}}, Config({"model": "x"}), Config({}), Config({"model": {"f": print}})])
def test_a_plan_that_is_none_is_refused(plan):
    with pytest.raises(ConfigError, match=r"must be an mmengine Config|plain data"):
        check_plan(plan)
