"""`join`: an image tower and a text tower that were not trained together, as one backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..backbones.join import FILE, JoinedBackbone
from ..backbones.lexical import encoded_by_tower, lexical_space
from ..backbones.load import load_backbone
from ..backbones.shared_spaces import LinearSpace, SideBySide, TextHead
from ..backbones.text_towers import TextSide, text_side
from ..backbones.tower_maps import (
    AUTO,
    LEAST_ROWS,
    Choice,
    TowerMap,
    check_groups,
    choose_map,
    fit_map,
    held_out_scale,
    nearest_share,
    split_groups,
)
from ..contracts.options import keywords, options_from
from ..contracts.recipe import Recipe
from ..contracts.task import refuse_unused
from ..data.pairs.text_pairs import read_text_pairs
from ..errors import ConfigError, DataError
from ..features.store import FeatureStore
from ..recipes.resolve import task_of
from ..runtime.files import place_of, write_whole
from ..runtime.progress import Reporter
from ..runtime.reading import read_text
from ..tasks.retrieval.encoding import PairEncoding, features_of
from ..tasks.retrieval.fitting import RetrievalData
from ..tasks.retrieval.scoring import evaluate_retrieval
from .joined_card import LEXICAL, LINEAR, TEXTS, UNTRAINED, HeldOut, Joined, joined_card
from .options import JoinOptions

LEAST_SENTENCES = 13
"""Of which a fifth is held out, and the others are as many as the choice of a map takes."""
OF_NAMES = "procrustes and ConSE"
PROJECTIONS, WIDTH = "projections", 512
FIRST_SCALE = 1 / 0.07
"""As CLIP's training begins."""
TAKEN = frozenset({"domain", "task", "data", "device", "amp", "batch_size", "workers", "tolerate", "split_seed"})
"""Recipe keys that are used."""


@keywords(JoinOptions)
def join(
    recipe: Recipe, image: str, text: str, out: str | Path, *, reporter: Reporter | None = None, **given: Any
) -> Joined:
    """Put two towers into one space, measure it on what it was not made of, and write it as a backbone.

    Args:
        recipe: domain of the pairs, and how they are encoded.
        image: spec of a backbone whose images are taken.
        text: spec of an encoder of texts (`hf:`), or of a backbone whose texts are taken.
        out: folder to write.
        given: options of `JoinOptions`.

    Raises:
        ConfigError: options that do not go together, or too few pairs. DataError: no pairs, or towers that cannot be
            read. CapabilityError: a tower without what is asked of it.
    """
    asked, reporter = options_from(JoinOptions, given, "join"), reporter or Reporter(quiet=True)
    refuse_unused(recipe, TAKEN, lambda key: "join does not use it; omit it")
    _check(asked)
    out = Path(out)
    place_of(out / FILE, "--out")
    if (out / "README.md").exists() and not (out / FILE).exists():
        raise ConfigError(f"--out {out}: holds a README.md of something else; give a new folder")
    device = recipe.device
    towers = load_backbone(image, device)
    side = text_side(text, lambda spec: load_backbone(spec, device), asked.pooling, asked.prefix)
    if asked.pairs is not None:
        made, backbone = _by_pairs(towers, side, asked, recipe, out, reporter)
    elif asked.sentences is not None:
        made, backbone = _by_sentences(towers, side, asked, out)
    elif asked.untrained is not None:
        made, backbone = _untrained(towers, side, asked, out)
    else:
        made, backbone = _by_names(towers, side, asked, out)
    facts = _facts(made, image, text, asked)
    out.mkdir(parents=True, exist_ok=True)
    backbone.save(out, facts)
    write_whole(out / "README.md", joined_card(backbone, made, facts))
    return made


