"""Hooks of mmengine's and of the user's own in trainings of towers, and what of mmengine ours must leave alone."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys

import forked
import pytest
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from vladapt import ConfigError, UnknownNameError
from vladapt.core.contracts.recipe import Recipe, value_of
from vladapt.core.recipes.asked_for import check_hooks
from vladapt.core.recipes.resolve import resolve
from vladapt.core.tasks.config_training import runner as plan_runner
from vladapt.core.tasks.pretraining.options import plan_of
from vladapt.core.training import hooks, log_hook, model, optimizer, resume, runner, train
from vladapt.core.training.log import FILE, keep_logs
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.train import TrainingTask

SETTINGS = {"epochs": 4, "batch_size": 8, "lr": 1e-3, "seed": 3}
EARLY = {"type": "EarlyStoppingHook", "monitor": "val", "rule": "greater", "min_delta": 0.0, "patience": 2}
MODULES = (hooks, log_hook, model, optimizer, plan_runner, resume, runner, train)


@pytest.fixture
def told(monkeypatch):
    """What a hook of the user's own, registered as "Telling", heard."""
    heard = []

    class Telling(Hook):
        def __init__(self, word="step"):
            self.word = word

        def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
            heard.append((self.word, runner.iter + 1))
            runner.visualizer.add_scalar("told", len(heard), step=runner.iter + 1)

        def after_val_epoch(self, runner, metrics):
            heard.append((runner.epoch, metrics))

        def after_run(self, runner):
            runner.visualizer.add_scalar("total", len(heard), step=runner.iter)

    monkeypatch.setitem(HOOKS.module_dict, "Telling", Telling)
    return heard


def trained(backbone, source, folder, given, scores=(), **settings):
    left = iter(scores)
    task = TrainingTask(source, {"clip": 1.0}, validate=(lambda: next(left)) if scores else None)
    return train.train(backbone, task, TrainingSettings(**{**SETTINGS, **settings}), folder, hooks=given)


def test_a_hook_of_the_users_own_hears_steps_and_scores(fresh_clip, toy_pairs, tmp_path, told):
    given = [{"type": "Telling", "word": "done"}]
    trained(fresh_clip, toy_pairs(16), tmp_path, given, [0.25, 0.5], epochs=2, log_to="LocalVisBackend")
    assert told == [("done", 1), ("done", 2), (1, {"val": 0.25}), ("done", 3), ("done", 4), (2, {"val": 0.5})]
    lines = (tmp_path / "LocalVisBackend" / "scalars.json").read_text().splitlines()
    assert [row["told"] for row in map(json.loads, lines) if "told" in row] == [1, 2, 4, 5], "by runner.visualizer"
    assert json.loads(lines[-1]) == {"total": 6, "step": 4}, "which is open to the end"


def test_hooks_of_mmengine_do_what_they_do_elsewhere(fresh_clip, toy_pairs, tmp_path):
    given = [EARLY, {"type": "RuntimeInfoHook"}, {"type": "IterTimerHook"}, {"type": "LoggerHook", "interval": 1}]
    given.append({"type": "CheckpointHook", "interval": 1, "max_keep_ckpts": 1, "save_best": "val", "rule": "greater"})
    done = trained(fresh_clip, toy_pairs(16), tmp_path, given, [0.5, 0.4, 0.3, 0.2], log_to="LocalVisBackend")
    assert len(done.history) == 3, "stopped by mmengine's hook"
    written = {path.name for path in (tmp_path / "mmengine").iterdir() if path.is_file()}
    assert written == {"epoch_3.pth", "best_val_epoch_1.pth", "last_checkpoint"}
    times = (tmp_path / "LocalVisBackend").rglob("2*.json")
    assert all("data_time" in json.loads(line) for line in next(times).read_text().splitlines()[:2])
    run = tmp_path / "run"
    run.mkdir()
    keep_logs(tmp_path, run)
    assert (run / "mmengine" / "epoch_3.pth").is_file() and (run / FILE).is_file()


def test_without_them_mmengine_leaves_nothing_behind(fresh_clip, toy_pairs, tmp_path, capfd):
    trained(fresh_clip, toy_pairs(16), tmp_path / "place", (), epochs=1)
    assert sorted(path.name for path in (tmp_path / "place").iterdir()) == ["checkpoints", FILE]
    assert capfd.readouterr() == ("", "")


def test_they_change_no_weight(small_clip_spec, toy_pairs, tmp_path, told):
    from vladapt.core.backbones.load import load_backbone

    made = []
    for given in ([], [{"type": "Telling", "priority": "VERY_HIGH"}, {"type": "RuntimeInfoHook"}]):
        backbone = load_backbone(small_clip_spec, device="cpu")
        trained(backbone, toy_pairs(16), None, given, epochs=1)
        made.append(backbone.model.state_dict())
    assert told and all((made[0][name] == made[1][name]).all() for name in made[0])


def test_after_a_resume_they_begin_at_its_step(small_clip_spec, toy_pairs, tmp_path, monkeypatch):
    from vladapt.core.backbones.load import load_backbone

    starts = []
    begins = type("Begins", (Hook,), {"before_train": lambda self, runner: starts.append((runner.epoch, runner.iter))})
    monkeypatch.setitem(HOOKS.module_dict, "Begins", begins)
    settings = TrainingSettings(**{**SETTINGS, "epochs": 2, "save_every": 3})
    for again in (False, True):
        newest = tmp_path / "checkpoints" / "step-00000004.pt"
        newest.unlink(missing_ok=True)
        backbone, task = load_backbone(small_clip_spec, device="cpu"), TrainingTask(toy_pairs(16), {"clip": 1.0})
        train.train(backbone, task, settings, tmp_path, resume=again, hooks=[{"type": "Begins"}])
    assert starts == [(0, 0), (1, 3)]


