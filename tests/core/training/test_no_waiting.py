"""Between two reads of its losses, no step of a training makes the host wait for the device."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from vladapt import DataError
from vladapt.core.backbones.load import load_backbone
from vladapt.core.losses import gloria
from vladapt.core.training import optimizer, runner
from vladapt.core.training import train as trainings
from vladapt.core.training.log import read_interval, read_together
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.train import TrainingTask, train

READS = {"item", "tolist", "cpu", "__float__", "__int__", "__bool__", "nonzero"}
ATEN = torch.ops.aten
SETTINGS = {"epochs": 1, "batch_size": 8, "lr": 1e-3, "warmup": 0.0, "seed": 3, "log_every": 4}
PROMPTS = [[f"a {colour} area", colour] for colour in ("red", "green", "blue", "yellow")]
SMALL = {"silc": {"out_dim": 16, "hidden_dim": 8, "bottleneck_dim": 4}}


class Waits(TorchFunctionMode):
    """Counts what would wait for a GPU, by name: calls from Python, and reads of a number by whatever path."""

    def __init__(self):
        self.count: Counter[str] = Counter()
        self._inner = _Dispatched(self.count)

    def __enter__(self):
        self._inner.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        return self._inner.__exit__(*error)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in READS:
            self.count[func.__name__] += 1
        return func(*args, **(kwargs or {}))


class _Dispatched(TorchDispatchMode):
    def __init__(self, count: Counter[str]):
        super().__init__()
        self.count = count

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is ATEN._local_scalar_dense.default or func is ATEN.nonzero.default or _picks_by_mask(func, args):
            self.count[func.name().removeprefix("aten::")] += 1
        return func(*args, **(kwargs or {}))


def _picks_by_mask(func, args) -> bool:
    return func is ATEN.index.Tensor and any(index is not None and index.dtype == torch.bool for index in args[1])


@pytest.mark.parametrize(
    ("read", "names"),
    [
        (lambda x: x.sum().item(), {"item", "_local_scalar_dense"}),
        (lambda x: x.tolist(), {"tolist"}),
        (lambda x: x.cpu(), {"cpu"}),
        (lambda x: float(x.sum()), {"__float__", "_local_scalar_dense"}),
        (lambda x: int(x.sum()), {"__int__", "_local_scalar_dense"}),
        (lambda x: bool(x.sum()), {"__bool__", "_local_scalar_dense"}),
        (lambda x: x.nonzero(), {"nonzero"}),
        (lambda x: torch.where(x > 0), {"nonzero"}),
        (lambda x: x[x > 0], {"index.Tensor"}),
        (lambda x: x * 2 + x.mean(), set()),
    ],
)
def test_the_count_sees_each_way_to_read(read, names):
    with Waits() as waits:
        read(torch.ones(3))
    assert waits.count.keys() == names


def test_the_count_sees_a_read_in_the_backward_pass():
    class Reads(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * float(gradient.sum())

    loss = Reads.apply(torch.ones(3, requires_grad=True)).sum()
    with Waits() as waits:
        loss.backward()
    assert waits.count == {"_local_scalar_dense": 1}


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """The optimiser is fused, losses are read where there is a line of the log, and no values are looked at."""
    monkeypatch.setattr(gloria, "is_at_hand", lambda values: False)
    monkeypatch.setattr(optimizer, "is_fast", lambda device: True)
    monkeypatch.setattr(trainings, "read_interval", lambda device, every, steps: every)


@pytest.fixture
def waits(monkeypatch):
    """What each step counted, in order."""
    counts, original = [], runner.ResumableLoop.run_iter

    def counted(self, step, batch):
        with Waits() as seen:
            original(self, step, batch)
        counts.append(dict(seen.count))

    monkeypatch.setattr(runner.ResumableLoop, "run_iter", counted)
    return counts


@pytest.mark.parametrize(
    ("loss", "settings"),
    [
        ("clip", {}),
        ("clip", {"clip_grad": 1.0, "ema": 0.9}),
        ("clip", {"optimizer": "sgd", "schedule": "constant"}),
        ("clip", {"amp": "fp16", "micro_batch_size": 4}),
        ("clip", {"amp": "bf16", "checkpointing": True}),
        ("siglip", {}),
        ("gloria", {}),
        ("silc", {}),
        ("cross-entropy", {}),
        ("cross-entropy", {"lora": 2}),
        ("clip", {"lora": 2}),
        ("cross-entropy", {"lock": "text"}),
    ],
    ids=str,
)
def test_no_step_between_two_reads_waits(small_clip_spec, toy_pairs, as_on_a_gpu, waits, loss, settings):
    backbone = load_backbone(small_clip_spec, device="cpu")
    options = {loss: SMALL[loss]} if loss in SMALL else {}
    task = TrainingTask(toy_pairs(80), {loss: 1.0}, options, class_prompts=PROMPTS)
    train(backbone, task, TrainingSettings(**{**SETTINGS, **settings}), None)
    assert waits == [{"tolist": 2} if step in (4, 8, 10) else {} for step in range(1, 11)]


@pytest.mark.thorough
def test_nor_with_the_embedded_backbone(toy_pairs, as_on_a_gpu, waits):
    backbone = load_backbone("embedded", device="cpu", image_size=64)
    train(backbone, TrainingTask(toy_pairs(16), {"clip": 1.0}), TrainingSettings(**{**SETTINGS, "batch_size": 4}), None)
    assert waits == [{}, {}, {}, {"tolist": 2}]


def test_reading_later_changes_nothing(small_clip_spec, toy_pairs, tmp_path, monkeypatch):
    """Weights, history, what is told of each step, and a resume from a checkpoint that falls between two reads."""
    settings = TrainingSettings(**{**SETTINGS, "epochs": 2, "save_every": 5})

    def run(folder, resume=False):
        backbone, told = load_backbone(small_clip_spec, device="cpu"), []
        task = TrainingTask(toy_pairs(), {"clip": 1.0})
        hear = {"on_step": lambda *step: told.append(step)}
        done = train(backbone, task, settings, folder, resume=resume, **hear)
        return backbone.model.state_dict(), done.history, told

    each = run(tmp_path / "each")
    monkeypatch.setattr(trainings, "read_interval", lambda device, every, steps: every)
    later = run(tmp_path / "later")
    for path in (tmp_path / "later" / "checkpoints").glob("step-00000006*"):
        path.unlink()
    resumed = run(tmp_path / "later", resume=True)
    for other in (later, resumed):
        assert all(torch.equal(each[0][name], other[0][name]) for name in each[0])
        assert each[1] == other[1]
    assert each[2] == later[2] and each[2][5:] == resumed[2]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_a_step_that_is_no_number_is_left_out_and_told_at_the_next_read(
    fresh_clip, toy_pairs, as_on_a_gpu, monkeypatch, name
):
    from vladapt.core.losses.clip import Clip

    original, seen = Clip.compute_rows, []

    def compute_rows(self, out, ranks, progress):
        values = original(self, out, ranks, progress)
        seen.append({name: value.clone() for name, value in fresh_clip.model.state_dict().items()})
        return {"loss": values["loss"] * (torch.nan if len(seen) == 2 else 1.0)}

    monkeypatch.setattr(Clip, "compute_rows", compute_rows)
    task, settings = TrainingTask(toy_pairs(80), {"clip": 1.0}), TrainingSettings(**{**SETTINGS, "optimizer": name})
    with pytest.raises(DataError, match=r"stopped at step 2 \(epoch 1, loss nan, .* on rows \d+, .*; try a smaller"):
        train(fresh_clip, task, settings, None)
    assert len(seen) == 4, "the host looks at the 4th step"
    moved = [any(not torch.equal(one[key], other[key]) for key in one) for one, other in pairwise(seen)]
    assert moved == [True, False, True]
    assert all(value.isfinite().all() for value in fresh_clip.model.state_dict().values())


def test_no_checkpoint_is_made_of_a_step_that_was_left_out(fresh_clip, toy_pairs, as_on_a_gpu, tmp_path):
    with pytest.raises(DataError, match="stopped at step 2"):
        settings = TrainingSettings(**{**SETTINGS, "optimizer": "sgd", "lr": 1e30, "save_every": 2})
        train(fresh_clip, TrainingTask(toy_pairs(80), {"clip": 1.0}), settings, tmp_path)
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_values_are_read_together_as_they_are():
    rows = [{"loss": torch.tensor(0.1), "part": torch.tensor(3)}, {"loss": torch.tensor(0.2, dtype=torch.float64)}]
    assert read_together(rows) == [{"loss": float(torch.tensor(0.1)), "part": 3.0}, {"loss": 0.2}]
    assert read_together([]) == [] and read_together([{}]) == [{}]


def test_a_gpu_is_read_about_200_times_and_a_cpu_at_each_step():
    assert [read_interval(torch.device("cuda"), None, steps) for steps in (1, 400, 10**6)] == [1, 2, 100]
    assert read_interval(torch.device("cpu"), None, 10**6) == 1
    assert read_interval(torch.device("cuda"), 3, 400) == 3, "as often as there are lines"