def _check(asked: JoinOptions) -> None:
    made_of = [name for name in ("pairs", "sentences", "names", "untrained") if getattr(asked, name) is not None]
    if len(made_of) > 1:
        raise ConfigError(f"--{made_of[0]} and --{made_of[1]}: the space is made of either; omit one")
    if asked.translated is not None and asked.sentences is None:
        raise ConfigError("--translated: names columns of --sentences; give these, or omit it")
    if asked.space_width is not None and asked.untrained != PROJECTIONS:
        raise ConfigError(f"--space-width {asked.space_width}: is of --untrained {PROJECTIONS}; omit it")
    if made_of in ([], ["names"], ["untrained"]):
        for name in ("map", "ridge"):
            if getattr(asked, name) not in (None, AUTO):
                raise ConfigError(f"--{name}: is of a map from pairs or sentences; give --pairs DATA, or omit it")
    if made_of not in ([], ["names"]) and asked.keep_image is not None:
        raise ConfigError(f"--keep-image: is of a space made of names; omit it with --{made_of[0]}")


def _by_pairs(towers, side, asked: JoinOptions, recipe: Recipe, out: Path, reporter: Reporter):
    recipe = recipe.with_source(data=asked.pairs).with_(task="retrieval")
    task: Any = task_of(recipe)
    data: RetrievalData = task.read(recipe)
    check_groups(_few_groups(data.part("train")))
    running = recipe.batch_size, recipe.workers, recipe.amp, reporter, FeatureStore(), recipe.tolerate
    how = PairEncoding(towers.preprocess(False), *running)
    beside = JoinedBackbone(towers, side, SideBySide(towers.embed_dim, side.width), 1.0, "join")
    pairs = features_of(beside, data.part("train"), how)
    source = pairs.images[pairs.image_of_text][:, : towers.embed_dim]
    target = pairs.texts[:, towers.embed_dim :]
    # (M,) of each text the number of its image's group, or of its image.
    keys = [group if group is not None else place for place, group in enumerate(pairs.groups)]
    number = {key: place for place, key in enumerate(dict.fromkeys(keys))}
    groups = np.array([number[keys[image]] for image in pairs.image_of_text.tolist()])
    fitted, choices = _fitted(source, target, groups, asked)
    scale = held_out_scale(source, target, fitted, groups, asked.seed)
    backbone = JoinedBackbone(towers, side, LinearSpace.of(fitted), scale, str(out))
    scores = evaluate_retrieval(
        backbone,
        data.part("test"),
        split=None,
        amp=recipe.amp,
        workers=recipe.workers,
        reporter=reporter,
        store=FeatureStore(),
        tolerate=recipe.tolerate,
    )
    notes = [*data.notes, *_on_numbers(len(np.unique(groups)), "images", source.shape[1])]
    metrics = HeldOut.from_json(scores.metrics.json)
    chance = {"r1": 1 / max(1, scores.metrics.images), "median_rank": (scores.metrics.images + 1) / 2}
    return Joined(out, LINEAR, fitted.in_words, choices, scale, metrics, chance, len(source), notes), backbone


def _by_sentences(towers, side, asked: JoinOptions, out: Path):
    """Into the space of the image tower's own texts: translations are mapped to what these make of the sentences."""
    towers.need_texts()
    assert asked.sentences is not None
    columns = [name.strip() for name in asked.translated.split(",")] if asked.translated else []
    pairs = read_text_pairs(asked.sentences, columns)
    read, translated = (list(some) for some in zip(*(pairs[row] for row in range(len(pairs))), strict=True))
    if (distinct := len(set(read))) < LEAST_SENTENCES:
        raise ConfigError(
            f"--sentences {asked.sentences}: {distinct} sentences are too few, of which a fifth is held out; give "
            f"{LEAST_SENTENCES} or more"
        )
    target = _features(text_side(towers.spec, lambda spec: towers), read)
    source = _features(side, translated)
    groups = np.unique(np.array(read), return_inverse=True)[1]
    taught, left = split_groups(groups, asked.seed)
    fitted, choices = _fitted(source[taught], target[taught], groups[taught], asked)
    mapped = LinearSpace.of_texts(fitted).text(source[left].float())
    share_found = nearest_share(mapped.double(), target[left].double())
    backbone = JoinedBackbone(towers, side, LinearSpace.of_texts(fitted), float(towers.logit_scale), str(out))
    metrics = HeldOut.from_json({"sentences": len(left), "found": share_found})
    chance = {"found": 1 / len(np.unique(groups[left]))}
    notes = _on_numbers(len(np.unique(groups[taught])), "sentences", source.shape[1])
    scale = float(towers.logit_scale)
    return Joined(out, TEXTS, fitted.in_words, choices, scale, metrics, chance, len(taught), notes), backbone


