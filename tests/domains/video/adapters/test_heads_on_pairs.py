"""Heads that learn from pairs of a clip and a sentence: their training written out, their vectors, blocks, refusals."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from drawn_bars import SMALL

from vladapt import build_adapter, load_adapter, load_backbone
from vladapt.core.contracts import PairParts
from vladapt.core.errors import CapabilityError, ConfigError, DataError
from vladapt.core.registry import adapter_class, catalogue
from vladapt.core.tasks.retrieval.task import Retrieval
from vladapt.core.training.schedules import LearningRates
from vladapt.domains.video import Video
from vladapt.domains.video.adapters import _pairs, _text_tokens

HEADS = {
    "mean-pool": {},
    "attention-pool": {},
    "seqTransf": {"layers": 1},
    "seqLSTM": {},
    "tightTransf": {"layers": 1},
    "clip2video": {"layers": 1, "center_weight": 0.3},
    "mug": {},
    "wti": {},
}
SAID = ("a red disc", "a blue square moves", "one star", "the green cross turns left", "two discs", "a triangle grows")
COUNT, FRAMES = len(SAID), 4


def head(kind, **options):
    """Of a kind in `HEADS`, which are named by their forms where a method has several."""
    form = {"sim_header": kind} if "seq" in kind or "tight" in kind else {"mode": kind} if kind == "wti" else {}
    name = "clip4clip" if "sim_header" in form else "mug" if "mode" in form else kind
    return build_adapter(name, **{"epochs": 4, "batch_size": COUNT, "lr": 0.01, **HEADS[kind], **form, **options})


class Pairs:
    """Six clips with a sentence each, in their order in every epoch; a `Source` whose frames are known."""

    texts, labelled, columns = frozenset({"caption"}), False, {"verbs": "numbers", "nouns": "numbers"}

    def __len__(self):
        return COUNT

    def name(self, row):
        return f"clip {row}"

    def text(self, kind, row, epoch):
        return SAID[row]

    def image_id(self, row):
        return 10 + row

    def numbers(self, column, row):
        return [float(row // 2 == place) for place in range(3)]


@pytest.fixture(scope="module")
def backbone(spec):
    return load_backbone(spec, device="cpu")


@pytest.fixture(scope="module")
def parts():
    """The frames of the six, the last of every other clip missing, in another order than the clips."""
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(COUNT, FRAMES, dtype=torch.bool)
    mask[::2, -1] = False
    frames = torch.randn(COUNT, FRAMES, 16, generator=generator).masked_fill(~mask[..., None], 0)
    return PairParts(frames, mask, {10 + row: COUNT - 1 - row for row in range(COUNT)})


@pytest.fixture(scope="module")
def fitted(backbone, parts):
    made = {kind: head(kind) for kind in HEADS}
    for adapter in made.values():
        adapter.report = adapter.fit_pairs(Pairs(), backbone, features=lambda towers: parts, seed=3)
    return made


def both_ways(scores):
    right = torch.arange(len(scores))
    return F.cross_entropy(scores, right), F.cross_entropy(scores.T, right)


def loss_of(adapter, kind, frames, mask, whole, tokens, words, scale):
    """The published loss of each, written out."""
    net = adapter._net
    moved = whole if kind not in ("mean-pool", "attention-pool", "mug", "wti") else 2 * whole @ adapter.residual
    texts = F.normalize(whole + moved, dim=-1) if kind in ("mean-pool", "attention-pool") else whole
    if kind == "clip2video":
        aligned = net.alignment.of_clips(frames, mask, net.difference) @ net.alignment.align(tokens, words).T
        parts = [both_ways(scale * each) for each in (net.difference(frames, mask) @ whole.T, aligned)]
        return 0.3 * sum(parts[0]) / 2 + 0.7 * sum(parts[1]) / 2
    if kind in ("mug", "wti"):
        shifted = tokens + tokens.norm(dim=-1, keepdim=True) * moved[:, None]
        return sum(both_ways(scale * net(shifted, words, frames, mask).T))
    if kind == "tightTransf":
        return sum(both_ways(net(frames, mask, whole))) / 2
    return sum(both_ways(scale * F.normalize(net(frames, mask), dim=-1) @ texts.T)) / 2


@pytest.mark.parametrize("kind", HEADS)
def test_a_training_is_its_loop_written_out(kind, fitted, backbone, parts):
    adapter = head(kind)
    adapter.dim_ = 16
    adapter._without_classes(backbone)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        adapter._built = adapter._network(16)
        adapter._start(adapter._built, backbone)
    texts = backbone.encode_text(SAID).detach()
    tokens, words = _text_tokens.token_features(backbone, SAID)
    rows = [parts.row_of[10 + row] for row in range(COUNT)]
    frames, mask = parts.parts[rows], parts.mask[rows]
    trained = adapter._trained()
    optimizer = torch.optim.AdamW(trained, weight_decay=adapter.weight_decay)
    for epoch, rate in enumerate(LearningRates.cosine(0.01, 4, 1)):
        optimizer.param_groups[0]["lr"] = rate
        loss = loss_of(adapter, kind, frames, mask, texts, tokens, words, float(backbone.logit_scale))
        optimizer.zero_grad()
        loss.backward()
        assert fitted[kind].report.history[epoch]["loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
    sides = [each.pair_scores(backbone, frames, mask, SAID) for each in (fitted[kind], adapter)]
    one, other = (scores - scores.mean() for scores in sides)  # what is added to all of them no loss sees
    torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", HEADS)
def test_products_of_vectors_are_its_similarities(kind, fitted, backbone, parts):
    """Of one that looks at both sides together they are the towers' own."""
    adapter, found = fitted[kind], fitted[kind].adapted(backbone)
    vectors, texts = adapter.sample_vectors(parts.parts, parts.mask), found.encode_text(SAID)
    scores = adapter.pair_scores(backbone, parts.parts, parts.mask, SAID)
    assert scores.shape == (COUNT, COUNT) and vectors.shape == texts.shape == (COUNT, found.embed_dim)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(COUNT))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(COUNT))
    assert adapter.pairwise is (kind in ("tightTransf", "mug", "wti"))
    if adapter.pairwise:
        assert torch.allclose(texts, backbone.encode_text(SAID), atol=1e-6)
        mean = parts.parts.sum(dim=1) / parts.mask.sum(dim=1, keepdim=True)
        torch.testing.assert_close(vectors, F.normalize(mean, dim=-1))
        assert not torch.allclose(vectors @ texts.T, scores, atol=1e-3)
    else:
        torch.testing.assert_close(vectors @ texts.T, scores, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", HEADS)
def test_what_lies_behind_the_last_frame_counts_for_nothing(kind, fitted, backbone, parts):
    """Padding of frames, and of sentences beside longer ones."""
    adapter, alone = fitted[kind], slice(2, 3)
    scores = adapter.pair_scores(backbone, parts.parts, parts.mask, SAID)
    clip = parts.parts[alone, : FRAMES - 1], parts.mask[alone, : FRAMES - 1]
    torch.testing.assert_close(adapter.pair_scores(backbone, *clip, SAID[2:3]), scores[2:3, 2:3], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", HEADS)
def test_blocks_of_any_size_and_no_memory_say_the_same(kind, fitted, backbone, parts, monkeypatch):
    at_once = fitted[kind].pair_scores(backbone, parts.parts, parts.mask, SAID)
    monkeypatch.setattr(_pairs, "ROWS_AT_ONCE", 2)
    monkeypatch.setattr(_pairs, "TEXTS_AT_ONCE", 4)
    monkeypatch.setattr(_text_tokens, "REMEMBERED_BYTES", 100)
    fresh = head(kind)
    for name in (*fresh.state, "dim_", "class_names_", "fitted_"):
        setattr(fresh, name, getattr(fitted[kind], name))
    scores = fresh.pair_scores(backbone, parts.parts, parts.mask, SAID)
    torch.testing.assert_close(scores, at_once, atol=1e-5, rtol=1e-4)
    vectors = fresh.sample_vectors(parts.parts, parts.mask)
    torch.testing.assert_close(vectors, fitted[kind].sample_vectors(parts.parts, parts.mask), atol=1e-6, rtol=1e-5)
    assert len(fresh._reader._kept) < len(SAID)


@pytest.mark.parametrize("kind", HEADS)
def test_it_is_saved_whole_and_has_no_classes(kind, fitted, backbone, parts, tmp_path):
    fitted[kind].save(tmp_path / "head.safetensors")
    loaded = load_adapter(tmp_path / "head.safetensors", backbone)
    scores = [each.pair_scores(backbone, parts.parts, parts.mask, SAID) for each in (loaded, fitted[kind])]
    assert torch.equal(*scores)
    found = loaded.adapted(backbone)
    assert found.fingerprint == fitted[kind].adapted(backbone).fingerprint != backbone.fingerprint
    with pytest.raises(CapabilityError, match="was fitted on pairs, which have no classes"):
        loaded.logits(torch.zeros(1, 16)) if "parts" not in loaded.at_predict else loaded._logits(None)


def test_other_weights_or_options_are_another_backbone(fitted, backbone, parts):
    prints = {fitted[kind].adapted(backbone).fingerprint for kind in HEADS}
    assert len(prints) == len(HEADS)
    other = head("mug", tau=50.0, epochs=1, lr=1e-30)
    other.fit_pairs(Pairs(), backbone, features=lambda towers: parts)
    assert other.adapted(backbone).fingerprint not in prints


def test_sentences_longer_than_the_context_are_cut_and_still_end(backbone):
    read = _text_tokens.SentenceReader(backbone, tokens=True)([" ".join(["red"] * 200), "red"])
    assert read.words.shape == (2, 77) and read.words[0, 1:].all() and not read.words[:, 0].any()
    assert read.words[1].tolist() == [False, True, True] + [False] * 74
    torch.testing.assert_close(read.whole, backbone.encode_text([" ".join(["red"] * 200), "red"]), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(F.normalize(read.tokens[1, 2], dim=0), read.whole[1], atol=1e-6, rtol=1e-5)


# objectives ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mean-pool", "mug", "clip2video"])
@pytest.mark.parametrize("loss", ["egonce", "teach-text", "clip=1,egonce=0.5"])
def test_objectives_of_video_take_its_similarities(kind, loss, backbone, parts):
    """Written out before the first step, of the similarities themselves."""
    adapter = head(kind, loss=loss, lr=1e-30, epochs=1)
    history = adapter.fit_pairs(Pairs(), backbone, features=lambda towers: parts).history
    rows = [parts.row_of[10 + row] for row in range(COUNT)]
    frames, mask = parts.parts[rows], parts.mask[rows]
    texts = backbone.encode_text(SAID).detach()
    if kind == "clip2video":
        sides = zip(adapter._of_clips(frames, mask), adapter._of_sentences(adapter._read(backbone)(SAID)))
        parts_of = [(weight, clips @ said.T) for weight, (clips, said) in zip((0.3, 0.7), sides)]
    else:
        parts_of = [(2 if kind == "mug" else 1, adapter.pair_scores(backbone, frames, mask, SAID))]
    mean = F.normalize(frames.sum(dim=1) / mask.sum(dim=1, keepdim=True), dim=-1)
    same = torch.arange(COUNT) // 2
    same = same[:, None] == same
    wanted = 0.0
    for weight, scores in parts_of:
        near = -sum((side.softmax(dim=1) * same).sum(dim=1).log().mean() for side in (scores / 0.05, scores.T / 0.05))
        if loss == "egonce":
            wanted += weight * near
        elif loss == "teach-text":
            own = scores.diagonal()[:, None]
            others = ~torch.eye(COUNT, dtype=torch.bool)
            ranked = sum((side - own + 0.2).clamp(min=0)[others].mean() for side in (scores, scores.T)) / 2
            wanted += weight * (ranked + F.smooth_l1_loss(scores, mean @ texts.T))
        else:
            wanted += weight * (sum(both_ways(float(backbone.logit_scale) * scores)) / 2 + 0.5 * near)
    assert history[0]["loss"] == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("mug", {"loss": "siglip"}, "loss 'siglip' compares features, and this head scores a clip and a sentence"),
        ("tightTransf", {"loss": "siglip"}, "compares features, and this head scores a clip and a sentence together"),
        ("mean-pool", {"loss": "slip"}, "loss 'slip' needs more than a head of clips and sentences gives"),
        ("mean-pool", {"loss": "moment-alignment"}, "loss 'moment-alignment' needs more than a head of clips"),
        ("clip2video", {"loss": "silc"}, "loss 'silc' needs more than a head"),
    ],
)
def test_an_objective_that_does_not_apply_is_one_line(kind, options, words, backbone, parts):
    with pytest.raises(CapabilityError, match=words):
        head(kind, **options).fit_pairs(Pairs(), backbone, features=lambda towers: parts)


def test_what_the_data_lack_is_one_line(backbone, parts):
    source = Pairs()
    source.columns = {}
    with pytest.raises(CapabilityError, match=r"loss egonce needs 'nouns'.*the data has none, give a column 'nouns'"):
        head("mean-pool", loss="egonce").fit_pairs(source, backbone, features=lambda towers: parts)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "no-loss"}, "no-loss"),
        ({"loss": "clip", "loss_options": {"egonce": {}}}, "'egonce' is not one of the losses"),
        ({"amp": "bf16"}, "option amp=.*it is of train_towers; omit it"),
        ({"micro_batch_size": 2}, "option micro_batch_size=2 .*it is of train_towers; omit it"),
    ],
)
def test_options_that_say_nothing_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        build_adapter("mean-pool", **options)


