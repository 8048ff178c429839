"""Images and captions that differ by a detail or by the order of words: Winoground, SugarCrepe, ARO."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from vladapt.core.metrics.compositional import chosen_rightly, paired_rightly, shares_of_kinds

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

LEAST = 25
"""Cases of a pair of attributes that ARO counts."""
DEVIATIONS = {
    "compositional scores": "a tie is wrong, as in Winoground's paper; the released rules by position are options"
}


@compares("compositional scores", "scores_compositional")
def compositional_scores(ref: Reference, f: Fixtures) -> Iterator[Check]:
    images, texts = (F.normalize(ref[name], dim=-1) for name in ("images", "texts"))
    scores = images @ texts.transpose(1, 2)  # (N, images, texts)
    for ties, name in (("wrong", "winoground.strict"), ("position", "winoground.benchmark")):
        shares = torch.stack([right.double().mean() for right in paired_rightly(scores, ties).values()])
        yield ref.check(shares, name)
    first = torch.zeros(len(scores), dtype=torch.int64)
    names, right = ref.setting("kinds"), chosen_rightly(scores[:, 0], first)
    shares = shares_of_kinds(right, [names[kind] for kind in ref["kind"].tolist()])
    yield ref.check(torch.tensor([shares[name] for name in names if name in shares]), "sugarcrepe")
    macro = []
    for keys, part, least in (("relation", "relation", 1), ("attribute", "attribution", LEAST)):
        pairs = ref[f"aro_{keys}_scores"][:, 0]  # (N, 2), the true caption last
        right = chosen_rightly(pairs, torch.ones(len(pairs), dtype=torch.int64))
        shares = shares_of_kinds(right, [f"{key:04d}" for key in ref[keys].tolist()], least)
        rows = torch.tensor([[int(key), share, int((ref[keys] == int(key)).sum())] for key, share in shares.items()])
        yield ref.check(rows, f"aro.{part}")
        macro.append(sum(shares.values()) / len(shares))
    yield ref.check(torch.tensor(macro), "aro.macro")
    of_five = ref["aro_order_scores"][:, 0]  # (N, 5), the true caption first
    right = chosen_rightly(of_five, torch.zeros(len(of_five), dtype=torch.int64), "position")
    yield ref.check(right.double().mean()[None], "aro.order")


GROUPS = (compositional_scores,)
