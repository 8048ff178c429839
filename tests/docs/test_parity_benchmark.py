"""benchmarks/parity.py on a folder of other sizes and settings, and what it says of fixtures it cannot read."""

from __future__ import annotations

import json
import math
import re
import sys

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

pytest.importorskip("mmseg", reason="extra open-vocab is not installed")

import parity as benchmark
from parity_checks import cache, losses
from parity_checks.comparison import NotCompared
from parity_checks.fixtures import Fixtures, UnreadableFixture, stated_in

CLASSES, WIDTH, SHOTS = 4, 6, 3
SCALE, STEPS = (5.0, 90.0), (7, 4)  # (beta, alpha)
POINTS = {"init": (2.0, 0.75), "other": (0.4, 1.5)}


def write(folder, name, tensors, settings, meanings=None):
    """A fixture whose numbers are to be met within 1e-4."""
    folder.mkdir(exist_ok=True)
    whole = {key: torch.as_tensor(value) for key, value in tensors.items()}
    whole = {key: value.float() if value.is_floating_point() else value for key, value in whole.items()}
    save_file({key: value.contiguous().clone() for key, value in whole.items()}, folder / f"{name}.safetensors")
    near = {"atol": 1e-4, "rtol": 1e-4}
    told = {key: {"meaning": (meanings or {}).get(key, ""), **near} for key in whole}
    (folder / f"{name}.json").write_text(json.dumps({"hyper_parameters": settings, "tensors": told}))


def edit(path, place, value):
    """Another value in the JSON, in the dictionary inside dictionaries that `place` leads to."""
    facts = json.loads(path.read_text())
    *way, last = place
    inside = facts
    for key in way:
        inside = inside[key]
    inside[last] = value
    path.write_text(json.dumps(facts))


@pytest.fixture
def folder(tmp_path):
    """Tip-Adapter and M-FLAG's first term, written out from their formulas."""
    draw = torch.Generator().manual_seed(3)
    centres = torch.randn(CLASSES, WIDTH, generator=draw, dtype=torch.double)
    text = centres + 3 * torch.randn(CLASSES, WIDTH, generator=draw)  # of little use, so that the cache counts
    common = {"text_features": F.normalize(text, dim=1)}
    for part, count in {"support": SHOTS, "val": 5, "test": 4}.items():
        labels = torch.arange(CLASSES).repeat_interleave(count)
        noise = torch.randn(len(labels), WIDTH, generator=draw).double()
        common |= {f"{part}_features": F.normalize(centres[labels] + noise, dim=1), f"{part}_labels": labels}
    write(tmp_path / "dev", "_features", common, {})
    tip_adapter(tmp_path / "dev", common)
    latent = torch.randn(5, 3, generator=draw).double().requires_grad_()
    gram = latent.T @ latent / 5
    off = gram.square().sum() - gram.diagonal().square().sum()
    value = ((gram.diagonal() - 1).square().sum() + 0.02 * off) / 2
    (gradient,) = torch.autograd.grad(value, latent)
    numbers = {"latent": latent.detach(), "orthogonal_loss": value.detach(), "grad_latent": gradient}
    sides = {f"{side}_projection": torch.eye(3)[:2] for side in ("image", "text")}
    zeros = {"align_loss": torch.zeros(()), **{f"grad_{side}": torch.zeros(2, 3) for side in sides}}
    write(tmp_path / "dev", "loss_mflag", {**numbers, **sides, **zeros}, {"off_diagonal_weight": 0.02})
    return tmp_path


def tip_adapter(folder, common):
    one_hot = F.one_hot(common["support_labels"]).double()

    def logits(part, beta, alpha):
        images = common[f"{part}_features"]
        cache = torch.exp(-beta * (1 - images @ common["support_features"].T)) @ one_hot
        return 100 * images @ common["text_features"].T + alpha * cache

    best, point = -1.0, None
    for i in range(STEPS[0]):
        for j in range(STEPS[1]):
            beta, alpha = (0.1 + n * (end - 0.1) / steps for n, end, steps in zip((i, j), SCALE, STEPS))
            right = (logits("val", beta, alpha).argmax(dim=1) == common["val_labels"]).double().mean()
            if right > best:
                best, point = right, (beta, alpha)
    assert min(point) > 0.1  # a point that depends on the grid
    numbers = {"zero_shot_logits_test": 100 * common["test_features"] @ common["text_features"].T}
    numbers |= {f"tip_logits_test_{name}": logits("test", *at) for name, at in POINTS.items()}
    numbers |= {"tip_logits_test_searched": logits("test", *point)}
    numbers |= {f"search_best_{axis}": [value] for axis, value in zip(("beta", "alpha"), point)}
    meanings = {f"tip_logits_test_{name}": f"test logits at beta={b}, alpha={a}" for name, (b, a) in POINTS.items()}
    settings = {"K": SHOTS, "search_scale": SCALE, "search_step": STEPS, "inputs": "_features: support_*, val_*"}
    write(folder, f"tip_adapter_{SHOTS}shot", numbers, settings, meanings)


def rows(folder, comparison):
    return list(comparison.rows(Fixtures(folder)))


def run(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["parity.py", "--parity", str(folder)])
    benchmark.main()


@pytest.mark.parametrize(("comparison", "count"), [(cache.tip_adapter, 5), (losses.m_flag, 5)], ids=["tip", "m-flag"])
def test_sizes_and_settings_are_those_of_the_fixture(folder, comparison, count):
    checks = rows(folder, comparison)
    assert len(checks) == count and not [check for check in checks if not check.share <= 1]


