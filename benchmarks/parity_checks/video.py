"""Heads on the frames of clips: mean pooling, CLIP4Clip, ActionCLIP, CLIP2Video, Mug and Efficient-Prompt."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vladapt import FeatureSet, TextClassifier
from vladapt.domains.video.adapters._frames import masked_mean
from vladapt.domains.video.adapters._matching import matching_loss
from vladapt.domains.video.adapters.action_clip import (
    ConvolutionHead,
    LSTMHead,
    TransformerHead,
    shared_class_kl,
    shared_class_loss,
)
from vladapt.domains.video.adapters.clip2video import AlignmentBlock, Clip2VideoNetwork, DifferenceBlock
from vladapt.domains.video.adapters.clip4clip import SequenceTransformer
from vladapt.domains.video.adapters.efficient_prompt import FreePrompts, TemporalModelling, shifted
from vladapt.domains.video.adapters.mug import Guidance

from .comparison import compares, published
from .fixtures import Check, Fixtures, Reference


@compares("mean-pool", "clip4clip")
def mean_pool(ref: Reference, f: Fixtures) -> Iterator[Check]:
    adapter = published("mean-pool", tune_text=False)
    clips = _fitted(adapter, ref)
    yield ref.check(adapter.logits(clips).T, "logits_meanP")


@compares("clip4clip", "clip4clip")
def clip4clip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    adapter = published("clip4clip", epochs=1, layers=ref.setting("layers"), heads=ref.setting("heads"))
    clips = _fitted(adapter, ref)
    adapter._built = _sequence_transformer(ref, ref["frame_position_embeddings"], "")
    yield ref.check(adapter.logits(clips).T, "logits_seqTransf")


@compares("action-clip", "actionclip")
def action_clip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    leaves = ref.leaves({"image": "image", "text": "text"})
    units = {name: F.normalize(leaf, dim=-1) for name, leaf in leaves.items()}
    scores = ref.setting("scale") * units["image"] @ units["text"].T
    yield ref.check(shared_class_kl(scores, ref["labels"]), "loss_image")
    yield ref.check(shared_class_kl(scores.T, ref["labels"]), "loss_text")
    loss = shared_class_loss(scores, ref["labels"])
    loss.backward()
    yield ref.check(loss, "loss")
    yield from ref.check_gradients(leaves, {name: name for name in leaves})


@compares("action-clip", "actionclip")
def action_clip_heads(ref: Reference, f: Fixtures) -> Iterator[Check]:
    frames = ref["frames"]
    mask, width = torch.ones(frames.shape[:2], dtype=torch.bool), frames.shape[-1]
    layers, heads = ref.setting("transformer_layers"), ref.setting("heads")
    made = {
        "Transf": TransformerHead(width, layers, heads),
        "LSTM": LSTMHead(width),
        "Conv_1D": ConvolutionHead(width, as_released=True),
    }
    yield ref.check(masked_mean(frames, mask), "head_meanP")
    for name, head in made.items():
        unused = () if name == "Transf" else ("frame_position_embeddings.weight",)
        head.load_state_dict(_weights(ref, f"w.{name}.", unused))
        yield ref.check(head(frames, mask), f"head_{name}")


PROJECTIONS = {"default": "default", "mlp": "sigmoid_mlp", "selfA": "sigmoid_selfA"}
OF_ALIGNMENT = ("actionClip.", "weight_center", "emb_center")


@compares("clip2video", "clip2video")
def clip2video_differences(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """The difference block, and the transformer without it."""
    frames, mask, text = ref["frames"], ref["video_mask"].bool(), F.normalize(ref["text"][:, 0], dim=-1)
    scale = ref.setting("logit_scale_exp")
    for key, name in PROJECTIONS.items():
        block = _clip2video(ref, name, "none").difference
        tokens, there = block.tokens(frames, mask)
        yield ref.check(tokens, f"tdb_{key}.tokens")
        yield ref.check(scale * text @ block(frames, mask).T, f"tdb_{key}.logits")
    yield ref.check(there.long(), "tdb_selfA.mask")
    yield ref.check(block.added(frames.shape[1]).expand_as(tokens), "tdb_selfA.added")
    plain = _sequence_transformer(ref, ref["w.frame_position_embeddings.weight"], "transformerClip.")
    yield ref.check(scale * text @ plain(frames, mask).T, "seqTransf.logits")


@compares("clip2video", "clip2video")
def clip2video_alignment(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """The alignment block with each of its inputs."""
    frames, mask, words = ref["frames"], ref["video_mask"].bool(), _words(ref)
    for key in ("none", "TAB", "TAB_TDB"):
        network = _clip2video(ref, "sigmoid_selfA", key)
        if key != "none":
            yield ref.check(network.alignment.further(frames, mask, network.difference)[0], f"extra_{key}")
        yield ref.check(network.alignment.of_clips(frames, mask, network.difference), f"tab_video_{key}")
    yield ref.check(network.alignment.align(ref["text_tokens"], words), "tab_text")


@compares("clip2video", "clip2video")
def clip2video(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """The published whole: logits, both losses and their gradients."""
    network, mask, words = _clip2video(ref, "sigmoid_selfA", "TAB_TDB"), ref["video_mask"].bool(), _words(ref)
    leaves = ref.leaves({name: name for name in ("text", "text_tokens", "frames")})
    texts, frames = F.normalize(leaves["text"][:, 0], dim=-1), leaves["frames"]
    scale, weight = ref.setting("logit_scale_exp"), ref.setting("center_weight")
    whole = scale * texts @ network.difference(frames, mask).T
    clips = network.alignment.of_clips(frames, mask, network.difference)
    aligned = scale * network.alignment.align(leaves["text_tokens"], words) @ clips.T
    losses = [matching_loss(scores.T, torch.arange(len(texts))) for scores in (whole, aligned)]
    loss = weight * losses[0] + (1 - weight) * losses[1]
    loss.backward()
    yield ref.check(weight * whole + (1 - weight) * aligned, "inference_logits")
    for key, digits in ref.keys(r"inference_logits_w0(\d+)"):
        share = float(f"0.{digits}")
        yield ref.check(share * whole + (1 - share) * aligned, key)
    yield ref.check(losses[0], "loss_global")
    yield ref.check(losses[1], "loss_tab")
    yield ref.check(loss, "loss")
    yield from ref.check_gradients(leaves, {name: name for name in leaves})


MODES = {
    "mug_frame_token_simple": "simple",
    "mug_frame_token": "full",
    "mug_frame_text": "frame_text",
    "drl_wti": "wti",
}


@compares("mug", "mug_stan")
def mug(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for key, mode in MODES.items():
        guidance = Guidance(mode, ref["frames"].shape[-1], ref.setting("tau"), released_padding=True)
        guidance.load_state_dict(_weights(ref, "w.") if mode == "wti" else {})
        leaves = ref.leaves({"text": "text_tokens", "frames": "frames"})
        mask = torch.ones(leaves["frames"].shape[:2], dtype=torch.bool)
        similarity = guidance(leaves["text"], ref["text_mask"].bool(), leaves["frames"], mask)
        loss = 2 * matching_loss(ref.setting("loss_scale") * similarity.T, torch.arange(len(similarity)))
        loss.backward()
        yield ref.check(similarity, key)
        yield ref.check(loss, f"loss_{key}")
        for name, leaf in leaves.items():
            if f"grad_{name}_{key}" in ref:
                yield ref.check(leaf.grad, f"grad_{name}_{key}")


@compares("efficient-prompt", "efficient_prompt")
def efficient_prompt(ref: Reference, f: Fixtures) -> Iterator[Check]:
    frames = ref["frame_features"]
    mask = torch.ones(frames.shape[:2], dtype=torch.bool)
    network = TemporalModelling(frames.shape[-1], ref.setting("layers"), ref.setting("heads"))
    network.temporalModelling.load_state_dict(_weights(ref, "w."))
    network.temporalEmbedding = nn.Embedding.from_pretrained(ref["temporal_embedding"])
    yield ref.check(network(frames, mask), "video_features")
    yield ref.check(masked_mean(frames, mask), "video_features_mean")
    tokens, names = ref["action_tokens"], ref["action_tokens"].argmax(dim=1) - 1
    source, free = shifted(tokens, names, 1, ref.setting("prefix"), ref.setting("postfix"))
    moved = tokens.gather(1, source).masked_fill(free, 0)
    words = ref["action_token_embeddings"].gather(1, source[..., None].expand_as(ref["action_token_embeddings"]))
    prompts = FreePrompts(moved, free, torch.ones_like(free))
    yield ref.check(moved, "prompt_tokens")
    read = torch.arange(tokens.shape[1]) <= moved.argmax(dim=1, keepdim=True)  # a causal tower reads no further
    yield ref.check(
        prompts.embedded(words, ref["prompt_embedding"]), "text_embedding", where=read[..., None].expand_as(words)
    )


def _fitted(adapter, ref: Reference) -> FeatureSet:
    """The clips of a fixture, to which the adapter was fitted as classes of one clip."""
    frames, mask = ref["frames"], ref["video_mask"].bool()
    text = TextClassifier(ref["text"][:, 0], logit_scale=ref.setting("logit_scale_exp"))
    clips = FeatureSet.of_parts(frames.masked_fill(~mask[..., None], 0), mask)
    some = torch.arange(min(len(text), len(clips)))
    support = FeatureSet.of_parts(clips.parts[some], clips.parts_mask[some], labels=some)
    adapter.fit(support, text)
    return clips


def _sequence_transformer(ref: Reference, positions: Tensor, prefix: str) -> SequenceTransformer:
    network = SequenceTransformer(positions.shape[1], ref.setting("layers"), ref.setting("heads"))
    network.transformerClip.load_state_dict(_weights(ref, f"w.{prefix}"))
    network.frame_position_embeddings = nn.Embedding.from_pretrained(positions)
    return network.eval()


def _clip2video(ref: Reference, temporal_proj: str, center_proj: str) -> Clip2VideoNetwork:
    """With the fixture's weights, and the mask of differences that the reference has."""
    width, heads = ref["frames"].shape[-1], ref.setting("heads")
    difference = DifferenceBlock(width, ref.setting("layers"), heads, temporal_proj, released_mask=True)
    network = Clip2VideoNetwork(difference, AlignmentBlock(width, ref.setting("centerK"), heads, center_proj))
    difference.frame_position_embeddings = nn.Embedding(*ref["w.frame_position_embeddings.weight"].shape)
    given = _weights(ref, "w.")
    named = {f"{'alignment' if k.startswith(OF_ALIGNMENT) else 'difference'}.{k}": v for k, v in given.items()}
    network.load_state_dict({key: named[key] for key in network.state_dict()})
    return network


def _words(ref: Reference) -> Tensor:
    """(B, L) bool, what is aligned of the texts: not what stands before their words."""
    words = ref["text_mask"].bool()
    words[:, 0] = False
    return words


def _weights(ref: Reference, prefix: str, without: tuple[str, ...] = ()) -> dict[str, Tensor]:
    """The reference's weights under the names that follow a prefix."""
    names = {key: key.removeprefix(prefix) for key in ref.tensors if key.startswith(prefix)}
    return {name: ref[key] for key, name in names.items() if name not in without}


GROUPS = (
    mean_pool,
    clip4clip,
    action_clip,
    action_clip_heads,
    clip2video_differences,
    clip2video_alignment,
    clip2video,
    mug,
    efficient_prompt,
)
