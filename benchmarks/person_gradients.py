"""What determines a step of IRRA on generated pedestrians: the gradient of each of its losses, and of CLIP's loss.

    python benchmarks/person_gradients.py [--warm N]

On one batch, for the towers of `embedded` as they are, joined in the space of their texts, and after some steps of
CLIP's loss (`person_proof.py`): the norm of the gradient in the weights of each tower, and its cosine with that of
CLIP's loss. SDM has its published scale. Adam ignores the norm of a gradient, but in a sum the longest part determines
the direction.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from person_proof import LONGEST, NARROW, OTHERS, SIZE, TASK, Joined, drawn, warmed
from torch import Tensor

from vladapt import build_loss
from vladapt.core.backbones.load import load_backbone
from vladapt.core.contracts.backbone import Backbone
from vladapt.domains.person import Person
from vladapt.domains.person.tasks.person_search import PeoplePairs

PARTS = {"sdm": ("sdm",), "identity": ("identity",), "masked words": ("words",), "irra": ("sdm", "identity", "words")}
TOWERS = ("image", "text")
PUBLISHED = 50.0
"""Scale of SDM."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--warm", type=int, default=60, help="steps of CLIP's loss for the last table; 0: none")
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1e-4)
    arguments = parser.parse_args()
    others, people = drawn(arguments.train, 0, OTHERS), drawn(arguments.batch_size, 0, OTHERS + 1)
    bridged = Joined(image_size=SIZE)
    towers = {"as it is": load_backbone("embedded", image_size=SIZE), "joined": bridged}
    if arguments.warm:
        towers[f"after {arguments.warm} steps"] = warmed(others, bridged, arguments)
    for title, backbone in towers.items():
        print(f"\n{title}: logit scale {float(backbone.logit_scale.detach()):.0f}\n")
        print("| | image tower | text tower | cosine, image | cosine, text |\n| --- |" + " ---: |" * 4)
        for name, (lengths, cosines) in compared(backbone, people).items():
            cells = [*(f"{length:.2f}" for length in lengths), *(f"{cosine:.2f}" for cosine in cosines)]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def compared(backbone: Backbone, people: PeoplePairs) -> dict[str, tuple[list[float], list[float]]]:
    """Part -> lengths of its gradients in both towers, and cosines with those of CLIP's loss.

    Args:
        people: whose first pictures are the batch.
    """
    rows = dict(zip(people.labels.tolist()[::-1], range(len(people))[::-1]))  # the first picture of each
    items = [people.items[row] for row in rows.values()]
    view = Person().transforms(backbone, False, TASK)
    batch = {
        "pixels": torch.stack([view(people.data.load(item)) for item in items]),
        "tokens": backbone.tokenize([item.target.texts[0] for item in items])[:, :LONGEST],
        "draws": torch.rand(len(items), 4, backbone.context_length, generator=torch.Generator().manual_seed(0)),
    }
    dims = {"embed_dim": backbone.embed_dim, "num_labels": len(items), "vocab_size": backbone.vocab_size}
    whole = {"clip": gradients(backbone, batch, build_loss("clip", dims))}
    for name, kept in PARTS.items():
        torch.manual_seed(0)
        left_out = {part: 0.0 for part in ("sdm", "identity", "words") if part not in kept}
        options = {**NARROW, "logit_scale": PUBLISHED, **left_out}
        whole[name] = gradients(backbone, batch, build_loss("irra", dims, **options))
    lengths = {name: [float(each.norm()) for each in both] for name, both in whole.items()}
    cosines = {
        name: [float(F.cosine_similarity(own.double(), clip.double(), dim=0)) for own, clip in zip(both, whole["clip"])]
        for name, both in whole.items()
    }
    return {name: (lengths[name], cosines[name]) for name in whole}


def gradients(backbone: Backbone, batch: dict[str, Tensor], loss: torch.nn.Module) -> list[Tensor]:
    """Of a loss in all weights of the image tower, and of the text tower."""
    parameters = [list(getattr(backbone.model, tower).parameters()) for tower in TOWERS]
    backbone.model.requires_grad_(True)
    images = backbone.image_outputs(batch["pixels"], frozenset({"image_embedding", "image_tokens"}))
    text = backbone.encode_text(batch["tokens"], normalize=False)
    out = {**images, "text_embedding": text, "labels": torch.arange(len(text)), "logit_scale": backbone.logit_scale}
    out |= {"image_features": F.normalize(images["image_embedding"], dim=1), "text_features": F.normalize(text, dim=1)}
    if "hidden_words" in loss.needs:
        out |= loss.further_outputs(batch, backbone)
    weights = [*parameters[0], *parameters[1]]
    found = torch.autograd.grad(loss(out)["loss"], weights, allow_unused=True, materialize_grads=True)
    backbone.model.requires_grad_(False)
    split = len(parameters[0])
    return [torch.cat([part.flatten() for part in some]) for some in (found[:split], found[split:])]


if __name__ == "__main__":
    main()