def test_clips_that_cannot_teach_are_one_line(backbone, parts):
    one = PairParts(parts.parts[:, :1], parts.mask[:, :1], parts.row_of)
    with pytest.raises(CapabilityError, match="reads the frames of a clip, and all clips have one; read more frames"):
        head("seqTransf").fit_pairs(Pairs(), backbone, features=lambda towers: one)
    long = PairParts(parts.parts.repeat(1, 20, 1), parts.mask.repeat(1, 20), parts.row_of)
    with pytest.raises(CapabilityError):
        head("clip2video").fit_pairs(Pairs(), backbone, features=lambda towers: long)
    unread = PairParts(parts.parts, parts.mask, {10: 0}, [("clip 1", "torn")])
    with pytest.raises(DataError, match="learns to tell pairs apart, and 1 can be read; give more"):
        head("mug").fit_pairs(Pairs(), backbone, features=lambda towers: unread)


def test_clips_that_cannot_be_read_are_left_out_and_named(backbone, parts):
    lacking = {image: row for image, row in parts.row_of.items() if image != 13}
    report = head("attention-pool").fit_pairs(
        Pairs(), backbone, features=lambda towers: PairParts(parts.parts, parts.mask, lacking, [("clip 3", "torn")])
    )
    assert "Not read while training: clip 3 (torn)" in report.notes


