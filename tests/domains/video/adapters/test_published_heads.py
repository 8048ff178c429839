"""Published heads on frames: the public code's numbers, their parts written out, and that each part counts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from parity_checks import video
from torch import nn

from vladapt import Batch, FeatureSet, TextClassifier, build_adapter
from vladapt.core.errors import CapabilityError, ConfigError
from vladapt.domains.video.adapters import _transformer
from vladapt.domains.video.adapters._frames import POSITIONS, average_of_unit
from vladapt.domains.video.adapters._matching import matching_loss
from vladapt.domains.video.adapters.action_clip import ConvolutionHead, shared_class_loss
from vladapt.domains.video.adapters.clip2video import AlignmentBlock, DifferenceBlock
from vladapt.domains.video.adapters.clip4clip import SequenceLSTM, TightTransformer
from vladapt.domains.video.adapters.mug import Guidance

WIDTH = 8


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def clips():
    """12 clips of 4 frames, of three classes; every other one has a frame less."""
    mask = torch.ones(12, 4, dtype=torch.bool)
    mask[::2, 3] = False
    labels = torch.arange(12) % 3
    frames = drawn(12, 4, WIDTH) + 2 * drawn(3, 4, WIDTH, seed=1)[labels]
    return FeatureSet.of_parts(frames.masked_fill(~mask[..., None], 0), mask, labels=labels)


@pytest.fixture(scope="module")
def texts():
    return TextClassifier(drawn(3, WIDTH, seed=2), logit_scale=20.0, class_names=("a", "b", "c"))


def fitted(name, clips, texts, **options):
    adapter = build_adapter(name, **{"epochs": 1, **options})
    adapter.report = adapter.fit(clips, texts)
    return adapter


@pytest.mark.parametrize("comparison", video.GROUPS, ids=lambda each: each.run.__name__)
def test_the_public_code_gives_the_same(agrees, comparison):
    agrees(comparison)


def test_differences_of_frames_lie_between_minus_one_and_one_around_nothing(clips):
    """2 sigmoid(layer norm(difference P)) - 1 between the frames, written out."""
    block = DifferenceBlock(WIDTH, 1, 2, "sigmoid_mlp")
    frames, mask = clips.parts[1:2], clips.parts_mask[1:2]
    tokens, there = block.tokens(frames, mask)
    mixed = (frames[:, 1:] - frames[:, :-1]) @ block.frame2t_projection
    wanted = 2 / (1 + (-F.layer_norm(mixed, (WIDTH,))).exp()) - 1
    torch.testing.assert_close(tokens[:, 1::2], wanted)
    assert torch.equal(tokens[:, ::2], frames) and there.all()


def test_seq_lstm_runs_over_the_frames_that_are_there(clips):
    """Written out for one short clip: torch's LSTM on its three frames alone."""
    network = SequenceLSTM(WIDTH)
    alone = clips.parts[:1, :3]
    outputs, _ = network.lstm_visual(alone)
    wanted = F.normalize(F.normalize(outputs + alone, dim=-1).mean(dim=1), dim=-1)
    torch.testing.assert_close(network(clips.parts[:1], clips.parts_mask[:1]), wanted)


def test_tight_transformer_reads_a_text_with_the_frames(clips, texts):
    """One pair, token by token: text first, frames behind, positions, blocks, pooled on the text's place."""
    network = TightTransformer(WIDTH, layers=2, heads=2)
    scores = network(clips.parts, clips.parts_mask, texts.weights)
    tokens = torch.cat([texts.weights[2:3], clips.parts[0, :3]])[None]  # (1, 4, D)
    tokens = network.transformer(tokens + network.position_embeddings.weight[:4], torch.ones(1, 4, dtype=torch.bool))
    hidden = network.dense(F.layer_norm(tokens[:, 0], (WIDTH,), eps=1e-12))
    wanted = network.similarity_dense(hidden * torch.sigmoid(1.702 * hidden))
    torch.testing.assert_close(scores[0, 2], wanted[0, 0])
    adapter = fitted("clip4clip", clips, texts, sim_header="tightTransf", layers=1)
    at_once = adapter.logits(clips)
    with torch.enable_grad():
        torch.testing.assert_close(adapter._logits(Batch.of(clips)), at_once)


