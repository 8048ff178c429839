"""Mug-STAN: guidance of words and frames in loops, on the frames of STAN's branch, and a step of both written out."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from drawn_bars import FRAMES, clip_item, draw
from forked import run_ranks
from test_heads_with_towers import SAID, Clips, plainly

from vladapt import DomainData, build_adapter, load_adapter, load_backbone
from vladapt.core.backbones import JointParts
from vladapt.core.errors import CapabilityError, VladaptError
from vladapt.core.features import FeatureStore
from vladapt.core.features.extract import BatchSizeTuner, DecodeJob, Piece, encoder, extract
from vladapt.core.training.tower_weights import copy_of
from vladapt.domains.video.adapters import _text_tokens
from vladapt.domains.video.adapters.stan import Stan
from vladapt.domains.video.transforms import EachFrame, WholeClip, as_frames

RATE, CLIP_GRAD, EPS = 1e-3, 0.5, 1e-8
GIVEN = {
    "epochs": 1,
    "batch_size": 4,
    "lr": RATE,
    "coef_lr": 1.0,
    "weight_decay": 0.0,
    "train_towers": True,
    "tune_text": False,
    "towers": "stan",
    "tower_options": {"depth": 1, "clip_grad": CLIP_GRAD},
}


def in_loops(tokens, words, frames, tau=100.0):
    """Tokens (A, L, D), words (A, L), frames (B, T, D) -> (A, B): `simple` guidance, a pair at a time."""
    scores = []
    for text, there in zip(tokens, words):
        for clip in frames:
            cosines = F.normalize(text[there], dim=1) @ F.normalize(clip, dim=1).T  # (L, T)
            of_words = torch.stack([(row * (tau * row).softmax(0)).sum() for row in cosines])
            of_frames = torch.stack([(column * (tau * column).softmax(0)).sum() for column in cosines.T])
            sides = [(side * (tau * side).softmax(0)).sum() for side in (of_words, of_frames)]
            scores.append(sum(sides) / 2)
    return torch.stack(scores).unflatten(0, (len(tokens), len(frames)))


def both_ways(scores):
    right = torch.arange(len(scores))
    return F.cross_entropy(scores, right) + F.cross_entropy(scores.T, right)


@pytest.fixture(scope="module")
def trained(problem):
    """One step, and the branch as it was before."""
    started = []

    def joint(self, backbone):
        started.append(made(self, backbone))
        return deepcopy(started[0])

    made = Stan._joint
    adapter = build_adapter("mug", **GIVEN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stan, "_joint", joint)
        adapter.report = adapter.fit_pairs(Clips(), problem.backbone, view=plainly(problem.backbone), seed=3)
    return adapter, started[0]


def test_the_loops_give_the_published_numbers(parity):
    ref = parity.reference("mug_stan")
    leaves = ref.leaves({"text": "text_tokens", "frames": "frames"})
    scores = in_loops(leaves["text"], ref["text_mask"].bool(), leaves["frames"], ref.setting("tau"))
    loss = both_ways(ref.setting("loss_scale") * scores)
    loss.backward()
    key = "mug_frame_token_simple"
    made = {key: scores, f"loss_{key}": loss}
    made |= {f"grad_{name}_{key}": leaf.grad for name, leaf in leaves.items()}
    assert {name: ref.check(value, name).share for name, value in made.items()} == pytest.approx(
        dict.fromkeys(made, 0.5), abs=0.5
    )


def test_a_step_is_written_out(trained, problem):
    """AdamW's first: the branch at ten times the rate of both towers, the logit scale as it is."""
    adapter, branch = trained
    towers = copy_of(problem.backbone)
    towers.model.requires_grad_(True)
    own = deepcopy(branch).requires_grad_(True).eval()
    own.attach(towers)
    view = plainly(problem.backbone)
    pixels = torch.stack([as_frames(view(draw(clip_item(row))), FRAMES) for row in range(4)])
    with torch.random.fork_rng():
        frames = own.embed_parts(towers, pixels)
    read = _text_tokens.encoded_sentences(towers, towers.tokenize(SAID))
    loss = both_ways(towers.logit_scale * in_loops(read.tokens, read.words, frames))
    assert adapter.report.history[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    loss.backward()
    learned = {name: p for name, p in towers.model.named_parameters() if name != "logit_scale" and p.grad is not None}
    norm = torch.sqrt(sum(p.grad.square().sum() for p in learned.values()))
    assert norm > CLIP_GRAD
    moved = {"joint": 0, "visual": 0, "transformer": 0, "others": 0}
    for name, parameter in learned.items():
        gradient = parameter.grad * CLIP_GRAD / norm
        rate = RATE * (10 if name.startswith("joint.") else 1)
        strong = gradient.abs() > 1e-5
        wanted = (parameter - rate * gradient / (gradient.abs() + EPS)).detach()
        torch.testing.assert_close(adapter.changed[name][strong], wanted[strong], atol=2e-5, rtol=1e-3)
        part = name.split(".")[0]
        moved[part if part in moved else "others"] += int(strong.sum())
    assert min(moved.values()) > 100, moved
    assert "logit_scale" not in adapter.changed


def test_clips_and_sentences_are_found_by_what_was_learned(trained, problem, tmp_path):
    """Saved and read again: frames as the branch sees them together, and words, guide each other."""
    adapter, _ = trained
    adapter.save(tmp_path / "mug.safetensors")
    loaded = load_adapter(tmp_path / "mug.safetensors", problem.backbone)
    found = loaded.adapted(problem.backbone)
    assert found.fingerprint == adapter.adapted(problem.backbone).fingerprint
    towers = found.base
    assert towers.joint.parts == FRAMES and towers.joint.gives_parts
    view = plainly(problem.backbone)
    clips = torch.stack([as_frames(view(draw(clip_item(row))), FRAMES) for row in range(3)])
    frames = towers.encode_parts(clips)
    alone = towers.pool_image(towers.run_blocks("image", towers.embed_image(clips.flatten(0, 1))), normalize=False)
    assert not torch.allclose(frames.flatten(0, 1), alone, atol=1e-3), "the branch adds to each frame"
    torch.testing.assert_close(frames.mean(dim=1), towers.encode_image(clips, normalize=False))
    mask = torch.ones(3, FRAMES, dtype=torch.bool)
    read = _text_tokens.encoded_sentences(towers, towers.tokenize(SAID))
    wanted = in_loops(read.tokens, read.words, frames).T
    torch.testing.assert_close(loaded.pair_scores(towers, frames, mask, SAID), wanted, atol=1e-5, rtol=1e-4)


def test_order_counts_on_the_branch_alone(trained, problem):
    """The guidance itself does not see it: on frames that are encoded one by one a clip and its reverse score alike."""
    adapter, _ = trained
    towers, view = adapter.adapted(problem.backbone).base, plainly(problem.backbone)
    clips = torch.stack([as_frames(view(draw(clip_item(row))), FRAMES) for row in range(3)])
    mask = torch.ones(3, FRAMES, dtype=torch.bool)
    sides = {"branch": towers, "alone": problem.backbone}
    apart = {
        name: (
            adapter.pair_scores(towers, seen.encode_parts(clips), mask, SAID)
            - adapter.pair_scores(towers, seen.encode_parts(clips.flip(1)), mask, SAID)
        ).abs()
        for name, seen in sides.items()
    }
    assert apart["branch"].max() > 1e-3 and apart["alone"].max() < 1e-5


def test_a_store_keeps_each_frame_of_towers_that_see_them_together(trained, problem, tmp_path):
    """Of two crops of a clip, one after the other; and again where one frame was lost."""
    towers = trained[0].adapted(problem.backbone).base
    item = clip_item(0)
    data = DomainData([item], ("down", "up"), draw)
    transform = WholeClip(EachFrame(towers.preprocess(False), crops=3), FRAMES, each=True)
    crops = transform(draw(item))
    made = FeatureStore(tmp_path).get_or_compute(data, [item], towers, transform, parts=True)
    assert made.features.parts.shape == (1, 3 * FRAMES, 16)
    torch.testing.assert_close(made.features.parts[0], towers.encode_parts(crops).flatten(0, 1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(made.features.features[0], made.features.parts[0].mean(dim=0))
    pieces = [Piece(b"k", place, 9, 3) for place in (0, 3, 6)]
    assert [one.part for piece in pieces for one in piece.each] == list(range(9))
    job = DecodeJob(item, (b"k",), (None,), (frozenset({0, 1, 2, 3, 5}),))
    encode = encoder(towers, "projected", None, each_part=True)
    results = list(extract([job], lambda job: [crops], encode, BatchSizeTuner(4), 1, each_part=True))
    assert [piece.part for result in results for piece in result.pieces] == [3, 4, 5, 6, 7, 8]
    torch.testing.assert_close(torch.from_numpy(results[0].rows), made.features.parts[0, 3:], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train_towers": False, "coef_lr": 1.0, "tower_options": None}, 'option towers="stan" is not usable'),
        ({"towers": None}, "option tower_options=.* is not usable; it is of towers"),
        ({"tower_options": {"epochs": 3}}, "give epochs as an option of mug"),
        ({"tower_options": {"deepness": 3}}, "deepness"),
        ({"towers": "testa"}, "towers"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(options, words):
    with pytest.raises(VladaptError, match=words):
        build_adapter("mug", **{**GIVEN, **options})


class OneVector(JointParts):
    def embed(self, backbone, pixels):
        return torch.zeros(len(pixels), 16)


def test_towers_that_give_one_vector_say_so(problem):
    towers = copy_of(problem.backbone)
    OneVector(FRAMES).attach(towers)
    with pytest.raises(CapabilityError, match="one vector per sample"):
        towers.encode_parts(torch.zeros(1, FRAMES, 3, 32, 32))


def test_towers_without_a_class_token_are_refused_first():
    with pytest.raises(CapabilityError, match=r"image_blocks|transformer"):
        build_adapter("mug", **GIVEN).check_towers(load_backbone("embedded", device="cpu"))


RANKS = """
import json, sys
sys.path.insert(0, sys.argv[1])
from safetensors.torch import save_file
from test_heads_with_towers import Clips, plainly
from vladapt import build_adapter, load_backbone
from vladapt.core.runtime.distributed import is_main, together

def fitted():
    backbone = load_backbone(sys.argv[2], device="cpu")
    for name, options in json.loads(sys.argv[4]).items():
        adapter = build_adapter(name, **options)
        adapter.fit_pairs(Clips(), backbone, view=plainly(backbone), seed=3)
        if is_main():
            adapter.save(f"{sys.argv[3]}/{name}.safetensors")

together(fitted)
"""


def test_two_processes_learn_what_one_does(spec, tmp_path):
    """Towers with a head, each with half of the pairs, and a head on stored frames."""
    of = {"mug": GIVEN, "clip4clip": {"layers": 1, "epochs": 2, "batch_size": 4}}
    for done in run_ranks(["-c", RANKS, Path(__file__).parent, spec, tmp_path, json.dumps(of)]):
        assert done.returncode == 0, done.stderr
    backbone = load_backbone(spec, device="cpu")
    for name, options in of.items():
        one, two = build_adapter(name, **options), load_adapter(tmp_path / f"{name}.safetensors", backbone)
        one.fit_pairs(Clips(), backbone, view=plainly(backbone), seed=3)
        start, learned = backbone.model.state_dict(), {**one.changed, **one.weights}
        assert learned.keys() == {**two.changed, **two.weights}.keys() and len(learned) > 10
        assert all(not torch.equal(value, start[key]) for key, value in one.changed.items() if key in start)
        for key, value in learned.items():  # where there is hardly a gradient, rounding decides which way Adam goes
            near = ({**two.changed, **two.weights}[key] - value).abs() < 1e-4
            assert near.double().mean() > 0.98, (name, key)
