"""GTA-CLIP: its pieces beside the released code, its rounds beside a loop written out."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from parity_checks.selftraining import gta_clip

from vladapt import Batch, build_adapter, load_adapter, load_backbone
from vladapt.adapters.transductive._mixture import QueryImages, Solution, first_mixture, solve
from vladapt.adapters.transductive._neighbours import mutual_links
from vladapt.adapters.transductive.gta_clip import confused_pairs, count_threshold, multi_positive
from vladapt.core.training.batches import epoch_order

SAID = (("colour 0, warm", "colour 0, bright"), ("colour 1, cold",), ("colour 2, pale", "colour 2, flat"))
PAIRS = {
    "colour 0": {"colour 1": ("colour 0 with more red",)},
    "colour 1": {"colour 0": ("colour 1 with less red", "colour 1 at night"), "colour 2": ("colour 1, plain",)},
    "colour 2": {"colour 1": ("colour 2, rich",)},
}


def test_it_agrees_with_the_released_code(agrees):
    agrees(gta_clip)


@pytest.fixture(scope="module")
def world(make_unlabelled):
    return make_unlabelled(classes=3, shots=4)


def solved(features, logits):
    start = Solution(logits.softmax(dim=1), first_mixture(features, logits, 2))
    queries = QueryImages(features, logits.log_softmax(dim=1), mutual_links(features, 3))
    return solve(queries, start, None, iterations=10, inner_iterations=5, temperature=50.0)


@pytest.mark.parametrize("margin", [0.02, 0.1, 0.5])
def test_confused_are_images_whose_two_largest_differ_by_less_than_the_margin(margin):
    z = (3 * torch.randn(80, 5, generator=torch.Generator().manual_seed(0))).softmax(dim=1)
    counted = {}
    for row in z:
        first, second = row.sort(descending=True).values[:2]
        if first - second < margin:
            pair = tuple(sorted(row.topk(2).indices.tolist()))
            counted[pair] = counted.get(pair, 0) + 1
    pairs, counts = confused_pairs(z, margin)
    assert dict(zip(map(tuple, pairs.tolist()), counts.tolist())) == counted
    assert 0 < sum(counted.values()) < len(z)


def test_the_rounds_are_as_published(world):
    """Two rounds: transduction, comparisons, transduction, and an epoch of AdamW with two rates on drawn pairs."""
    options = {"lr": 1e-3, "projection_lr": 5e-3, "batch_size": 3, "epochs": 2, "confident_images": 2}
    adapter = build_adapter("gta-clip", **options, margin=0.9, compared=0.5)
    plain = world.images.eval_transform
    images = replace(world.images, train_transform=lambda decoded, seed: plain(decoded))
    report = world.fit(adapter, seed=4, images=images, attributes=SAID, pair_attributes=PAIRS)

    towers, texts, compared, most = copy.deepcopy(world.backbone), [list(some) for some in SAID], set(), None
    parameters = dict(towers.model.named_parameters())
    projections = [parameters[name].requires_grad_() for name in ("visual.proj", "text_projection")]
    others = [p.requires_grad_() for name, p in parameters.items() if name not in ("visual.proj", "text_projection")]

    @torch.no_grad()
    def transduct():
        rows = torch.stack([towers.encode_text(some).mean(dim=0) for some in texts])
        features = towers.encode_image(world.pixels)
        return solved(features, towers.logit_scale * features @ rows.T)

    for round_ in range(2):
        pairs, counts = confused_pairs(transduct().assignments, 0.9)
        most = count_threshold(counts, 0.5) if most is None and len(counts) else most
        for one, other in [tuple(p) for p, n in zip(pairs.tolist(), counts) if n > most]:
            if (one, other) not in compared:
                for this, that in ((one, other), (other, one)):
                    texts[this] += PAIRS[f"colour {this}"].get(f"colour {that}", ())
            compared.add((one, other))
        chosen = torch.zeros(12, 3, dtype=torch.bool)
        chosen.scatter_(0, transduct().log_assignments.topk(2, dim=0).indices, True)
        rows, drawn = chosen.any(dim=1).nonzero().flatten(), torch.Generator().manual_seed(4 * 1_000_003 + round_)
        said, owner = [], []
        for row in rows.tolist():
            mine = [(c, text) for c in range(3) if chosen[row, c] for text in texts[c]]
            c, text = mine[int(torch.randint(len(mine), (), generator=drawn))]
            said.append(text)
            owner.append(c)
        groups = [{"params": others, "lr": 1e-3}, {"params": projections, "lr": 5e-3}]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6, weight_decay=1e-4)
        losses = []
        for picked in epoch_order(len(rows), 0, 4 + round_).split(3):
            image = towers.encode_image(world.pixels[rows[picked]])
            text = towers.encode_text([said[i] for i in picked.tolist()])
            logits, loss = towers.logit_scale * image @ text.T, 0.0
            own = [[bool(chosen[rows[i], owner[j]]) for j in picked.tolist()] for i in picked.tolist()]
            for scores, positive in ((logits, own), (logits.T, list(zip(*own)))):
                for row, mine in zip(scores, positive):
                    loss = loss - row.log_softmax(dim=0)[torch.tensor(mine)].mean() / len(picked)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        assert report.history[round_]["loss"] == pytest.approx(sum(losses) / len(losses), rel=1e-3)
    assert compared and [list(some) for some in SAID] != texts
    assert any(f"{len(compared)} confused pairs of classes compared" in note for note in report.notes)
    assert any("classes seem to be absent or rare among the 12 unlabelled images" in note for note in report.notes)
    found = world.logits(adapter)
    torch.testing.assert_close(found.exp(), transduct().assignments, atol=2e-3, rtol=1e-2)
    weights = adapter.adapted(world.backbone).model.state_dict()
    for name in ("visual.proj", "text_projection", "logit_scale", "visual.conv1.weight"):
        torch.testing.assert_close(weights[name], parameters[name].detach(), atol=1e-3, rtol=1e-2)


def test_without_attributes_steps_are_left_out_and_the_run_says_so(world):
    report = world.fit(build_adapter("gta-clip", epochs=1))
    assert any("no --resource attributes" in note for note in report.notes)
    assert any("no --resource pair-attributes" in note for note in report.notes)


def test_other_images_are_answered_too_and_a_file_keeps_all(world, small_clip_spec, tmp_path):
    adapter = build_adapter("gta-clip", epochs=1, lr=1e-3)
    world.fit(adapter)
    fresh = load_backbone(small_clip_spec, device="cpu")
    again = load_adapter(adapter.save(tmp_path / "a.safetensors"), fresh)
    assert torch.equal(world.logits(again, fresh), world.logits(adapter))
    others = world.problem.pixels(world.images.val)
    with torch.no_grad():
        seen = Batch(adapter.adapted(world.backbone).encode_image(others))
        one_by_one = torch.cat([adapter.logits(Batch(row[None])) for row in seen.features])
    torch.testing.assert_close(adapter.logits(seen), one_by_one, atol=1e-4, rtol=1e-4)


def test_what_trains_as_released(world):
    towers = copy.deepcopy(world.backbone)
    build_adapter("gta-clip", tune="released")._choose(towers)
    names = {name for name, p in towers.model.named_parameters() if p.requires_grad}
    with_proj = {name for name in names if "proj" in name}
    assert with_proj == {"visual.proj", "text_projection"} and "logit_scale" in names
    build_adapter("gta-clip")._choose(towers)
    assert all(p.requires_grad for p in towers.model.parameters())


def test_of_several_positives_all_count():
    logits = torch.randn(4, 4, generator=torch.Generator().manual_seed(0))
    linked = torch.eye(4, dtype=torch.bool)
    one = multi_positive(logits, linked)
    own = torch.arange(4)
    torch.testing.assert_close(one, F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own))
    linked[0, 1] = linked[1, 0] = True
    assert not torch.allclose(multi_positive(logits, linked), one)