@pytest.mark.parametrize("name", ["clip4clip", "action-clip"])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_order_of_frames_counts(clips, texts, name, reverse):
    """Positions are what makes the difference: without them the transformer sees a set."""
    adapter = fitted(name, clips, texts, layers=1)
    if not reverse:
        adapter._net.frame_position_embeddings.weight.data.zero_()
    flipped = Batch(parts=clips.parts[1::2].flip(1))
    logits, other = adapter.logits(Batch(parts=clips.parts[1::2])), adapter.logits(flipped)
    assert torch.allclose(logits, other, atol=1e-3) != reverse


def test_what_pads_a_clip_changes_nothing(clips, texts):
    """Nor in which places the frames stand, as long as their order is the same."""
    apart = torch.zeros(12, 6, WIDTH)
    apart[:, [0, 2, 3, 5]] = clips.parts
    places = torch.zeros(12, 6, dtype=torch.bool)
    places[:, [0, 2, 3, 5]] = clips.parts_mask
    for name, options in {"clip4clip": {"layers": 1}, "action-clip": {"sim_header": "LSTM"}}.items():
        adapter = fitted(name, clips, texts, **options)
        torch.testing.assert_close(adapter.logits(Batch(parts=apart, parts_mask=places)), adapter.logits(clips))
    block = DifferenceBlock(WIDTH, 1, 2, "sigmoid_selfA")
    short = clips.parts[:1, :3], clips.parts_mask[:1, :3]
    torch.testing.assert_close(block(clips.parts[:1], clips.parts_mask[:1]), block(*short))
    released = DifferenceBlock(WIDTH, 1, 2, "sigmoid_selfA", released_mask=True)
    released.load_state_dict(block.state_dict())
    assert not torch.allclose(released(clips.parts[:1], clips.parts_mask[:1]), block(*short), atol=1e-3)


def test_conv_1d_starts_as_shifts_of_channels():
    head = ConvolutionHead(WIDTH, as_released=False)
    frames, mask = drawn(1, 5, WIDTH), torch.ones(1, 5, dtype=torch.bool)
    before, after = F.pad(frames, (0, 0, 1, 0))[:, :-1], F.pad(frames, (0, 0, 0, 1))[:, 1:]
    shifted = torch.cat([before[..., :2], frames[..., 2:6], after[..., 6:]], dim=-1)
    torch.testing.assert_close(head(frames, mask), (shifted + frames).mean(dim=1))


def test_classes_that_a_batch_shares_are_no_negatives():
    labels, scores = torch.tensor([0, 0, 1]), 5 * drawn(3, 3)
    shared = shared_class_loss(scores, labels)
    assert not torch.isclose(shared, shared_class_loss(scores, torch.arange(3)))
    perfect = 10 * (labels[:, None] == labels).float()
    assert float(shared_class_loss(perfect, labels)) == pytest.approx(0, abs=1e-6)