def _features(side: TextSide, texts: list[str]) -> torch.Tensor:
    """(N, T) unit rows in float64."""
    return torch.nn.functional.normalize(encoded_by_tower(side, texts).double(), dim=1)


def _fitted(source, target, groups, asked: JoinOptions) -> tuple[TowerMap, list[Choice]]:
    if asked.map == AUTO and asked.ridge is None:
        return choose_map(source, target, groups, asked.seed)
    kind = "ridge" if asked.map == AUTO else asked.map
    return fit_map(source, target, kind, asked.ridge), []


def _few_groups(pairs) -> int:
    """How many groups, or images that belong to none, there are; no more than are asked for are counted."""
    seen: set[Any] = set()
    for pair in pairs:
        seen.add(pair.image if pair.group is None else pair.group)
        if len(seen) == LEAST_ROWS:
            break
    return len(seen)


def _on_numbers(pairs: int, what: str, width: int) -> list[str]:
    if pairs >= width:
        return []
    return [
        f"{pairs} {what} for a map from {width} dimensions: of directions that they do not show it knows nothing; more "
        "pairs help most."
    ]


def _by_names(towers, side, asked: JoinOptions, out: Path):
    names = [] if asked.names is None else _read_names(Path(asked.names))
    phi = {} if asked.keep_image is None else {"phi": asked.keep_image}
    space, about = lexical_space(towers, side, names, **phi)
    backbone = JoinedBackbone(towers, side, space, about["scale"], str(out))
    metrics = HeldOut.from_json({"names": about["held_out"], "found": about["found"]})
    fitted_on, chance = len(space.alignment.names), {"found": 1 / about["held_out"]}
    return Joined(out, LEXICAL, OF_NAMES, [], about["scale"], metrics, chance, fitted_on, []), backbone


def _untrained(towers, side, asked: JoinOptions, out: Path):
    """Layers as torch starts them. A text head keeps the image tower's own scale, where it has texts."""
    assert asked.untrained is not None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(asked.seed)
        if asked.untrained == PROJECTIONS:
            space = LinearSpace(towers.embed_dim, side.width, asked.space_width or WIDTH, bias=False, unit=False)
        else:
            space = TextHead(towers.embed_dim, side.width)
    own = asked.untrained != PROJECTIONS and towers.has_text
    scale = float(towers.logit_scale) if own else FIRST_SCALE
    backbone = JoinedBackbone(towers, side, space, scale, str(out))
    return Joined(out, UNTRAINED, asked.untrained, [], scale, HeldOut(), {}, 0, []), backbone


def _read_names(file: Path) -> list[str]:
    names = [line.strip() for line in read_text(file).splitlines() if line.strip()]
    if not names:
        raise DataError(f"--names {file}: holds no name; write one on each line")
    return names


def _facts(made: Joined, image: str, text: str, asked: JoinOptions) -> dict[str, Any]:
    """What joined.json says of how it was made."""
    return {
        "image": image,
        "text": text,
        "map": made.map,
        "of": made.fitted_on,
        "pairs": None if asked.pairs is None else Path(asked.pairs).name,
        "held_out": dict(made.metrics),
        "chance": dict(made.chance),
        "choices": [vars(choice) for choice in made.choices],
    }
