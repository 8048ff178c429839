"""Losses for pictures of people: values, gradients, and the embedding of selected tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from vladapt import build_loss
from vladapt.core.runtime.ranks import ONE
from vladapt.domains.person.losses._identities import IdentityTargets
from vladapt.domains.person.losses._token_selection import (
    TokenEmbedding,
    number_of_patches,
    number_of_words,
    selected,
)
from vladapt.domains.person.losses.rde import triplet_alignment

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

PAIR = {"image_features": "image", "text_features": "text"}
TERMS = ("nitc", "ritc", "citc", "simclr")


@compares("tbps-clip", "loss_tbps_clip")
def tbps_clip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """A term at a time, each with its weight."""
    given = {"labels": ref["ids"], "logit_scale": torch.tensor(float(ref.setting("logit_scale")))}
    targets = IdentityTargets.of(ref["ids"], ONE, ref["image"])
    yield ref.check(targets.of_rows, "sim_targets")
    for (key,) in ref.keys(r"nitc_a\d+"):
        soft = float(ref.stated(key, "alpha"))
        yield from _term(ref, key, ("image",), given, nitc=1.0, soft=soft, ramp=0.0, second_view=False)
    in_modal, cross_modal = ref.setting("citc_lambda")
    weights = {"citc": ref.setting("citc_ratio"), "in_modal": in_modal, "cross_modal": cross_modal}
    yield from _term(ref, "citc", ("image", "text"), {}, **weights)
    weights = {"ritc": ref.setting("ritc_ratio", 1.0), "epsilon": ref.setting("ritc_eps")}
    yield from _term(ref, "ritc", ("image", "text"), given, **weights)
    loss = _alone(ref, simclr=1.0, temperature=ref.stated("simclr", "temperature"))
    loss.projector = torch.nn.Identity()  # the fixture's views are behind it
    views = {"projected_view1": ref["view_a"], "projected_view2": ref["view_b"]}
    yield ref.check(loss(views)["loss"], "simclr")


def _term(ref: Reference, key: str, learned: tuple[str, ...], given: dict, **options) -> Iterator[Check]:
    loss, out = _alone(ref, **options), ref.leaves(PAIR)
    value = loss({**out, **given})["loss"]
    value.backward()
    yield ref.check(value, key)
    for ours, theirs in PAIR.items():
        if theirs in learned:
            yield ref.check(out[ours].grad, f"grad_{theirs}_{key}")


def _alone(ref: Reference, **options):
    """The loss with the weights that are given, and none else."""
    return build_loss("tbps-clip", {"embed_dim": ref["view_a"].shape[1]}, **{**dict.fromkeys(TERMS, 0.0), **options})


@compares("rde", "loss_rde")
def rde(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """The alignment of pairs, and both embeddings of selected tokens."""
    names = {name: name for name in ("image", "text")}
    out = ref.leaves(names)
    each = triplet_alignment(*out.values(), ref["pid"], ref.setting("margin"), ref.setting("tau"))
    yield ref.check(each, "per_TAL")
    kept = (ref["label_hat"] * each).sum()
    kept.backward()
    yield ref.check(kept, "bge_TAL")
    for name in names:
        yield ref.check(out[name].grad, f"grad_{name}_TAL")
    cosines = F.cosine_similarity(ref["image"], ref["text"])
    yield ref.check(cosines, "similarity_diag")
    patches, attention = ref["patch_features"], ref["patch_attention"][:, 0]
    count = number_of_patches(patches.shape[1] - 1, ref.setting("select_ratio"))
    chosen, _ = selected(patches[:, 1:], attention[:, 1:], None, count)
    yield ref.check(_embedding(ref, "visual", "fc")(chosen), "tse_image")
    ids, words = ref["token_ids"], ref["token_features"]
    place, last = torch.arange(ids.shape[1]), ids.argmax(dim=1)
    attention = ref["token_attention"][torch.arange(len(ids)), last]
    inner = (place > 0) & (place < last[:, None])
    count = number_of_words(ids.shape[1], ref.setting("select_ratio"))
    yield ref.check(_embedding(ref, "textual", "linear")(*selected(words, attention, inner, count)), "tse_text")


def _embedding(ref: Reference, tower: str, linear: str) -> TokenEmbedding:
    """Ours with the fixture's weights, in eval mode."""
    ours = {"linear": linear, "first": "mlp.layers.0", "second": "mlp.layers.1", "norm": "mlp.bns.0"}
    shape = ref[f"w.{tower}.{linear}.weight"].shape
    module = TokenEmbedding(shape[1], len(ref[f"w.{tower}.mlp.layers.0.weight"]), shape[0])
    module.load_state_dict({name: _weight(ref, tower, ours, name) for name in module.state_dict()})
    return module.eval()


def _weight(ref: Reference, tower: str, ours: dict[str, str], name: str) -> Tensor:
    layer, _, kind = name.partition(".")
    return ref[f"w.{tower}.{ours[layer]}.{kind}"]


@compares("unipt", "loss_unipt")
def unipt(ref: Reference, f: Fixtures) -> Iterator[Check]:
    loss, out = build_loss("unipt", words=0.0), ref.leaves(PAIR)
    value = loss({**out, "patch_errors": ref["mae_loss"].expand(len(ref["image"]), 1)})["loss"]
    value.backward()
    yield ref.check(value, "loss")
    image, text = (F.normalize(ref[name], dim=1) for name in PAIR.values())
    yield ref.check(loss.logit_scale * image @ text.T, "logits")
    yield from ref.check_gradients(out, PAIR)


GROUPS = (tbps_clip, rde, unipt)
