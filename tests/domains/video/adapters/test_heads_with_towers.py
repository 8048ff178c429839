"""Heads and both towers trained on pairs together: a step written out, its two groups of rates, what is kept of it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from drawn_bars import FRAMES, clip_item, draw

from vladapt import build_adapter, load_adapter, load_backbone
from vladapt.core.contracts import TrainingPlace
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.sharing.push import holds_tower_weights
from vladapt.core.training.tower_weights import copy_of
from vladapt.domains.video.adapters import _text_tokens
from vladapt.domains.video.adapters._text_tokens import Sentences
from vladapt.domains.video.transforms import EachFrame, as_frames

FORMS = {
    "mean-pool": ("mean-pool", {}),
    "seqTransf": ("clip4clip", {"layers": 1}),
    "tightTransf": ("clip4clip", {"layers": 1, "sim_header": "tightTransf"}),
    "clip2video": ("clip2video", {"layers": 1}),
    "mug": ("mug", {"tune_text": False}),
}
SAID = ("a bar moves down", "a bar that moves up", "down it goes", "up it goes")
COEF = 0.01


class Clips:
    """Four clips with a sentence each: a `Source`."""

    texts, labelled, columns = frozenset({"caption"}), False, {}

    def __len__(self):
        return len(SAID)

    def name(self, row):
        return f"clip {row}"

    def image(self, row):
        return draw(clip_item(row))

    def text(self, kind, row, epoch):
        return SAID[row]

    def image_id(self, row):
        return row


def head(kind, **options):
    name, own = FORMS[kind]
    given = {"epochs": 1, "batch_size": 4, "lr": 0.01, "train_towers": True, "coef_lr": COEF, "weight_decay": 0.0}
    return build_adapter(name, **{**given, **own, **options})


def plainly(backbone):
    """Frames as the towers see them, whatever the seed."""
    view = EachFrame(backbone.preprocess(False))
    return lambda decoded, seed=None: view(decoded)


@pytest.fixture(scope="module")
def fitted(problem):
    made = {}
    for kind in FORMS:
        made[kind] = head(kind)
        made[kind].report = made[kind].fit_pairs(Clips(), problem.backbone, view=plainly(problem.backbone), seed=3)
    return made


@pytest.mark.parametrize("kind", FORMS)
def test_a_step_of_both_is_written_out(kind, fitted, problem):
    """Adam's first step, with the published betas: towers at a share of the rate of what the head learns."""
    towers = copy_of(problem.backbone)
    towers.model.requires_grad_(True)
    adapter = head(kind)
    adapter.dim_ = 16
    adapter._without_classes(problem.backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        adapter._built = adapter._network(16)
        adapter._start(adapter._built, problem.backbone)
    view = plainly(problem.backbone)
    pixels = torch.stack([as_frames(view(draw(clip_item(row))), FRAMES) for row in range(4)])
    frames = towers.encode_image(pixels.flatten(0, 1), normalize=False).unflatten(0, (4, FRAMES))
    read = _text_tokens.encoded_sentences(towers, towers.tokenize(SAID))
    sentences = Sentences(towers.encode_text(SAID), read.tokens, read.words)
    right, mask = torch.arange(4), torch.ones(4, FRAMES, dtype=torch.bool)
    scale = 1.0 if kind == "tightTransf" else towers.logit_scale
    if kind == "clip2video":
        sides = zip(adapter._of_clips(frames, mask), adapter._of_sentences(sentences))
        scores = [(0.5, clips @ texts.T) for clips, texts in sides]
    else:
        scores = [(2.0 if kind == "mug" else 1.0, adapter._pair_scores(frames, mask, sentences))]
    loss = sum(
        weight * (F.cross_entropy(scale * each, right) + F.cross_entropy(scale * each.T, right)) / 2
        for weight, each in scores
    )
    assert fitted[kind].report.history[0]["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
    loss.backward()
    trained = adapter._net.parameters()
    whole = [p.grad for p in (*towers.model.parameters(), *trained, *adapter.as_parameters()) if p.grad is not None]
    norm = torch.sqrt(sum(grad.square().sum() for grad in whole))
    moved = 0
    for name, parameter in towers.model.named_parameters():
        if parameter.grad is None or name not in fitted[kind].changed:
            continue
        clipped = parameter.grad / norm.clamp(min=1)
        step = 0.01 * COEF * clipped / (clipped.abs() + 1e-6)
        strong = clipped.abs() > 1e-4
        torch.testing.assert_close(
            fitted[kind].changed[name][strong], (parameter - step).detach()[strong], atol=2e-6, rtol=1e-4
        )
        moved += int(strong.sum())
    assert moved > 1000 or kind == "tightTransf", "its scores start too near to nothing to move the towers"
    for (name, value), parameter in zip(fitted[kind]._net.state_dict().items(), adapter._net.parameters()):
        if parameter.grad is not None:
            clipped = parameter.grad / norm.clamp(min=1)
            strong = clipped.abs() > 1e-4
            wanted = (parameter - 0.01 * clipped / (clipped.abs() + 1e-6)).detach()
            torch.testing.assert_close(value[strong], wanted[strong], atol=1e-5, rtol=1e-3), name


@pytest.mark.parametrize("kind", FORMS)
def test_towers_and_head_are_kept_together(kind, fitted, problem, tmp_path):
    fitted[kind].save(tmp_path / "head.safetensors")
    loaded = load_adapter(tmp_path / "head.safetensors", problem.backbone)
    one, other = (each.adapted(problem.backbone) for each in (fitted[kind], loaded))
    assert (
        one.fingerprint == other.fingerprint and not one.frozen and one.base.fingerprint != problem.backbone.fingerprint
    )
    assert one.spec == problem.backbone.spec
    assert not torch.equal(one.base.encode_text(SAID), problem.backbone.encode_text(SAID))
    assert torch.equal(one.encode_text(SAID), other.encode_text(SAID))
    report = fitted[kind].report
    assert report.trained_parameters > sum(value.numel() for value in fitted[kind].changed.values()) * 0.9
    assert report.chosen["steps"] == 1


def test_a_training_that_was_stopped_goes_on(problem, tmp_path, monkeypatch):
    """From the checkpoint of its second step to the weights of a training without a stop."""
    monkeypatch.setattr("vladapt.core.training.tower_settings.SAVE_AT_LEAST", 1)
    given = {"view": plainly(problem.backbone), "seed": 3}
    whole, resumed = head("seqTransf", epochs=4), head("seqTransf", epochs=4)
    whole.fit_pairs(Clips(), problem.backbone, **given)

    def stop(done, total, values):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped = head("seqTransf", epochs=4)
        stopped.fit_pairs(Clips(), problem.backbone, place=TrainingPlace(tmp_path, on_step=stop), **given)
    said = []
    place = TrainingPlace(tmp_path, resume=True, on_message=said.append)
    resumed.fit_pairs(Clips(), problem.backbone, place=place, **given)
    assert any("step 2" in line for line in said), said
    for kept in ("weights", "changed"):
        for name, value in getattr(whole, kept).items():
            torch.testing.assert_close(getattr(resumed, kept)[name], value)


def test_what_is_of_pairs_is_refused_with_classes(problem):
    with pytest.raises(ConfigError, match="option train_towers=true is not usable; it is for pairs; omit it"):
        problem.fit("clip4clip", train_towers=True)


def test_a_loss_that_does_not_apply_is_refused_with_towers_too(problem):
    with pytest.raises(CapabilityError, match="loss 'siglip' compares features"):
        head("mug", loss="siglip").fit_pairs(Clips(), problem.backbone)


def test_a_file_with_weights_of_towers_says_so(fitted, problem, tmp_path):
    """By which a run on a backbone under a non-commercial licence is not pushed."""
    frozen = build_adapter("clip4clip", layers=1, epochs=1)
    frozen.fit_pairs(Clips(), problem.backbone)
    for place, adapter, wanted in (("a", fitted["seqTransf"], True), ("b", frozen, False)):
        adapter.save(tmp_path / place)
        run = SimpleNamespace(info=SimpleNamespace(adapter="clip4clip"), adapter_path=tmp_path / place)
        assert holds_tower_weights(run) is wanted


@pytest.mark.parametrize("towers", [{}, {"train_towers": False, "coef_lr": 1e-3}], ids=["trained", "frozen"])
def test_a_teacher_is_loaded_once(towers, problem, spec, monkeypatch):
    loaded = []

    def counted(name, **how):
        loaded.append(name)
        return load_backbone(name, **how)

    monkeypatch.setattr("vladapt.core.training.teachers.load_backbone", counted)
    adapter = head("mean-pool", loss="teach-text", teacher=(spec,), **towers)
    adapter.fit_pairs(Clips(), problem.backbone, view=plainly(problem.backbone), seed=3)
    assert loaded == [spec]
