"""Benchmarks that say that two ways give the same are run on small sizes: what they then print is true.

The comparisons of benchmarks/parity.py are run by the tests of the methods (`agrees` in `vladapt.testing`).
"""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL_TEXT_TOWER = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 8192, "width": 64, "heads": 2, "layers": 2},
}


@pytest.fixture
def script(monkeypatch):
    """`script(name)`: a script of `benchmarks/`."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    return importlib.import_module


def test_tip_search_chooses_as_the_plain_loop(script, monkeypatch):
    tip_search = script("tip_search")
    monkeypatch.setattr(tip_search, "STEPS", (60, 10))
    for seed in range(3):  # several: on one, any rule among equally accurate points may chance upon the first
        assert tip_search.same_choice(*tip_search.problem(n_val=60, classes=6, shots=2, dim=32, seed=seed))[0]


def test_the_closed_form_of_ape_chooses_the_channels_of_the_loops(script):
    assert script("ape_criterion").same_channels(classes=5, shots=2, dim=32, count=20)


def test_trimmed_prompts_have_the_gradients_of_whole_ones(script):
    pytest.importorskip("open_clip", reason="extra open-clip is not installed")
    coop_step = script("coop_step")
    problem = coop_step.problem(coop_step.backbone(SMALL_TEXT_TOWER), classes=6, batch=8)
    assert coop_step.gradients_apart(*problem) < 1e-3, "the largest is 35"


@pytest.mark.parametrize("name", ["clip", "siglip"])
def test_contrastive_losses_are_those_of_open_clip(script, name):
    pytest.importorskip("open_clip", reason="extra open-clip is not installed")
    memory = script("contrastive_memory")
    ours, theirs = (memory.step_of(whose, name)(*memory.features(300)) for whose in ("ours", "open_clip"))
    assert memory.same_loss(ours, theirs)


def test_transclip_answers_as_its_plain_form(script):
    transclip = script("transclip")
    theirs, ours = (transclip.measure(whose, 700) for whose in ("plain", "vladapt"))
    assert transclip.same_answers(theirs, ours) == 1
    assert ours["accuracies"][1] > ours["accuracies"][0] + 5, "there is something to find"


def test_checkpointing_learns_the_same_contexts(script, small_clip_spec):
    prompt_memory = script("prompt_memory")
    ways = ({}, {"checkpointing": True})
    kept, checkpointed = (prompt_memory.measure("coop", 12, options, small_clip_spec) for options in ways)
    assert prompt_memory.contexts_apart(kept, checkpointed) < 1e-6


def test_sliding_windows_are_those_of_mmsegmentation(script):
    pytest.importorskip("mmseg", reason="extra open-vocab is not installed")
    sliding = script("sliding_windows")
    model = sliding.build("MaskCLIP", "embedded", 3, templates="photo", short_side=None)
    images = torch.randn(1, 3, 224, 448, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert sliding.logits_apart(model, images) < 1e-4


def test_names_folded_into_weights_score_as_texts(script):
    pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
    folded = script("folded_vocabulary")
    model = folded.model_of({})
    folded.ask(model, 5)
    assert folded.compare(model, 1, size=(64, 96))[1] < 1e-3


def test_operators_are_those_of_torchvision(script):
    pytest.importorskip("mmdet", reason="extra open-vocab is not installed")
    mmcv_operators = script("mmcv_operators")
    ours = mmcv_operators.OPERATORS
    rows = {name: (run, theirs) for name, (_, run, theirs) in mmcv_operators.ROWS.items() if theirs is not None}
    assert [name for name, (run, theirs) in rows.items() if not mmcv_operators.same(run(ours), theirs())] == []
    assert len(rows) == 4


def test_near_copies_are_dropped_as_by_the_literal_loop(script):
    dedup = script("semantic_dedup")
    pairs = dedup.drawn(600, 16, seed=0)
    clusters = dedup.cluster(pairs, "image_features", 12, 0)
    lists = dedup.members_in_order(clusters.nearest[:, :1], dedup.visiting_order(clusters.similarity))
    features = pairs.unit("image_features")
    ours = dedup.max_similarities(features.__getitem__, lists, len(features))
    assert dedup.same_decisions(ours, dedup.literal(features, lists))
    assert 0.05 < (ours > 1 - dedup.EPS).mean() < 0.5, "some are dropped, and others are not"


def test_graphs_of_types_give_what_torch_gives(script, tmp_path):
    for package in ("mmseg", "onnxruntime"):
        pytest.importorskip(package, reason="extras open-vocab and export are not installed")
    types = script("exported_types")
    model, form = types.built("fpn", "embedded")
    assert types.told(model, form) == "yes"
    written, agreed = types.traced(model, tmp_path)
    assert written == "yes" and agreed.count("equal") == len(types.SIZES), agreed


def test_detectors_of_transformers_learn_as_in_a_plain_loop(script, monkeypatch, tmp_path):
    for package in ("mmdet", "transformers"):
        pytest.importorskip(package, reason="extras open-vocab and hf are not installed")
    beside = script("beside_transformers")
    monkeypatch.setattr(beside, "STEPS", 3)
    beside.prepare("rt_detr_v2", tmp_path, side=64)
    ours, theirs = beside.ours(tmp_path), beside.theirs(tmp_path)
    assert len(set(ours["losses"])) == 3 and beside.losses_apart(ours, theirs) < 1e-4


def test_no_benchmark_says_so_without_being_run_here():
    says = re.compile(r"\bf\".*\{[^{}]*\b(?:\w+_)?(?:same|apart|agrees|equal)(?:_\w+)?\b[^{}]*\}")
    saying = {file.stem for file in BENCHMARKS.glob("*.py") if says.search(file.read_text(encoding="utf-8"))}
    here = set(re.findall(r'script\("(\w+)"\)', Path(__file__).read_text(encoding="utf-8")))
    assert saying - {"video_index"} == here, "where `apart` are seconds"
