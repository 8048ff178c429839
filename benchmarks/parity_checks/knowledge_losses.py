"""Losses that learn from a knowledge graph."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vladapt.domains.medical.losses._co_attention import PADDING, ImageLayer, TextImagePair, TextLayer, as_mask
from vladapt.domains.medical.losses._entity_graph import EntityGraph, EntityScores
from vladapt.domains.medical.losses._patch_decoder import patch_errors, patches_of

from .comparison import compares
from .fixtures import Check, Fixtures, Reference, UnreadableFixture

GRAPH = {"x": "start", "embedding_ln": "norm", "att_src": "as_source", "att_dst": "as_target", "lin": "map"}
GRAPH |= {"conv1": "first", "conv2": "second"}
SCORES = {"linear1": "layers.0", "linear2": "layers.2"}
LAYER = {
    "attention": "each_other",
    "crossattention": "at_image",
    "knowledge_attention": "entity_each_other",
    "knowledge_crossattention": "entity_at_image",
    "image2knowledge": "image_map",
    "knowledge2text": "entity_map",
}
HEADS = ("query", "key", "value")


@compares("arl", "arl")
def arl(ref: Reference, f: Fixtures) -> Iterator[Check]:
    hyper = {name: ref.setting(name) for name in ("kd", "ki", "kh", "hidden", "heads", "gat", "gat_heads", "grid")}
    graph, scores = _aligning(ref, hyper)
    cls = ref.leaves({"image": "image_cls", "text": "text_cls"})
    entities = graph()
    logits = {side: scores[side](cls[side], entities) for side in cls}
    labels = {side: ref[f"{side}_labels"].float() for side in cls}
    loss = sum(F.binary_cross_entropy_with_logits(logits[side], labels[side]) for side in cls)
    loss.backward()
    yield ref.check(entities, "gat.entities")
    yield ref.check(loss, "align.loss")
    yield from (ref.check(logits[side], f"align.{side}_logits") for side in cls)
    yield ref.check(cls["image"].grad, "align.grad_image")
    yield ref.check(graph.start.grad, "align.grad_entities")
    yield from _reasoning(ref, hyper, entities.detach())
    yield from _masking(ref, hyper)


def _aligning(ref: Reference, hyper: dict[str, int]) -> tuple[EntityGraph, dict[str, EntityScores]]:
    width, entity_width = ref["image_cls"].shape[1], hyper["kd"]
    edges = [tuple(edge) for edge in ref["edge_index"].T.tolist()]
    graph = EntityGraph(len(ref["w.align_head.x"]), edges, entity_width, hyper["gat"], hyper["gat_heads"], 0.0)
    scores = {side: EntityScores(width, entity_width) for side in ("image", "text")}
    state: dict[str, dict[str, Tensor]] = {"graph": {}, "image": {}, "text": {}}
    for key, name in ref.keys(r"w\.align_head\.(.+)"):
        side, _, rest = name.partition("_")
        of_side = {"img": "image", "txt": "text"}.get(side)
        if of_side:
            state[of_side][_renamed(rest, SCORES)] = ref[key]
        else:
            value = ref[key]
            state["graph"][_renamed(name, GRAPH)] = value[0] if ".att_" in name else value
    _load(graph, state["graph"] | {"edges": graph.edges})
    for side, module in scores.items():
        _load(module, state[side])
    return graph.eval(), scores


def _reasoning(ref: Reference, hyper: dict[str, int], entities: Tensor) -> Iterator[Check]:
    width, heads, hidden = ref["text_tokens"].shape[2], hyper["heads"], ref["w.image_layer.intermediate.dense.bias"]
    of_image = {"width": width, "heads": heads, "hidden": len(hidden), "dropout": 0.0}
    sizes = {"entity_width": hyper["kd"], "entity_heads": hyper["kh"], "entity_hidden": hyper["ki"]}
    text_layer, image_layer = TextLayer(**of_image, **sizes).eval(), ImageLayer(**of_image).eval()
    for module, side in ((text_layer, "text"), (image_layer, "image")):
        _load(module, _layer_state(ref, side))
    ids = ref["entity_ids"]
    there = ids != PADDING
    tokens = entities[ids.clamp(min=0)] * there[..., None]
    yield ref.check(tokens, "entity_embeddings")
    leaves = ref.leaves({"text": "text_tokens"})
    masks = {"text_mask": as_mask(ref["text_mask"].bool()), "entity_mask": as_mask(there)}
    pair = TextImagePair(leaves["text"], ref["image_tokens"], tokens, covers=ref["position_matrix"].float(), **masks)
    text, known = text_layer(pair)
    (text.square().sum() + 0.5 * known.square().sum()).backward()
    yield ref.check(text, "layer.text")
    yield ref.check(known, "layer.entities")
    yield ref.check(image_layer(pair), "layer.image")
    yield ref.check(leaves["text"].grad, "layer.grad_text")
    asking = text_layer.entity_each_other(tokens, tokens, pair.entity_mask)
    seen = text_layer.image_map(pair.image)
    maps = text_layer.entity_at_image.attention(asking, seen, seen, average_attn_weights=False)[1]
    yield ref.check(maps, "layer.entity_to_image_attention")


def _layer_state(ref: Reference, side: str) -> dict[str, Tensor]:
    """BERT's names -> ours; the three matrices of an attention stand one below the other."""
    state: dict[str, Tensor] = {}
    for key, block, rest in ref.keys(rf"w\.{side}_layer\.(\w+)\.(.+)"):
        ours = "at_text" if side == "image" and block == "crossattention" else LAYER.get(block, block)
        if rest.startswith("self."):
            _, part, kind = rest.split(".")
            if part == HEADS[0]:
                parts = [ref[f"w.{side}_layer.{block}.self.{head}.{kind}"] for head in HEADS]
                state[f"{ours}.attention.in_proj_{kind}"] = torch.cat(parts)
        elif block.endswith("attention"):
            part = "attention.out_proj" if rest.startswith("output.dense") else "norm"
            state[f"{ours}.{part}.{rest.rpartition('.')[2]}"] = ref[key]
        else:
            state[_of_feed_forward(block, rest)] = ref[key]
    return state


def _of_feed_forward(block: str, rest: str) -> str:
    kind = rest.rpartition(".")[2]
    if block in LAYER:
        return f"{LAYER[block]}.{kind}"
    if block == "knowledge_fusion_output":
        return f"{'fused' if rest.startswith('dense') else 'norm'}.{kind}"
    ours = "entity_feed_forward" if block.startswith("knowledge_") else "feed_forward"
    place = "norm" if rest.startswith("LayerNorm") else "layers.0" if block.endswith("intermediate") else "layers.2"
    return f"{ours}.{place}.{kind}"


def _masking(ref: Reference, hyper: dict[str, int]) -> Iterator[Check]:
    patches, hidden = patches_of(ref["image"], (hyper["grid"],) * 2), ref["mim.mask"].float()
    yield ref.check(patches, "patchify")
    leaves = ref.leaves({"pred": "mim.pred"})
    loss = (patch_errors(leaves["pred"], patches) * hidden).sum() / hidden.sum()
    loss.backward()
    yield ref.check(loss, "mim.loss")
    yield ref.check(leaves["pred"].grad, "mim.grad_pred")


def _renamed(name: str, known: dict[str, str]) -> str:
    return ".".join(known.get(part, part) for part in name.split("."))


def _load(module: nn.Module, state: dict[str, Tensor]) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UnreadableFixture(f"weights of other modules: {str(error).splitlines()[-1].strip()}") from None


GROUPS = (arl,)
