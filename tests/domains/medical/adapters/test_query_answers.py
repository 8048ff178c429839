"""What a pre-training by queries learned: kept beside the towers, asked by its adapter, and shown where it looked."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vladapt import Batch, CapabilityError, DataError, build_adapter, build_loss, load_adapter, load_backbone
from vladapt.core.backbones.finders import searched
from vladapt.core.backbones.load import save_fine_tuned
from vladapt.core.contracts.resources import HeldPatchTokens
from vladapt.core.data.pairs.captions import CaptionSampler
from vladapt.core.explanation.evidence import ATTENTION, ROLLOUT, Seen, check_method, default_method, heat_map
from vladapt.core.prompts.classifier import build_classifier
from vladapt.core.registry import loss_class
from vladapt.core.tasks.pretraining.pretrain import PretrainPlan, pretrain
from vladapt.core.tasks.retrieval.scoring import DomainPairs
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.sources import PairSource
from vladapt.core.training.train import TrainingTask, train
from vladapt.domains.medical.domain import Medical
from vladapt.domains.medical.drawn_radiographs import FINDINGS, POSITIONS, drawn_radiographs
from vladapt.domains.medical.losses._query_decoder import described

NAMES = ("medklip", "medslip")
NARROW = {"width": 16, "heads": 2, "layers": 2, "hidden": 16, "dropout": 0.0}
CLASSES = ("pneumothorax", "Cardiomegaly", "a bullet")
"""In other case, and one that was never learned."""


class Drawn(Medical):
    """Few of the drawn radiographs."""

    def sample(self, task=None):
        return drawn_radiographs({"train": 12, "val": 2, "test": 4})


@pytest.fixture(scope="module", params=NAMES)
def trained(request, small_clip_spec, tmp_path_factory):
    """(name of the loss, result of a pre-training of two steps by it)."""
    folder = tmp_path_factory.mktemp("trained")
    for name in ("apple", "house"):  # what may be forgotten: fewer pictures than the usual ones
        (folder / "generic" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(folder / "generic" / name / "one.png")
    plan = PretrainPlan(
        data="sample",
        out=str(folder / "model"),
        generic=str(folder / "generic"),
        losses={request.param: 1.0},
        loss_options={request.param: {**NARROW, "findings": {"Pneumothorax": "air beside the lung"}}},
        backbone=small_clip_spec,
        device="cpu",
        settings=TrainingSettings(epochs=1, batch_size=6, lr=1e-3, warmup=0),
        domain=Drawn(),
    )
    return request.param, pretrain(plan)


@pytest.fixture(scope="module")
def answered(trained):
    """(name, the backbone of the run, patch tokens of 5 images, the fitted adapter)."""
    name, done = trained
    backbone = load_backbone(str(done.model), device="cpu")
    pixels = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        tokens, grid = backbone.image_tokens(pixels)
    patches = tokens.unflatten(1, grid)[:, None]  # (5, 1, h, w, D)
    classifier = build_classifier(backbone, CLASSES, ["a chest x-ray of {}."])
    adapter = build_adapter(name)
    report = adapter.fit(None, classifier, backbone=backbone, resources={"patch_tokens": HeldPatchTokens(patches)})
    assert report.notes == ["Asked for by their texts, since the pre-training knew no such findings: a bullet."]
    return name, backbone, pixels, patches, adapter, classifier


def test_the_names_of_the_data_are_described_and_kept_with_the_towers(trained, small_clip_spec):
    name, done = trained
    loss = load_backbone(str(done.model), device="cpu").answers[name]
    told = {**described("findings"), "Pneumothorax": "air beside the lung"}
    assert loss.findings == {finding: told[finding] for finding in FINDINGS} and not loss.training
    assert list(loss.findings) == list(FINDINGS) and list(loss.positions) == list(POSITIONS)
    texts = load_backbone(small_clip_spec, device="cpu").encode_text(list(loss.findings.values()), normalize=False)
    torch.testing.assert_close(loss.book_of_findings, texts)
    start = build_loss(name, {"embed_dim": 24}, **NARROW, findings=loss.findings, positions=loss.positions)
    assert int(loss.draws.step) == 2 and loss.state_dict().keys() == start.state_dict().keys()


def test_retrieval_is_neither_measured_nor_done(trained):
    name, done = trained
    assert done.metrics["zero_shot"] is None and any("No retrieval is measured" in note for note in done.notes)
    with pytest.raises(CapabilityError, match=f"loss '{name}', which compares no images.*fit --adapter {name}"):
        searched(load_backbone(str(done.model), device="cpu"))


def test_a_loss_of_pairs_beside_it_leaves_retrieval_possible(small_clip_spec, tmp_path):
    backbone = load_backbone(small_clip_spec, device="cpu")
    data = Drawn().sample("retrieval")
    options = loss_class("medklip").named(NARROW, data.number_names)
    source = PairSource(DomainPairs.of(data), CaptionSampler())
    task = TrainingTask(source, {"clip": 1.0, "medklip": 1.0}, {"medklip": options})
    train(backbone, task, TrainingSettings(epochs=1, batch_size=6, steps=1), None)
    again = load_backbone(str(save_fine_tuned(backbone, tmp_path)), device="cpu")
    assert searched(backbone) is backbone and searched(again) is again and set(again.answers) == {"medklip"}
    kept = again.answers["medklip"].state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in backbone.answers["medklip"].state_dict().items())


def test_what_is_kept_is_of_the_best_epoch(small_clip_spec):
    backbone, data = load_backbone(small_clip_spec, device="cpu"), Drawn().sample("retrieval")
    pairs, scores = DomainPairs.of(data), iter((1.0, 0.5))
    task = TrainingTask(
        PairSource(pairs.split("train"), CaptionSampler()),
        {"clip": 1.0, "medklip": 1.0},
        {"medklip": loss_class("medklip").named(NARROW, data.number_names)},
        validate=lambda: next(scores),
    )
    done = train(backbone, task, TrainingSettings(epochs=2, batch_size=6, lr=1e-2, warmup=0), None)
    assert done.best_epoch == 1 and done.steps == 4 and int(backbone.answers["medklip"].draws.step) == 2


def test_a_class_is_the_finding_of_its_name_or_its_texts(answered):
    name, backbone, _, patches, adapter, classifier = answered
    loss = backbone.answers[name]
    texts = torch.cat([loss.book_of_findings, classifier.unnormalized[2:]])
    with torch.no_grad():
        logits = loss.logits_of(patches[:, 0].flatten(1, 2), texts)
    wanted = [FINDINGS.index("Pneumothorax"), FINDINGS.index("Cardiomegaly"), len(FINDINGS)]
    ours = adapter.logits(Batch(patch_tokens=patches))
    torch.testing.assert_close(ours.sigmoid(), logits.softmax(dim=2)[:, wanted, 1])


def test_a_saved_adapter_answers_alike_and_new_classes_too(answered, tmp_path):
    _, backbone, _, patches, adapter, _ = answered
    again = load_adapter(adapter.save(tmp_path / "adapter.safetensors"), backbone)
    batch = Batch(patch_tokens=patches)
    torch.testing.assert_close(again.logits(batch), adapter.logits(batch))
    other = again.for_classes(backbone, ("Cardiomegaly",), build_classifier(backbone, ("Cardiomegaly",), ["{}"]))
    # without the query of the bullet, at which others look
    assert other.logits(batch).shape == (5, 1) and not torch.allclose(
        other.logits(batch), adapter.logits(batch)[:, 1:2]
    )


def test_parts_that_are_not_there_do_not_count(answered):
    *_, patches, adapter, _ = answered
    padded = F.pad(patches, (0, 0, 0, 0, 0, 0, 0, 2))
    torch.testing.assert_close(adapter.logits(Batch(patch_tokens=padded)), adapter.logits(Batch(patch_tokens=patches)))


def test_a_heat_map_is_where_the_query_of_the_class_looked(answered):
    name, backbone, pixels, patches, adapter, classifier = answered
    loss = backbone.answers[name]
    texts = torch.cat([loss.book_of_findings, classifier.unnormalized[2:]])
    with torch.no_grad():
        maps = loss.maps_of(patches[:1, 0].flatten(1, 2), texts)[0, FINDINGS.index("Cardiomegaly")].view(2, 2)
    assert default_method(backbone, adapter) == ATTENTION and default_method(backbone) == ROLLOUT
    heat = heat_map(ATTENTION, Seen(backbone, adapter), pixels[0], 1)
    corners = heat[[0, 0, -1, -1], [0, -1, 0, -1]].view(2, 2)
    torch.testing.assert_close(corners, (maps - maps.min()) / (maps - maps.min()).max())
    zero_shot = build_adapter("zero-shot")
    with pytest.raises(CapabilityError, match="attention: adapter 'zero-shot' has none"):
        check_method(ATTENTION, Seen(backbone, zero_shot))


def test_other_backbones_and_other_patches_are_refused(answered, small_clip):
    name, _, _, patches, adapter, _ = answered
    with pytest.raises(CapabilityError, match=f"vladapt pretrain --loss {name}`.*does not hold"):
        build_adapter(name).check_towers(small_clip)
    with pytest.raises(CapabilityError, match="was fitted on 2 x 2 patches, these are 1 x 2"):
        adapter.logits(Batch(patch_tokens=patches[:, :, :1]))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda told: {"loss": "clip", "options": {}, "dims": {}}, "loss 'clip' answers nothing"),
        (lambda told: {**told, "options": {**told["options"], "layers": 3}}, "what it answers by is damaged"),
        (
            lambda told: {**told, "options": {**told["options"], "findings": "/etc/other.json"}},
            "an option names a file",
        ),
        (lambda told: {**told, "loss": "os.system"}, "what it answers by is damaged"),
    ],
)
def test_a_damaged_file_is_told(change, why, trained, tmp_path):
    name, done = trained
    with safe_open(str(done.model), framework="pt") as file:
        header = json.loads(file.metadata()["vladapt"])
    header["answers"] = {name: json.dumps(change(json.loads(header["answers"][name])))}
    path = tmp_path / "model.safetensors"
    save_file(load_file(done.model), path, metadata={"format": "pt", "vladapt": json.dumps(header)})
    with pytest.raises(DataError, match=why):
        load_backbone(str(path), device="cpu")


def test_it_learns_what_is_where():
    """Each of three findings is a patch of its own kind, which may lie at any of four places."""
    torch.manual_seed(0)
    kinds, places = torch.eye(8)[:3], {f"place {p}": "" for p in range(4)}
    findings = {f"finding {e}": "" for e in range(3)}
    loss = build_loss("medklip", {"embed_dim": 8}, **{**NARROW, "layers": 1}, findings=findings, positions=places)
    of_places = torch.eye(8)[4:]  # what a patch says of its place
    with torch.no_grad():
        for weight in (each for each in loss.parameters() if each.ndim > 1):
            weight.normal_(std=0.3)  # as fits the narrow layers

    def drawn(count):
        present, where = torch.rand(count, 3) < 0.5, torch.randint(4, (count, 3))
        at = F.one_hot(where, 4).bool() & present[..., None]  # (B, E, A)
        tokens = torch.einsum("bea,ed->bad", at.float(), 3 * kinds) + of_places
        known = {"findings": torch.where(present, 1.0, -1.0), "relations": at.float().flatten(1)}
        return {"image_tokens": tokens, **known, "index": torch.arange(count)}, present, at

    optimizer = torch.optim.Adam(loss.parameters(), lr=0.01)
    for _ in range(150):
        optimizer.zero_grad()
        loss(drawn(32)[0])["loss"].backward()
        optimizer.step()
        loss.after_step(None)
    out, present, at = drawn(100)
    with torch.no_grad():
        odds = loss.eval().logits_of(out["image_tokens"], loss.book_of_findings)
        maps = loss.maps_of(out["image_tokens"], loss.book_of_findings)
    assert ((odds[..., 1] > odds[..., 0]) == present).float().mean() > 0.95
    looked = maps.argmax(dim=2)[present]
    assert (looked == at.float().argmax(dim=2)[present]).float().mean() > 0.7