# methods that learn no pairs -----------------------------------------------------------------------------------------


def test_every_other_method_names_those_that_can():
    task, able = Retrieval(Video()), {"attention-pool", "clip2video", "clip4clip", "mean-pool", "mug", "stan"}
    names = catalogue.adapters()
    others = [name for name in names if name != "zero-shot" and "pairs" not in adapter_class(name).can]
    assert able <= names.keys() - set(others) and {"temporal-adapter", "x-clip", "pllava-pool"} <= set(others)
    for name in others:
        with pytest.raises(
            CapabilityError, match=f"'{name}' cannot learn from pairs; use .*full, lora or lit"
        ) as caught:
            task.check_learns(name)
        assert all(f"{each}," in str(caught.value) for each in able)
    for name in able:
        task.check_learns(name)


def test_moments_are_not_learned_on_stored_frames():
    from vladapt.domains.video.tasks.moments import Moments

    with pytest.raises(CapabilityError, match="'clip4clip' cannot learn from pairs; use open-vclip, stan"):
        Moments(Video()).check_learns("clip4clip")


def test_several_teachers_of_other_widths_teach_the_mean_of_their_similarities(backbone, parts, tmp_path):
    """Each sees the clips through its own towers; `features` is asked for them."""
    wide = tmp_path / "wide.json"
    wide.write_text(json.dumps({**SMALL, "embed_dim": 24}))
    specs = (f"open_clip:{wide}@random:1", backbone.spec)
    adapter = head("mug", loss="teach-text", lr=1e-30, epochs=1, teacher=specs, batch_size=COUNT)
    generator, seen = torch.Generator().manual_seed(5), {}

    def features(towers):
        frames = torch.randn(COUNT, FRAMES, towers.embed_dim, generator=generator)
        made = parts if towers is backbone else PairParts(frames, parts.mask, {10 + row: row for row in range(COUNT)})
        seen[towers.embed_dim, towers is backbone] = (towers, made)
        return made

    history = adapter.fit_pairs(Pairs(), backbone, features=features).history
    assert set(seen) == {(16, True), (24, False), (16, False)}
    taught = torch.zeros(COUNT, COUNT)
    for towers, made in (seen[24, False], seen[16, False]):
        mean = F.normalize((made.parts * made.mask[..., None]).sum(dim=1) / made.mask.sum(dim=1, keepdim=True), dim=-1)
        taught += towers.encode_text(SAID).detach() @ mean.T / 2
    rows = [parts.row_of[10 + row] for row in range(COUNT)]
    scores = adapter.pair_scores(backbone, parts.parts[rows], parts.mask[rows], SAID).T
    own, others = scores.diagonal()[:, None], ~torch.eye(COUNT, dtype=torch.bool)
    ranked = sum((side - own + 0.2).clamp(min=0)[others].mean() for side in (scores, scores.T)) / 2
    assert history[0]["loss"] == pytest.approx(2 * float(ranked + F.smooth_l1_loss(scores, taught)), rel=1e-4)