def test_the_loss_of_pairs_is_both_cross_entropies():
    scores, own = drawn(4, 4), torch.arange(4)
    wanted = (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2
    torch.testing.assert_close(matching_loss(scores, own), wanted)
    twice = matching_loss(scores, torch.tensor([0, 0, 2, 3]))
    to_clip = -scores.T.log_softmax(dim=1)
    by_hand = ((to_clip[0, 0] + to_clip[0, 1]) / 2 + to_clip[2, 2] + to_clip[3, 3]) / 3
    torch.testing.assert_close(twice, (F.cross_entropy(scores, torch.tensor([0, 0, 2, 3])) + by_hand) / 2)


def test_alignment_subtracts_the_centres(clips):
    """Written out for one clip and one centre at a time; without the centres the vector is another."""
    block = AlignmentBlock(WIDTH, 3, 2, "none")
    frames = clips.parts[0, :3]
    shares = (frames @ block.weight_center.T).softmax(dim=1)
    beside = [sum(shares[t, k] * (frames[t] - block.emb_center[k]) for t in range(3)) for k in range(3)]
    wanted = F.normalize(sum(F.normalize(each, dim=0) for each in beside) / 3, dim=0)
    torch.testing.assert_close(block.align(clips.parts[:1], clips.parts_mask[:1])[0], wanted)
    block.emb_center.data.zero_()
    assert not torch.allclose(block.align(clips.parts[:1], clips.parts_mask[:1])[0], wanted, atol=1e-3)


@pytest.mark.parametrize("mode", ["simple", "full", "frame_text", "wti"])
def test_padding_takes_no_part_in_mutual_guidance(mode, clips):
    guidance, tokens = Guidance(mode, WIDTH, 100.0), drawn(2, 5, WIDTH, seed=5)
    words = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    given = guidance(tokens, words, clips.parts, clips.parts_mask)
    tokens[0, 3:] = 7.0
    frames = clips.parts.masked_fill(~clips.parts_mask[..., None], 3.0)
    torch.testing.assert_close(guidance(tokens, words, frames, clips.parts_mask), given)
    torch.testing.assert_close(guidance(tokens[:1, :3], words[:1, :3], frames, clips.parts_mask)[0], given[0])


def test_guidance_is_mutual(clips):
    """Where nothing is sharp, all weights are alike: the mean cosine."""
    tokens, words = drawn(2, 5, WIDTH, seed=5), torch.ones(2, 5, dtype=torch.bool)
    frames = clips.parts[1::2]
    cosines = torch.einsum("atd,bvd->abtv", F.normalize(tokens, dim=-1), F.normalize(frames, dim=-1))
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    torch.testing.assert_close(Guidance("simple", WIDTH, 1e-6)(tokens, words, frames, mask), cosines.mean(dim=(2, 3)))
    sharp = Guidance("simple", WIDTH, 1e6)(tokens, words, frames, mask)
    torch.testing.assert_close(sharp, cosines.amax(dim=(2, 3)))


# starts ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_clip(parity):
    return parity.backbone(parity.reference("coop"))


@pytest.mark.parametrize("header, at", [("seqTransf", "transformerClip"), ("tightTransf", "transformer")])
def test_blocks_start_from_the_text_tower(tiny_clip, header, at):
    adapter = build_adapter("clip4clip", sim_header=header, layers=2)
    network = adapter._network(tiny_clip.embed_dim)
    assert "first blocks of the text tower" in adapter._start(network, tiny_clip)[0]
    theirs = dict(tiny_clip.model.named_parameters())
    for name, value in getattr(network, at).named_parameters():
        torch.testing.assert_close(value, theirs[f"transformer.{name}"])
    places = network.frame_position_embeddings if header == "seqTransf" else network.position_embeddings
    torch.testing.assert_close(places.weight, theirs["positional_embedding"])


def test_a_text_tower_of_another_kind_is_told(tiny_clip, small_clip):
    """Of another width, with other blocks, or none."""
    network = build_adapter("clip4clip", layers=1)._network
    for width, backbone, reason in (
        (24, small_clip, "32 wide, features are 24"),
        (WIDTH, None, "no text blocks"),
    ):
        told = _transformer.take_text_blocks(backbone, [network(width).transformerClip.resblocks])
        assert told.startswith("temporal layers start at random") and reason in told
    two_heads = nn.ModuleList([_transformer.ResidualBlock(64, 2, 1e-12)])  # two heads where the tower has one
    assert "another kind" in _transformer.take_text_blocks(tiny_clip, [two_heads])


def test_clip2video_starts_all_its_blocks_from_the_text_tower(tiny_clip):
    texts = TextClassifier(drawn(2, 64), class_names=("a dog", "a red car"), texts=(("a dog",), ("a red car",)))
    clips = FeatureSet.of_parts(drawn(2, 3, 64), labels=torch.arange(2))
    adapter = build_adapter("clip2video", epochs=1, lr=1e-9, layers=2, batch_size=2, weight_decay=0.0)
    report = adapter.fit(clips, texts, backbone=tiny_clip)
    assert "first blocks" in report.notes[0]
    theirs = dict(tiny_clip.model.named_parameters())
    for ours in ("difference.transformerClip", "difference.frame2t_attention", "alignment.actionClip"):
        name = "resblocks.0.mlp.c_fc.weight"
        torch.testing.assert_close(adapter.weights[f"{ours}.{name}"], theirs[f"transformer.{name}"], atol=1e-6, rtol=0)
    wanted = theirs["positional_embedding"][:2]
    torch.testing.assert_close(adapter.weights["difference.type_position_embeddings.weight"], wanted, atol=1e-6, rtol=0)
    own = tiny_clip.encode_text(["a dog"], normalize=False)[0]  # the last token of a text is what the text is
    torch.testing.assert_close(adapter.tokens[0, int(adapter.token_mask[0].nonzero().max())], own)
    assert not adapter.token_mask[:, 0].any()


# refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header, places", [("seqTransf", POSITIONS), ("tightTransf", POSITIONS - 1), ("seqLSTM", None)]
)
def test_clips_longer_than_the_positions_are_refused(texts, header, places):
    frames = drawn(3, POSITIONS + 1, WIDTH)
    for length in (places or POSITIONS, POSITIONS + 1):
        clips = FeatureSet.of_parts(frames[:, :length], labels=torch.arange(3))
        if places is None or length <= places:
            assert fitted("clip4clip", clips, texts, layers=1, sim_header=header).logits(clips).isfinite().all()
            continue
        with pytest.raises(CapabilityError, match=f"positions for {places} parts .*, and a sample has 78; read fewer"):
            fitted("clip4clip", clips, texts, layers=1, sim_header=header)


