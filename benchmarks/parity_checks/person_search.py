"""IRRA's objectives, how it hides words and at which rates it learns; CMPM and CMPC; person search as it is scored."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vladapt import build_loss
from vladapt.core.metrics.retrieval import rankings
from vladapt.core.recipes.resolve import resolve
from vladapt.core.training.optimizer import epoch_rates
from vladapt.core.training.settings import TrainingSettings
from vladapt.domains.person.losses._interaction import NOT_ASKED, hide_words

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

PAIR = {"image_embedding": "image", "text_embedding": "text"}


@compares("identity", "loss_irra")
def identity(ref: Reference, f: Fixtures) -> Iterator[Check]:
    width, people = ref["id_classifier"].shape
    loss = build_loss("identity", {"embed_dim": width, "num_labels": people})
    loss.classifier.weight.data.copy_(ref["id_classifier"].T)
    yield from ref.check_loss(loss, PAIR, {"labels": ref["pid"]}, {"id": "loss"}, "id_")


@compares("masked-words", "loss_irra")
def words_found(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """The loss of scores as they are given, where the encoder would make them."""
    scores, labels = ref["mlm_scores"], ref["mlm_labels"]
    loss = build_loss("masked-words", {"embed_dim": 64, "vocab_size": scores.shape[1]}, depth=1)
    loss.encoder = _Given(scores[None])
    image = torch.zeros(1, 64)
    out = {"image_embedding": image, "image_tokens": image[:, None], "hidden_caption": torch.zeros(1, len(labels), 64)}
    out["hidden_words"] = torch.where(labels > 0, labels, NOT_ASKED)[None]
    yield ref.check(loss(out)["loss"], "mlm")


class _Given(nn.Module):
    def __init__(self, scores: Tensor):
        super().__init__()
        self.scores = scores

    def forward(self, words: Tensor, image: Tensor, asked: Tensor) -> Tensor:
        return self.scores.flatten(0, 1)[asked.flatten()]


@compares("masked-words", "irra_protocol")
def words_hidden(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """With the draws of the released code; 0 stands there where nothing is asked."""
    mask_token, share = int(ref.setting("mask_token")), ref.setting("mask_probability")
    tokens, ids = ref["tokens"], range(1, mask_token)
    chosen, others = released_draws(tokens, ids, share, int(ref.setting("seed")))
    hidden, labels = hide_words(tokens, chosen, others, mask_token=mask_token, word_ids=ids, share=share)
    yield ref.check(hidden, "mlm_ids")
    yield ref.check(torch.where(labels == NOT_ASKED, 0, labels), "mlm_labels")
    yield ref.check(hidden, "caption_ids_released", "what `leak` reads")


def released_draws(tokens: Tensor, ids: range, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """(B, L) the number drawn for each word, 1 for what is none, and the word that replaces it where one does."""
    draw = random.Random(seed)
    chosen, others = torch.ones(tokens.shape, dtype=torch.float64), torch.zeros_like(tokens)
    for row, caption in enumerate(tokens.tolist()):
        for place, token in enumerate(caption):
            if token in ids:
                number = draw.random()
                chosen[row, place] = number
                if 0.8 <= number / share < 0.9:
                    others[row, place] = draw.choice(ids)
    return chosen, others


@compares("irra", "irra_protocol")
def protocol(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """The packaged recipe: rates of each epoch, rate and decay of each parameter."""
    settings = irra_settings(ref.setting("epochs"), ref.setting("warmup_epochs"), ref.setting("warmup_factor"))
    rates = torch.tensor(epoch_rates(settings), dtype=torch.float64)
    yield ref.check(rates[:, None] * torch.tensor([1e-5, 5e-5, 2e-5], dtype=torch.float64), "lr")
    loss = build_loss("irra", {"embed_dim": 64, "num_labels": 3, "vocab_size": 9}, depth=1)
    groups = [rate_and_decay(name, loss, settings) for name in ref.setting("names")]
    yield ref.check([rate for rate, _ in groups], "group_lr")
    yield ref.check([decay for _, decay in groups], "group_weight_decay")
    yield ref.check(settings.eps, "adam_eps")


def irra_settings(epochs: int, warmup: float, factor: float) -> TrainingSettings:
    """Of the packaged recipe, for a training of other lengths."""
    adapter = resolve(recipe="person/irra").adapter
    training = {**adapter["training"], "warmup_lr": factor * adapter["lr"]}
    return TrainingSettings(
        lr=adapter["lr"], weight_decay=adapter["weight_decay"], epochs=epochs, warmup=float(warmup), **training
    )


def rate_and_decay(name: str, loss, settings: TrainingSettings) -> tuple[float, float]:
    """Of a parameter that the released code calls so: of a tower, or of ours that stands in its place."""
    decay = 0.0 if "bias" in name else settings.weight_decay
    if name.startswith("base_model."):
        return settings.lr * (settings.bias_rate if "bias" in name else 1.0), decay
    ours = f"of_people.{name}" if name.startswith("classifier") else f"of_words.encoder.{name}"
    return settings.lr * loss.rate_of(ours, settings.head_rate, settings.bias_rate), decay


@compares("cmpm-cmpc", "loss_cmpm_cmpc")
def cmpm_cmpc(ref: Reference, f: Fixtures) -> Iterator[Check]:
    for part, other in (("cmpm", "cmpc"), ("cmpc", "cmpm")):
        dims = {"embed_dim": ref["W"].shape[0], "num_labels": ref["W"].shape[1]}
        loss = build_loss("cmpm-cmpc", dims, epsilon=ref.setting("epsilon"), **{other: 0.0})
        if part == "cmpc":
            loss.classifier.data.copy_(ref["W"])
        yield from ref.check_loss(loss, PAIR, {"labels": ref["labels"]}, {part: "loss"}, f"{part}_")


@compares("cmpm-cmpc", "loss_irra")
def cmpm(ref: Reference, f: Fixtures) -> Iterator[Check]:
    loss = build_loss("cmpm-cmpc", {}, cmpc=0.0)
    yield from ref.check_loss(loss, PAIR, {"labels": ref["pid"]}, {"cmpm": "loss"}, "cmpm_")


@compares("clip", "loss_irra")
def contrast(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """IRRA's `itc`: CLIP's loss at its fixed scale."""
    leaves = ref.leaves(PAIR)
    image, text = (F.normalize(leaf, dim=1) for leaf in leaves.values())
    scale = torch.tensor(float(ref.setting("scale")))
    value = build_loss("clip")({"image_features": image, "text_features": text, "logit_scale": scale})["loss"]
    value.backward()
    yield ref.check(value, "itc")
    yield from ref.check_gradients(leaves, PAIR, "itc_")


@compares("person-search", "metrics_reid")
def scores(ref: Reference, f: Fixtures) -> Iterator[Check]:
    """Of similarities: a query's row times the gallery's unit vectors gives them back."""
    similarity = ref["similarity"]
    ranked = rankings(similarity, torch.eye(similarity.shape[1]), ref["query_pids"], ref["gallery_pids"])
    found = ranked.metrics(penalty=True)
    yield ref.check([100 * share for share in ranked.cmc(ref["cmc"].numel())], "cmc")
    yield ref.check(100 * found["map"], "mAP")
    yield ref.check(100 * found["minp"], "mINP")


GROUPS = (identity, words_found, words_hidden, protocol, cmpm_cmpc, cmpm, contrast)
"""Of objectives; `scores` is of the task."""
