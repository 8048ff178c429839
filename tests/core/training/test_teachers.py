"""Frozen teachers, one or several, of another width, tokenizer and image size, on images and on clips."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from toy_pairs import ToyPairs

from vladapt import build_adapter, build_loss
from vladapt.core.backbones.load import load_backbone
from vladapt.core.contracts.images import InputChannels
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.core.training.parts import Parts, TrainingTask
from vladapt.core.training.samples import collate
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.teachers import load_teachers, side_by_side
from vladapt.core.training.tower_passes import image_features, seen_by
from vladapt.core.training.train import train

ONE_STEP = TrainingSettings(epochs=1, batch_size=6, lr=0.5, optimizer="sgd", warmup=0, weight_decay=0.0)


class ToyClips(ToyPairs):
    """Clips of three frames, (T, H, W, 3)."""

    def image(self, row: int):
        return np.stack([ToyPairs.image(self, row + 5 * place) for place in range(3)])

    def text(self, kind: str, row: int, epoch: int):
        return f"a {('small cat', 'big dog', 'green sea', 'old lake')[row % 4]} {ToyPairs.text(self, kind, row, epoch)}"


def pixels_of(decoded, drawn: int) -> torch.Tensor:
    """(T, H, W, 3) or (H, W, 3) -> pixels of 16 x 16."""
    return torch.from_numpy(np.asarray(decoded)[..., 4:20, 4:20, :].copy()).movedim(-1, -3).float() / 255 - 0.5


@pytest.fixture(scope="module")
def teachers(hf_folder, open_clip_resnet):
    """Of other widths than the student (24), other image sizes (16) and, one of them, another tokenizer."""
    made = [load_backbone(spec, device="cpu") for spec in (f"hf:{hf_folder('siglip')}", open_clip_resnet)]
    assert [each.embed_dim for each in made] == [32, 24] and [each.image_size for each in made] == [32, 64]
    return made


@given(st.integers(1, 4), st.integers(0, 1000))
def test_products_of_rows_side_by_side_are_the_mean_of_the_teachers(count, seed):
    generator = torch.Generator().manual_seed(seed)
    texts, images = (
        [F.normalize(torch.randn(5, 2 + k, generator=generator), dim=1) for k in range(count)] for _ in range(2)
    )
    wanted = torch.stack([text @ image.T for text, image in zip(texts, images)]).mean(dim=0)
    torch.testing.assert_close(side_by_side(texts) @ side_by_side(images).T, wanted)
    torch.testing.assert_close(side_by_side(texts).norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("source", [ToyPairs, ToyClips])
@pytest.mark.parametrize("count", [1, 2])
def test_a_step_of_teach_text_equals_the_loop_written_out(fresh_clip, small_clip_spec, teachers, source, count):
    pairs, student, told = source(6), load_backbone(small_clip_spec, device="cpu"), teachers[:count]
    student.model.requires_grad_(True).train()
    captions = [pairs.text("caption", row, 0) for row in range(6)]
    clips = torch.stack([pixels_of(pairs.image(row), 0) for row in range(6)])
    targets = torch.zeros(6, 6)
    for teacher in told:
        texts = teacher.encode_text(captions)  # by its own tokenizer
        frames = clips if clips.ndim == 5 else clips[:, None]
        for column in range(6):
            seen = [
                teacher.encode_image(seen_by(teacher, student, frame[None]), normalize=False)[0]
                for frame in frames[column]
            ]
            clip = F.normalize(torch.stack(seen).mean(dim=0), dim=0)
            for row in range(6):
                targets[row, column] += float(texts[row] @ clip) / count
    texts, images = student.encode_text(student.tokenize(captions)), image_features(student, clips)
    loss = torch.zeros(())
    for row in range(6):
        for column in range(6):
            score, own = texts[row] @ images[column], (texts[row] @ images[row], texts[column] @ images[column])
            difference = (score - targets[row, column]).abs()
            loss = loss + torch.where(difference < 1, 0.5 * difference**2, difference - 0.5) / 36
            if row != column:
                loss = loss + sum((0.2 + score - each).clamp(min=0) for each in own) / 60
    loss.backward()
    wanted = {name: p.detach() - 0.5 * p.grad for name, p in student.model.named_parameters() if p.grad is not None}
    done = train(fresh_clip, TrainingTask(pairs, {"teach-text": 1.0}, teachers=told, view=pixels_of), ONE_STEP, None)
    assert done.history[0]["loss"] == pytest.approx(loss.item(), rel=1e-4)
    learned = dict(fresh_clip.model.named_parameters())
    assert len(wanted) > 20
    for name, value in wanted.items():
        torch.testing.assert_close(learned[name].detach(), value, rtol=1e-3, atol=1e-5, msg=name)


def test_what_a_loss_makes_of_its_teacher_is_of_pixels_and_tokens_as_the_teacher_wants_them(fresh_clip, teachers):
    pairs, teacher = ToyPairs(4), teachers[1]  # as wide as the student, with images of another size
    options = {"lwf": {"distils": "embeddings"}}
    made = Parts(
        fresh_clip,
        TrainingTask(pairs, {"lwf": 1.0}, loss_options=options, teachers=[teacher], view=pixels_of),
        ONE_STEP,
    )
    batch = collate([made.samples()[(0, row)] for row in range(4)])
    assert "teacher_tokens_0" in batch
    with torch.no_grad():
        out = made.outputs.per_sample(batch)
        seen = seen_by(teacher, fresh_clip, made.outputs.normalised(batch)["pixels"])
        assert seen.shape[-1] == 64
        images = teacher.encode_image(seen, normalize=False)
        texts = teacher.encode_text([pairs.text("caption", row, 0) for row in range(4)], normalize=False)
    torch.testing.assert_close(out["teacher.image_embedding"], images)
    torch.testing.assert_close(out["teacher.text_embedding"], texts)


def test_micro_batches_cut_the_teachers_captions_too(small_clip_spec, teachers):
    weights = []
    for micro in (None, 2):
        student = load_backbone(small_clip_spec, device="cpu")
        task = TrainingTask(ToyClips(6), {"teach-text": 1.0}, teachers=teachers, view=pixels_of)
        train(student, task, TrainingSettings(**{**vars(ONE_STEP), "micro_batch_size": micro}), None)
        weights.append({name: value.clone() for name, value in student.model.state_dict().items()})
    assert max(float((value - weights[1][name]).abs().max()) for name, value in weights[0].items()) < 1e-5


def test_a_teacher_keeps_its_weights_and_its_statistics(fresh_clip, teachers):
    before = [{name: value.clone() for name, value in each.model.state_dict().items()} for each in teachers]
    train(fresh_clip, TrainingTask(ToyPairs(6), {"teach-text": 1.0}, teachers=teachers, view=pixels_of), ONE_STEP, None)
    for teacher, kept in zip(teachers, before):
        assert all(torch.equal(value, kept[name]) for name, value in teacher.model.state_dict().items())


def test_what_cannot_teach_is_told_in_one_line(fresh_clip, small_clip_spec, teachers, small, tmp_path):
    blind = load_backbone(small.write_open_clip(tmp_path, small.open_clip_config(), image_only=True), device="cpu")
    with pytest.raises(CapabilityError, match=r"loss teach-text needs the texts of its teacher, and '.*' has no text"):
        Parts(fresh_clip, TrainingTask(ToyPairs(6), {"teach-text": 1.0}, teachers=[teachers[0], blind]), ONE_STEP)
    with pytest.raises(CapabilityError, match=r"loss teach-text needs a teacher; give --teacher SPEC"):
        Parts(fresh_clip, TrainingTask(ToyPairs(6), {"teach-text": 1.0}), ONE_STEP)
    with pytest.raises(ConfigError, match=r"--teacher hf:.*: loss clip has no frozen teacher; omit it"):
        Parts(fresh_clip, TrainingTask(ToyPairs(6), {"clip": 1.0}, teachers=teachers[:1]), ONE_STEP)
    channels = InputChannels(("red", "green", "blue", "infrared"))
    student = load_backbone(small_clip_spec, device="cpu", channels=channels)
    with pytest.raises(CapabilityError, match=r"takes images of 3 channels, and '.*' images of 4; give a teacher"):
        load_teachers([small_clip_spec], student)
    with pytest.raises(CapabilityError):
        build_adapter("full", loss="teach-text", teacher=small_clip_spec).check_towers(student)


@pytest.mark.parametrize("name", ["text-anchor", "self-regulation"])
def test_losses_of_features_refuse_a_teacher_of_another_width(name):
    with pytest.raises(CapabilityError, match=f"loss '{name}' compares features of width 24 with a teacher's of 56"):
        build_loss(name, {"embed_dim": 24, "teacher_dim": 56})
    assert build_loss(name, {"embed_dim": 24, "teacher_dim": 24}).title == f"loss '{name}'"


def test_a_method_learns_from_the_teachers_that_are_named(small_clip, small_clip_spec, hf_folder, open_clip_resnet):
    """By default from the towers before the training."""
    other = f"hf:{hf_folder('siglip')}"
    first = {}
    for teacher in ((), small_clip_spec, other, f"{other},{open_clip_resnet}"):
        adapter = build_adapter("full", loss="teach-text", teacher=teacher, epochs=1, batch_size=6)
        report = adapter.fit_pairs(ToyPairs(6), small_clip, view=lambda decoded, seed: pixels_of(decoded, seed))
        first[teacher] = report.history[0]["teach-text.distill"]
    assert first[()] == pytest.approx(first[small_clip_spec], abs=1e-6)
    assert len({round(value, 5) for value in first.values()}) == 3


def test_a_teacher_is_loaded_once(small_clip, small_clip_spec, monkeypatch):
    from vladapt.core.training import teachers as loading

    loads, load = [], loading.load_backbone
    monkeypatch.setattr(loading, "load_backbone", lambda spec, **how: loads.append(spec) or load(spec, **how))
    adapter = build_adapter("full", loss="teach-text", teacher=small_clip_spec, epochs=1, batch_size=6)
    for _ in range(2):
        adapter.check_towers(small_clip)
    adapter.fit_pairs(ToyPairs(6), small_clip, view=lambda decoded, seed: pixels_of(decoded, seed))
    assert loads == [small_clip_spec]
