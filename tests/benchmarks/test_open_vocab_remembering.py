"""benchmarks/open_vocab_remembering.py: its sets, and the tower that sees an image once."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("mmdet", reason="extra open-vocab is not installed")

from vladapt.domains.open_vocab.data import read_detection

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "benchmarks"), *sys.path])
    import open_vocab_remembering

    return open_vocab_remembering


def test_no_name_is_old_and_new(bench):
    for case in bench.CASES.values():
        assert case.old and case.new and not set(case.old) & set(case.new)


def test_shapes_are_the_plain_scenes_that_no_fit_of_the_sample_reads(bench, monkeypatch, tmp_path):
    import open_vocab
    import plain_shapes

    monkeypatch.setenv("VLADAPT_CACHE", str(tmp_path))
    monkeypatch.setattr(plain_shapes, "COUNTS", {"train": 3, "test": 1})
    data = read_detection(bench.CASES["shapes"].data)
    assert sorted(item.split for item in data.items) == ["test", "train", "train", "train"]
    assert set(data.class_names) == set(bench.NAMES)
    rows = {name: row for name, row in open_vocab.ROWS.items() if row.path is None}
    assert {name for name, row in rows.items() if row.data == bench.CASES["shapes"].data} == {
        name for name in rows if name.startswith("plain_")
    }


def test_images_get_another_size_and_the_plan_that_was_given_keeps_its_own(bench):
    pipeline = [{"type": "vladapt.FitImage", "scale": (512, 320)}, {"type": "PackDetInputs"}]
    plan = {name: {"dataset": {"pipeline": pipeline}} for name in ("train_dataloader", "test_dataloader")}
    made = bench._scaled(plan, (64, 48))
    assert [each["dataset"]["pipeline"][0]["scale"] for each in made.values()] == [(64, 48)] * 2
    assert pipeline[0]["scale"] == (512, 320)


def test_what_is_given_of_epochs_and_alpha_counts_in_the_second_training(bench, monkeypatch, capsys):
    fits = []

    class Fitted:
        run, notes = "run", ["Weights are 100% those of the training."]

    def fitted(case, classes, stage, **flags):
        fits.append((case.epochs[stage], flags.get("wise_alpha"), "remember" in flags))
        return Fitted

    monkeypatch.setattr(bench, "_fitted", fitted)
    monkeypatch.setattr(bench, "_scores", lambda case, run, split, learned: (0.5, 0.25))
    monkeypatch.setattr(bench, "keep_maps", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    given = ["--data", "shapes", "--seeds", "4", "--epochs", "3", "--wise-alpha", "0.7"]
    monkeypatch.setattr(sys, "argv", ["open_vocab_remembering.py", *given])
    bench.main()
    assert fits == [(8, None, False), (3, None, False), (3, 0.7, True)]
    assert capsys.readouterr().out.splitlines()[2].split(" | ")[4:7] == ["0.500", "0.500", "100.0%"]


@pytest.mark.parametrize(("frozen", "computed"), [(True, [2, 1]), (False, [2, 2])])
def test_a_frozen_tower_sees_an_image_once(bench, monkeypatch, frozen, computed):
    seen = []

    class Tower(torch.nn.Linear):
        def _maps(self, pixels):
            seen.append(len(pixels))
            return [pixels * 2, pixels.mean((2, 3), keepdim=True)]

    monkeypatch.setattr(bench, "CLIPVisionBackbone", Tower)
    bench.keep_maps()
    tower = Tower(1, 1).requires_grad_(not frozen)
    first, other = torch.rand(2, 3, 4, 4), torch.rand(1, 3, 4, 4)
    tower._maps(first)
    both = torch.cat([other, first[1:]])
    for found, expected in zip(tower._maps(both), (both * 2, both.mean((2, 3), keepdim=True)), strict=True):
        torch.testing.assert_close(found, expected)
    assert seen == computed
