"""Methods that make labels for images themselves: ReCLIP."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from vladapt.adapters.selftraining._projected import Propagation, projection_of

from .comparison import compares
from .fixtures import Check, Fixtures, Reference


@compares("reclip", "reclip")
def reclip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    text, images = f.common["text_features"], f.test_set
    spread = ref.setting("cg")["maxiter"]
    for stated in ref.setting("settings"):
        name, k, cut = _settings(stated)
        projection = projection_of(text, cut or text.shape[1])
        yield ref.check(projection, f"projection_{name}", f"{stated}, projection")
        done = Propagation(k, ref.setting("alpha"), spread)(text, images.features, projection)
        yield ref.check(done.labels, f"pseudo_labels_{name}", f"{stated}, pseudo-labels")
        yield ref.check(done.scores, f"scores_{name}", f"{stated}, scores")
        yield ref.check(done.centroids, f"centroids_{name}", f"{stated}, centroids")
        right = 100 * (done.labels == images.labels).float().mean()
        yield ref.check(right.reshape(1), f"accuracy_{name}", f"{stated}, accuracy")
        shares = done.scores[len(text) :] / done.scores[len(text) :].sum(dim=1, keepdim=True)
        entropy = -(shares * shares.log()).sum(dim=1) / torch.tensor(len(text)).log()
        yield ref.check(1 - entropy, f"confidence_{name}", f"{stated}, confidence of the scores' shares")


def _settings(stated: str) -> tuple[str, int, int | None]:
    """ "k=20, cut=7" -> ("k20_cut7", 20, 7); 768 of fewer stands as "cutall"."""
    said = dict(re.findall(r"(k|cut)=(\d+)", stated))
    k, cut = int(said["k"]), None if "(all)" in stated else int(said["cut"])
    return f"k{k}_cut{'all' if cut is None else cut}", k, cut


GROUPS = (reclip,)
