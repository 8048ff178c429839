"""Losses whose queries of findings look at the patches of an image."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from vladapt import build_loss
from vladapt.core.contracts.loss import Loss
from vladapt.core.runtime.ranks import ONE
from vladapt.domains.medical.losses._query_decoder import existence_loss

from .comparison import compares
from .fixtures import Check, Fixtures, Reference, UnreadableFixture

MEDKLIP = {"decoder": "stream.decoder", "classifier": "stream.classifier", "cl_fc": "stream.contrast"}
MEDKLIP |= {"disease_embedding": "query_map"}
MEDSLIP = {"embedding": "query_map"} | {
    f"{theirs}_{kind}": f"{of}.{ours}"
    for kind, of in (("pathology", "of_findings"), ("anatomy", "of_positions"))
    for theirs, ours in (("decoder", "decoder"), ("classifier", "classifier"), ("cl_fc", "contrast"))
}
"""The fixture's name of a module -> ours."""


@compares("medklip", "medklip")
def medklip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for keep, key in ((None, "loss"), (ref.setting("keep_class_dim"), "loss_excluded")):
        names = [str(place) for place in range(len(ref["disease_book"]))]
        excluded = () if keep is None else tuple(name for place, name in enumerate(names) if place not in keep)
        loss = _as_released(ref, "medklip", MEDKLIP, ("disease_book", "anatomy_book"), exclude=excluded)
        leaves = ref.leaves({"patches": "visual_tokens"})
        known = loss.known({"findings": findings_of(ref["labels"])})
        answers, texts = loss.asked(leaves["patches"]), ref["sample_index"]
        there = torch.ones_like(texts[..., 1:], dtype=torch.bool)
        logits = loss.stream.classifier(answers)
        existence = existence_loss(logits, *known, ONE)
        position = loss.position_loss(answers, texts, there, known[0], ONE)
        yield ref.check(existence + position, key)
        if keep is None:
            (existence + position).backward()
            yield ref.check(existence, "loss_ce")
            yield ref.check(position, "loss_cl")
            yield ref.check(logits, "logits")
            yield from ref.check_gradients(leaves, {"patches": "visual"})
            maps = loss.stream.maps(ref["visual_tokens"], loss.query_map(loss.book_of_findings))
            yield ref.check(maps[-1], "attention_last")


@compares("medslip", "medslip")
def medslip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    loss = _as_released(ref, "medslip", MEDSLIP, ("pathology_book", "anatomy_book"))
    leaves = ref.leaves({kind: f"visual_{kind}" for kind in ("pathology", "anatomy")})
    known = loss.known({"findings": findings_of(ref["labels_pathology"])})
    drawn = (ref["sample_index_pathology"][..., 1:], ref["sample_index_anatomy"][..., 1:])
    candidates = tuple((index, torch.ones_like(index, dtype=torch.bool)) for index in drawn)
    parts = loss.terms((leaves["pathology"], leaves["anatomy"]), known, ref["matrix"].mT, candidates, ONE)
    parts["loss"].backward()
    for key, part in (
        *(("loss", "loss"), ("loss_icl", "product")),
        *(("loss_ce_pathology", "existence"), ("loss_cl_pathology", "prototype")),
        *(("loss_ce_anatomy", "position_existence"), ("loss_cl_anatomy", "position_prototype")),
    ):
        yield ref.check(parts[part], key)
    yield from ref.check_gradients(leaves, {kind: f"visual_{kind}" for kind in leaves})


def findings_of(labels: Tensor) -> Tensor:
    """1 present, 0 absent, others unknown -> column `findings`, in which -1 is absent."""
    return torch.where(labels == 1, 1.0, torch.where(labels == 0, -1.0, torch.nan))


def _as_released(ref: Reference, name: str, modules: dict[str, str], books: tuple[str, str], **options) -> Loss:
    """Ours with the fixture's sizes, weights and texts, in eval mode."""
    ref.require("normalize_before", True)
    described = {
        kind: {str(place): "" for place in range(len(ref[book]))}
        for kind, book in zip(("findings", "positions"), books)
    }
    sizes = {"width": "d_model", "heads": "heads", "layers": "layers", "hidden": "ff"}
    sizes = {ours: ref.setting(theirs) for ours, theirs in sizes.items()}
    loss = build_loss(name, {"embed_dim": ref[books[0]].shape[1]}, **described, **sizes, **options).eval()
    state = dict(zip(("book_of_findings", "book_of_positions"), (ref[book] for book in books)))
    for key, rest in ref.keys(r"w\.(.+)"):
        module, _, parameter = rest.partition(".")
        if module not in modules:
            raise UnreadableFixture(f"there is no module {module} in ours")
        state[f"{modules[module]}.{parameter}"] = ref[key]
    missing = loss.load_state_dict(state, strict=False)
    rest = ("image_map.", "finding_map.", "position_map.", "mask.", "draws.", "learned")
    left = [key for key in missing.missing_keys if not key.startswith(rest)]
    if left or missing.unexpected_keys:
        raise UnreadableFixture(f"weights of other modules: {', '.join([*left, *missing.unexpected_keys][:3])}")
    return loss


GROUPS = (medklip, medslip)