def test_heads_must_divide_the_width(clips, texts):
    with pytest.raises(ConfigError, match="heads=3 is not usable; give a number that divides"):
        fitted("action-clip", clips, texts, heads=3)


def test_a_class_name_must_fit_beside_the_vectors(small_clip):
    texts = TextClassifier(drawn(1, 24), class_names=("one two three four",))
    clip = FeatureSet.of_parts(drawn(1, 2, 24), labels=torch.zeros(1, dtype=torch.long))
    with pytest.raises(ConfigError, match="class 'one two three four' takes 4 tokens, but only 3 are left beside 36"):
        build_adapter("efficient-prompt", prefix=36, postfix=36).fit(clip, texts, backbone=small_clip)


def test_cosines_with_learned_prompts_are_divided_by_the_temperature(small_clip):
    texts = TextClassifier(drawn(2, 24), class_names=("hop", "run"), logit_scale=20.0)
    clips = FeatureSet.of_parts(drawn(4, 2, 24), labels=torch.arange(4) % 2)
    adapter = build_adapter("efficient-prompt", layers=1, prefix=2, postfix=2, temperature=0.5, epochs=1)
    adapter.fit(clips, texts, backbone=small_clip)
    read = F.normalize(adapter._net(clips.parts, clips.parts_mask), dim=-1)
    torch.testing.assert_close(adapter.logits(clips), read @ adapter.text.T / 0.5)


def test_frames_are_averaged_as_clip4clip_does(clips, texts):
    adapter = fitted("mean-pool", clips, texts, tune_text=False)
    means = torch.stack([F.normalize(f[m], dim=1).mean(dim=0) for f, m in zip(clips.parts, clips.parts_mask)])
    torch.testing.assert_close(adapter.logits(clips), 20 * F.normalize(means, dim=1) @ texts.weights.T)
    as_vifi = fitted("mean-pool", clips, texts, tune_text=False, unit_frames=False)
    torch.testing.assert_close(as_vifi.logits(clips), texts.logits(clips.unit))
    torch.testing.assert_close(average_of_unit(clips.parts, clips.parts_mask), F.normalize(means, dim=1))
