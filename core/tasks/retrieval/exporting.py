"""The towers of a retrieval run as ONNX graphs, checked against them on the run's own test images and captions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ...backbones.finders import FinderBackbone, searched
from ...backbones.native_aspect import NATIVE
from ...contracts.backbone import Backbone
from ...contracts.domain import Domain
from ...contracts.task import Use
from ...contracts.use import Exported, ExportWishes
from ...errors import CapabilityError, ConfigError, DataError
from ...export.agreement import Agreement
from ...export.folder import Session
from ...export.graph import Graph
from ...export.package import NewExport
from ...recipes.asked_for import backbone_of
from ...registry import load_adapter
from ...runtime.progress import Reporter
from ..classification.stored_run import recipe_again
from .encoding import distinct_images

IMAGES, TEXTS = "images", "texts"
FILES = {IMAGES: "image.onnx", TEXTS: "text.onnx"}
MOST_CHECKED, AT_ONCE = 256, 16
TOKENS = (
    "tokens (B, {length}) int64 are those of the backbone's own tokenizer, padded to their length: "
    "vladapt.core.backbones.load.load_backbone(spec).tokenize(texts)"
)


class _ImageTower(nn.Module):
    """Pixels (B, 3, H, W) as the tower takes them -> unit features (B, D)."""

    def __init__(self, towers: Backbone):
        super().__init__()
        self.model, self._towers = towers.model, towers

    def forward(self, pixels: Tensor) -> Tensor:
        return self._towers.encode_image(pixels)


class _TextTower(nn.Module):
    """Tokens (B, L) -> unit features (B, D)."""

    def __init__(self, towers: Backbone):
        super().__init__()
        self.model, self._towers = towers.model, towers

    def forward(self, tokens: Tensor) -> Tensor:
        if isinstance(self._towers, FinderBackbone):
            return self._towers.encode_text(tokens)
        return self._towers.encode_measured(tokens, self._towers.context_length)


def export_towers(
    use: Use, wishes: ExportWishes, domain: Domain | None, read: Callable[[Any], Any], reporter: Reporter
) -> Exported:
    """Write both towers; see `Task.export`.

    Args:
        read: recipe -> the pairs that it names.
    """
    if wishes.int8:
        raise ConfigError("--int8: towers of a retrieval run are exported in 32 bits; omit it")
    new = NewExport(use.run, wishes)
    recipe = recipe_again(use)
    backbone = backbone_of(recipe, domain)
    towers = searched(load_adapter(use.run.adapter_path, backbone).adapted(backbone))
    data = read(recipe)
    pairs, transform = data.part(use.split), data.transform(towers, False)
    rows = distinct_images(pairs)[:: -(-len(pairs) // MOST_CHECKED) or 1]
    if not rows:
        raise DataError(f"{use.run.shown}: no {use.split} image to compare the graphs on; give --data")
    pixels = [transform(pairs.load_image(row)) for row, _ in rows]
    if pixels[0].ndim != 3:
        raise CapabilityError(
            f"{use.run.shown}: a sample has several pictures, which no graph can take; index with the run"
        )
    if transform.spec.get("transform") == NATIVE:
        raise CapabilityError(
            f"{use.run.shown}: its images keep their aspect ratio, which no graph can take; index with the run"
        )
    tokens = towers.tokenize([text for _, pair in rows for text in pair.captions])
    facts = _facts(new, towers, transform)
    sessions = {}
    with new.folder() as folder:
        for module, name, inputs in (
            (_ImageTower(towers), IMAGES, {"pixels": torch.stack(pixels[:2])}),
            (_TextTower(towers), TEXTS, {"tokens": tokens[:2]}),
        ):
            with reporter.task(f"Writing the tower of {name}", unit="graphs"):
                inputs = {key: value.to(towers.device) for key, value in inputs.items()}
                sessions[name] = new.write(Graph(module, inputs, ["features"]), folder / FILES[name], facts)
        check = _agreement(sessions, towers, torch.stack(pixels), tokens)
        if not check.is_close:
            raise CapabilityError(
                f"{use.run.shown}: the graphs do not match the towers, {check.words}; index with the run"
            )
        new.finish(folder, facts, {"towers": check})
    return new.exported(facts)


@torch.no_grad()
def _agreement(sessions: dict[str, Session], towers: Backbone, pixels: Tensor, tokens: Tensor) -> Agreement:
    """Of the cosines (N, M) of images and texts."""
    whole = _ImageTower(towers).eval(), _TextTower(towers).eval()
    sides = []
    for module, name, key, rows in zip(whole, (IMAGES, TEXTS), ("pixels", "tokens"), (pixels, tokens)):
        session = sessions[name]
        by_model = torch.cat([module(some.to(towers.device)).cpu() for some in _some(rows)])
        by_graph = torch.cat([torch.from_numpy(session(**{key: some.numpy()})["features"]) for some in _some(rows)])
        sides.append((by_model, by_graph))
    (images_1, images_2), (texts_1, texts_2) = sides
    return Agreement.of(images_1 @ texts_1.T, images_2 @ texts_2.T, None)


def _some(rows: Tensor) -> Iterator[Tensor]:
    return (rows[start : start + AT_ONCE] for start in range(0, len(rows), AT_ONCE))


def _facts(new: NewExport, towers: Backbone, transform: Any) -> dict[str, Any]:
    return {
        **new.first_facts,
        "adapter": new.run.info.adapter,
        "graphs": dict(FILES),
        "opset": new.opset,
        "dims": towers.embed_dim,
        "logit_scale": float(towers.logit_scale),
        "context_length": towers.context_length,
        "tokenizer": TOKENS.format(length=towers.context_length),
        "preprocessing": transform.spec,
        **new.last_facts,
    }