@pytest.mark.parametrize(
    ("comparison", "name", "place", "value"),
    [
        (losses.m_flag, "loss_mflag", ("hyper_parameters", "off_diagonal_weight"), 0.03),
        (cache.tip_adapter, "tip_adapter_3shot", ("hyper_parameters", "search_scale"), (6, 80)),
        (cache.tip_adapter, "tip_adapter_3shot", ("tensors", "tip_logits_test_other", "meaning"), "beta=0.5, alpha=1"),
    ],
    ids=["weight", "grid", "point"],
)
def test_another_setting_is_outside_the_tolerance(folder, comparison, name, place, value):
    edit(folder / "dev" / f"{name}.json", place, value)
    assert [check for check in rows(folder, comparison) if not check.share <= 1]


def test_the_page_of_such_a_folder(folder, monkeypatch, capsys):
    """What is there is compared, what is not is told, and nothing is wrong with that."""
    run(folder, monkeypatch)
    page, told = capsys.readouterr()
    assert re.search(r"^\| tip-adapter \| tip_adapter_3shot \| 5 \| \S+ \| \d+% \| .+ \|$", page, re.M)
    assert "| ape | ape_*shot | 0 | | | not in this folder |" in page
    assert "not compared: ape ape_*shot: not in this folder" in told


@pytest.mark.parametrize(
    ("place", "value", "why"),
    [
        (("hyper_parameters",), {}, "there is no hyper-parameter off_diagonal_weight"),
        (("tensors",), None, "TypeError"),
        (("tensors", "latent"), {"meaning": "of another kind"}, None),
    ],
    ids=str,
)
def test_what_cannot_be_read_is_a_row(folder, place, value, why):
    edit(folder / "dev" / "loss_mflag.json", place, value)
    last = rows(folder, losses.m_flag)[-1]
    assert last.why.startswith(f"cannot be read: {why}") if why else not isinstance(last, NotCompared)


def test_a_number_outside_its_tolerance_ends_the_page_with_1(folder, monkeypatch, capsys):
    (folder / "dev" / "tip_adapter_3shot.json").write_text("no JSON")
    edit(folder / "dev" / "loss_mflag.json", ("hyper_parameters", "off_diagonal_weight"), 0.03)
    with pytest.raises(SystemExit, match="outside its tolerance: m-flag loss_mflag orthogonal loss"):
        run(folder, monkeypatch)
    page = capsys.readouterr().out
    assert "| tip-adapter | tip_adapter_3shot | 0 | | | cannot be read: JSONDecodeError" in page
    assert "## Fixtures without a row" in page


def test_a_folder_that_is_not_there_is_named(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run(tmp_path / "nowhere", monkeypatch)
    assert stop.value.code == 2 and "there is no folder" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["dev", "other", "."])
def test_fixtures_lie_in_dev_in_another_folder_or_in_the_one_given(folder, tmp_path, place):
    given = (folder / "dev").rename(tmp_path / "moved") if place == "." else folder
    if place == "other":
        (folder / "dev").rename(folder / "other")
    assert Fixtures(given).names() == ["loss_mflag", "tip_adapter_3shot"]


def test_names_are_in_the_order_of_their_numbers(tmp_path):
    for shots in (16, 2, 1):
        write(tmp_path, f"ape_{shots}shot", {"x": [0.0]}, {})
    assert Fixtures(tmp_path).names("ape_*shot") == ["ape_1shot", "ape_2shot", "ape_16shot"]


def test_settings_in_words_are_worked_out(tmp_path):
    given = {
        "plain": 3,
        "ratio": "1/0.07",
        "power": "exp(4.0)",
        "log": "log(1/0.07)",
        "rate": "5e-3",
        "in": {"deep": 2},
    }
    write(tmp_path, "one", {"x": [0.0]}, {**given, "words": "ZS"})
    reference = Fixtures(tmp_path).reference("one")
    found = [reference.setting(name) for name in ("plain", "ratio", "power", "log", "rate", "in.deep")]
    assert found == pytest.approx([3, 1 / 0.07, math.exp(4), math.log(1 / 0.07), 0.005, 2])
    assert reference.setting("words") == "ZS" and reference.setting("absent", 7) == 7
    with pytest.raises(UnreadableFixture, match=r"no hyper-parameter in\.absent"):
        reference.setting("in.absent")
    reference.require("words", "ZS")
    with pytest.raises(UnreadableFixture, match="plain is 3, of ours always 4"):
        reference.require("plain", 4)


def test_numbers_are_found_behind_their_words():
    words = "logits at beta=5.5, alpha=.17 (teacher scale 20; eps 1e-8, w=[0.3, 0.7]), options {'sgl_delta': -1}"
    found = [stated_in(words, word) for word in ("beta", "alpha", "teacher scale", "eps", "w", "sgl_delta")]
    assert found == [5.5, 0.17, 20, 1e-8, [0.3, 0.7], -1]
    assert stated_in(words, "gamma", 2) == 2
    with pytest.raises(UnreadableFixture, match="no number follows 'gamma'"):
        stated_in(words, "gamma")


def test_numbers_that_are_none_or_of_another_shape_are_outside(folder):
    reference = Fixtures(folder).reference("loss_mflag")
    for wrong in (torch.full((5, 3), math.nan), torch.zeros(4, 3), torch.full((5, 3), math.inf)):
        assert not reference.check(wrong, "grad_latent").share <= 1
    assert reference.check(reference["grad_latent"], "grad_latent").share == 0