def test_what_cannot_be_a_hook_is_told_in_one_line(fresh_clip, toy_pairs):
    with pytest.raises(UnknownNameError, match=r"no hook 'EarlyStopingHook'; .*EarlyStoppingHook.*custom_imports"):
        trained(fresh_clip, toy_pairs(16), None, [{"type": "EarlyStopingHook"}])
    with pytest.raises(ConfigError, match=r"EarlyStoppingHook cannot be made .*monitor"):
        trained(fresh_clip, toy_pairs(16), None, [{"type": "EarlyStoppingHook"}])
    with pytest.raises(ConfigError, match=r"custom_hooks .*give hooks as mmengine's configs name them"):
        value_of("custom_hooks", ["EarlyStoppingHook"])


def test_a_config_gives_them_and_a_method_that_trains_no_towers_refuses_them(tmp_path, monkeypatch):
    (tmp_path / "own_hooks_of_a_test.py").write_text("imported = True\n")
    (tmp_path / "recipe.py").write_text(
        "adapter = dict(name='lora', epochs=2)\n"
        "custom_imports = dict(imports=['own_hooks_of_a_test'])\n"
        "custom_hooks = [dict(type='EmptyCacheHook', after_epoch=True)]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = resolve(config=tmp_path / "recipe.py")
    assert recipe.custom_hooks == [{"type": "EmptyCacheHook", "after_epoch": True}]
    assert "own_hooks_of_a_test" in sys.modules
    check_hooks(recipe)
    for name in ("tip-adapter", "zero-shot", "auto"):
        with pytest.raises(ConfigError, match=f"custom_hooks: adapter '{name}' trains no towers"):
            check_hooks(recipe.with_(adapter={"name": name}))
    with pytest.raises(UnknownNameError, match="no hook 'EmptyCash'"):
        check_hooks(recipe.with_(custom_hooks=[{"type": "EmptyCash"}]))


def test_pretraining_takes_them_too():
    sets = ["custom_hooks=[{'type': 'EmptyCacheHook'}]"]
    plan = plan_of(data="sample", out="out", losses=["clip"], settings={}, sets=sets)
    assert plan.custom_hooks == [{"type": "EmptyCacheHook"}]


def test_a_run_names_no_hooks_and_none_are_read_from_one():
    recipe = Recipe(custom_hooks=[{"type": "EmptyCacheHook"}], given=frozenset({"custom_hooks", "shots"}))
    plain = recipe.to_dict()
    assert "custom_hooks" not in json.dumps(plain) and plain["given"] == ["shots"]
    assert Recipe.of({**plain, "custom_hooks": [{"type": "anything.from.a.Run"}]}).custom_hooks == []


def test_nothing_private_of_mmengine_is_overridden_or_used():
    for module in MODULES:
        for name, cls in inspect.getmembers(module, inspect.isclass):
            theirs = [base for base in cls.__mro__ if base.__module__.startswith("mmengine")]
            if cls.__module__ != module.__name__ or not theirs:
                continue
            private = {key for base in theirs for key in vars(base) if key.startswith("_") and not key.startswith("__")}
            assert not private & set(vars(cls)) - {"_abc_impl"}, f"{name} overrides {private & set(vars(cls))}"
        used = re.findall(
            r"\b(?:runner|loop|logger|hook|visualizer|Runner|MMLogger)\._[a-z]\w*", inspect.getsource(module)
        )
        assert not used, f"{module.__name__} uses {used}"


@pytest.mark.thorough
def test_only_a_training_of_towers_needs_mmengine():
    """Not the classes of methods and losses, which predictions with a run need too."""
    code = (
        "import sys\n"
        "from vladapt.core.registry import adapter_class, catalogue, loss_class\n"
        "from vladapt.core.tasks.classification import task\n"
        "from vladapt.core.tasks.retrieval import task\n"
        "for name in catalogue.adapters():\n"
        "    adapter_class(name)\n"
        "for name in catalogue.losses():\n"
        "    loss_class(name)\n"
        "assert 'vladapt.core.training.tower_adapter' in sys.modules\n"
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'mmengine', 'mmcv', 'mmdet', 'mmseg'}))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)  # forked ones have imported it
    assert done.stdout == "[]\n", done.stderr


def test_a_machine_without_a_compiler_says_nothing(tmp_path):
    """mmengine asks a shell for its version."""
    code = (
        "import os, tempfile\n"
        "from mmengine.runner import Runner\n"
        "from torch import nn\n"
        "from vladapt.core.training.runner import unheard_shell\n"
        f"os.environ['PATH'] = {str(tmp_path)!r}\n"
        "with tempfile.TemporaryDirectory() as folder, unheard_shell():\n"
        "    Runner(nn.Linear(1, 1), folder, log_level='ERROR', experiment_name='none')\n"
        "os.write(2, b'and stderr is there again')\n"
    )
    (tmp_path / "made.py").write_text(code)
    done = forked.run([tmp_path / "made.py"], cwd=tmp_path)
    assert done.stderr == "and stderr is there again" and done.returncode == 0