def test_a_loss_on_features_maps_them_to_those_of_a_wider_teacher(backbone, parts, tmp_path):
    """Its maps to the teacher's width are trained with the head."""
    (tmp_path / "wide.json").write_text(json.dumps({**SMALL, "embed_dim": 24}))
    options = {"loss": "distill", "teacher": (f"open_clip:{tmp_path / 'wide.json'}@random:1",), "batch_size": COUNT}
    frames = torch.randn(COUNT, FRAMES, 24, generator=torch.Generator().manual_seed(5))
    of_teacher = PairParts(frames, parts.mask, {10 + row: row for row in range(COUNT)})
    adapter = head("mean-pool", **options, epochs=20)
    history = adapter.fit_pairs(Pairs(), backbone, features=lambda t: parts if t is backbone else of_teacher).history
    assert history[-1]["loss"] < history[0]["loss"]


def test_clips_that_a_teacher_cannot_read_are_not_learned_from(backbone, parts):
    def features(towers):
        if towers is backbone:
            return parts
        return PairParts(parts.parts, parts.mask, {image: row for image, row in parts.row_of.items() if image != 12})

    class Heard(Pairs):
        def text(self, kind, row, epoch):
            heard.add(row)
            return super().text(kind, row, epoch)

    heard = set()
    adapter = head("mean-pool", loss="teach-text", epochs=1, batch_size=2, teacher=(backbone.spec,))
    adapter.fit_pairs(Heard(), backbone, features=features)
    assert adapter.fitted_ and heard == {0, 1, 3, 4, 5}


@pytest.mark.parametrize("train_towers", [False, True])
def test_a_teacher_of_a_loss_without_one_is_one_line(train_towers, backbone, parts):
    adapter = head("mean-pool", teacher=(backbone.spec,), train_towers=train_towers)
    with pytest.raises(
        ConfigError, match=r"--teacher open_clip.*: adapter 'mean-pool': loss clip has no frozen teacher"
    ):
        adapter.fit_pairs(Pairs(), backbone, features=lambda towers: parts)
