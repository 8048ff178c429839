"""IRRA: its parts beside the released code, what each of them does, and one step beside a loop written out."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_checks import person_search

from vladapt import CapabilityError, ConfigError, build_loss
from vladapt.core.recipes.resolve import resolve
from vladapt.core.testing.loss_steps import DIMS, example_outputs
from vladapt.core.training.objective import Objective
from vladapt.core.training.optimizer import build_optimizer
from vladapt.core.training.settings import TrainingSettings
from vladapt.core.training.train import TrainingTask, train
from vladapt.domains.person.losses._interaction import NOT_ASKED, InteractionEncoder, hide_words

NARROW = {"depth": 1, "most_words": 30}


@pytest.mark.parametrize("comparison", [*person_search.GROUPS, person_search.scores], ids=lambda of: of.run.__name__)
def test_numbers_are_those_of_the_released_code(agrees, comparison):
    agrees(comparison)


# the loss


@pytest.fixture
def irra():
    """`irra(**options)`: the loss, and outputs that it takes."""

    def build(**options):
        torch.manual_seed(3)
        loss = build_loss("irra", DIMS, width=16, depth=1, **options)
        return loss, example_outputs(loss.needs, 1, loss.outputs)

    return build


def test_it_is_the_weighted_sum_of_its_parts(irra):
    loss, out = irra(sdm=0.5, words=2.0)
    values = loss(out)
    torch.testing.assert_close(values["loss"], 0.5 * values["sdm"] + values["identity"] + 2 * values["words"])
    pair = {"image_features": out["image_embedding"], "text_features": out["text_embedding"], "labels": out["labels"]}
    torch.testing.assert_close(values["sdm"], build_loss("sdm")(pair)["loss"])
    torch.testing.assert_close(values["identity"], loss.of_people(out)["loss"])
    torch.testing.assert_close(values["words"], loss.of_words(out)["loss"])


@pytest.mark.parametrize("part", ["sdm", "identity", "words"])
def test_a_part_of_weight_0_is_left_out_with_what_it_needs(irra, part):
    whole, out = irra()
    loss, _ = irra(**{part: 0.0})
    assert part not in loss(out) and loss(out)["loss"] < whole(out)["loss"]
    asked = {"words": {"image_tokens", "hidden_caption", "hidden_words"}}.get(part, set())
    assert whole.needs - loss.needs == asked


def test_as_released_pairs_and_identities_read_hidden_words(irra):
    whole, out = irra()
    leaking, _ = irra(leak=True)
    assert leaking.needs == whole.needs - {"text_embedding"} | {"hidden_text"}
    values, hidden = whole(out), {**out, "hidden_text": out["text_embedding"].flip(0)}
    del hidden["text_embedding"]
    for part in ("sdm", "identity"):
        assert abs(leaking(hidden)[part] - values[part]) > 1e-4
    torch.testing.assert_close(leaking(hidden)["words"], values["words"])


def test_unusable_options_are_refused():
    with pytest.raises(ConfigError, match="leak=True without masked words"):
        build_loss("irra", DIMS, words=0, leak=True)
    for name in ("identity", "cmpm-cmpc"):
        with pytest.raises(CapabilityError, match=r"this set names none.*give a column 'identity'"):
            build_loss(name, {"embed_dim": 4})
    with pytest.raises(ConfigError, match="both weights are 0"):
        build_loss("cmpm-cmpc", DIMS, cmpm=0, cmpc=0)


def test_nobody_has_no_identity():
    for name in ("identity", "cmpm-cmpc"):
        torch.manual_seed(0)
        loss = build_loss(name, DIMS, **({"cmpm": 0} if name == "cmpm-cmpc" else {}))
        out = example_outputs(loss.needs)
        named = {**out, "labels": torch.tensor([0, 1, 2, -1, 1, -1, 0, 2])}
        kept = {key: value[named["labels"] >= 0] for key, value in named.items()}
        torch.testing.assert_close(loss(named)["loss"], loss(kept)["loss"])


def test_even_targets_are_those_of_the_paper():
    loss = build_loss("cmpm-cmpc", DIMS, cmpc=0, even_targets=True, epsilon=1e-9)
    out = example_outputs(loss.needs)
    same = (out["labels"][:, None] == out["labels"]).float()
    q = same / same.sum(dim=1, keepdim=True)
    total = 0.0
    for a, b in (("image_embedding", "text_embedding"), ("text_embedding", "image_embedding")):
        p = (out[a] @ F.normalize(out[b], dim=1).T).softmax(dim=1)
        total += (p * (p.log() - (q + 1e-9).log())).sum(dim=1).mean()
    torch.testing.assert_close(loss(out)["loss"], total)
    assert abs(loss(out)["loss"] - build_loss("cmpm-cmpc", DIMS, cmpc=0, epsilon=1e-9)(out)["loss"]) > 1e-3


# hidden words


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9), st.floats(0.05, 1.0))
def test_words_alone_are_hidden_and_one_at_least(seed, length, share):
    generator = torch.Generator().manual_seed(seed)
    words, mask = range(10, 40), 99
    tokens = torch.zeros(3, 12, dtype=torch.int64)
    tokens[:, 0], tokens[:, length + 1] = 1, 2
    tokens[:, 1 : length + 1] = torch.randint(10, 40, (3, length), generator=generator)
    others = torch.randint(10, 40, tokens.shape, generator=generator)
    chosen = torch.rand(tokens.shape, generator=generator)
    hidden, labels = hide_words(tokens, chosen, others, mask_token=mask, word_ids=words, share=share)
    asked = labels != NOT_ASKED
    assert asked.any(dim=1).all() and torch.equal(labels[asked], tokens[asked])
    assert torch.equal(hidden[~asked], tokens[~asked])
    assert not asked[(tokens < 10) | (tokens >= 40)].any()
    assert ((hidden == mask) | (hidden == tokens) | (hidden == others))[asked].all()


def test_shares_are_those_of_bert():
    torch.manual_seed(0)
    tokens = torch.full((400, 100), 20)
    others = torch.full_like(tokens, 30)
    hidden, labels = hide_words(
        tokens, torch.rand(tokens.shape), others, mask_token=99, word_ids=range(10, 40), share=0.15
    )
    asked = labels != NOT_ASKED
    assert abs(float(asked.float().mean()) - 0.15) < 0.01
    shares = [float((hidden[asked] == token).float().mean()) for token in (99, 30, 20)]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.02)


def test_hidden_words_are_guessed_from_the_image():
    """Scores depend on the image and on every other word, and on nothing of other samples."""
    torch.manual_seed(0)
    encoder = InteractionEncoder(16, 8, 2, 11)
    words, image, asked = torch.randn(2, 4, 16), torch.randn(2, 5, 16), torch.ones(2, 4, dtype=torch.bool)
    scores = encoder(words, image, asked).view(2, 4, 11)
    torch.testing.assert_close(encoder(words, image.flip(1), asked).view(2, 4, 11), scores)  # patches have no order
    other = encoder(words, torch.cat([image[:1], torch.randn(1, 5, 16)]), asked).view(2, 4, 11)
    torch.testing.assert_close(other[0], scores[0])
    assert (other[1] - scores[1]).abs().max() > 1e-3
    changed = words.clone()
    changed[0, 3] += 1
    assert (encoder(changed, image, asked).view(2, 4, 11)[0, 0] - scores[0, 0]).abs().max() > 1e-4


# the training


def test_rates_and_decay_of_all_that_trains(fresh_clip):
    """Of the packaged recipe: towers, their biases, the new layers, theirs."""
    chosen = resolve(recipe="person/irra").adapter
    how = TrainingSettings(lr=1e-5, weight_decay=4e-5, epochs=60, warmup=5.0, **chosen["training"])
    fresh_clip.model.requires_grad_(True)
    objective = Objective({"irra": build_loss("irra", DIMS, depth=1)})
    made = build_optimizer(fresh_clip, [objective], how).optimizer
    assert type(made) is torch.optim.Adam and made.defaults["eps"] == 1e-3
    rates = {p: (group["lr"], group["weight_decay"]) for group in made.param_groups for p in group["params"]}
    for name, parameter in fresh_clip.model.named_parameters():
        assert rates[parameter] == ((2e-5, 0.0) if "bias" in name else (1e-5, 4e-5)), name
    for name, parameter in objective.named_parameters():
        rate = 5e-5 if any(part in name for part in ("cross", "classifier", "mlm_head")) else 1e-5
        if "bias" in name and "classifier" not in name and "mlm_head" not in name:
            rate = 2e-5
        assert rates[parameter] == pytest.approx((rate, 0.0 if "bias" in name else 4e-5)), name


def test_a_step_is_the_loop_written_out(fresh_clip, people):
    """Two steps by the published settings on whole towers, beside plain torch."""
    source = people(4)
    chosen = {**resolve(recipe="person/irra").adapter["training"], "warmup_lr": 1e-4}
    how = TrainingSettings(
        lr=1e-3, weight_decay=4e-5, epochs=2, warmup=1.0, batch_size=8, seed=5, micro_batch_size=None, **chosen
    )
    size = (fresh_clip.image_size, fresh_clip.image_size)
    pixels = torch.stack([plain(source.image(row), size) for row in range(8)])
    rates, kept, batches = [1e-4, 1e-3], {}, []

    def note(done, total, values):
        kept[done] = values["loss"]

    loss_options = {"irra": NARROW}
    reference = Written(fresh_clip, source, pixels, seed=5)
    train(
        fresh_clip,
        TrainingTask(source, {"irra": 1.0}, loss_options, view=lambda image, seed: plain(image, size)),
        how,
        None,
        on_step=note,
    )
    for step, rate in enumerate(rates, start=1):
        batches.append(reference.step(step - 1, rate))
        assert kept[step] == pytest.approx(batches[-1], rel=1e-4), step
    trained = dict(fresh_clip.model.named_parameters())
    moved = 0.0
    for name, wanted in reference.model.named_parameters():
        torch.testing.assert_close(trained[name], wanted.data, rtol=1e-4, atol=2e-6, msg=name)
        moved = max(moved, float((wanted - reference.start[name]).detach().abs().max()))
    assert moved > 1e-5


def plain(image, size):
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 127.5 - 1
    return F.interpolate(pixels, size=size)[0]


class Written:
    """IRRA's step: formulas, masking, groups and Adam in plain torch, on a copy of towers and heads."""

    def __init__(self, backbone, source, pixels, seed):
        from vladapt.core.training.model import dims_of
        from vladapt.core.training.samples import DRAWS, seed_of
        from vladapt.core.training.tower_weights import copy_of
        from vladapt.core.training.train import seed_everything

        self.backbone, self.source, self.pixels = copy_of(backbone), source, pixels
        self.model = self.backbone.model.requires_grad_(True)
        self.start = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        seed_everything(seed)
        self.heads = build_loss("irra", dims_of(self.backbone, 8, None, None, 4), **NARROW)
        self.draws = lambda epoch, row: torch.rand(
            4, DRAWS, generator=torch.Generator().manual_seed(seed_of(seed, epoch, row, 50))
        )
        self.labels = torch.arange(8) // 2
        named = [*self.model.named_parameters(), *self.heads.named_parameters()]
        self.moments = {name: [torch.zeros_like(p), torch.zeros_like(p)] for name, p in named}
        self.steps = 0

    def step(self, epoch, rate):
        loss = self.loss(epoch)
        named = dict([*self.model.named_parameters(), *self.heads.named_parameters()])
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        self.steps += 1
        with torch.no_grad():
            for (name, parameter), gradient in zip(named.items(), gradients):
                if gradient is not None:
                    self.adam(name, parameter, gradient, rate)
        return float(loss.detach())

    def adam(self, name, parameter, gradient, rate):
        bias = "bias" in name
        if any(part in name for part in ("classifier", "mlm_head")):
            rate = 5 * rate
        elif bias:
            rate = 2 * rate
        elif "cross" in name:
            rate = 5 * rate
        gradient = gradient + (0.0 if bias else 4e-5) * parameter
        first, second = self.moments[name]
        first.mul_(0.9).add_(0.1 * gradient)
        second.mul_(0.999).add_(0.001 * gradient**2)
        mean, square = first / (1 - 0.9**self.steps), second / (1 - 0.999**self.steps)
        parameter -= rate * mean / (square.sqrt() + 1e-3)

    def loss(self, epoch):
        b, tokens = self.backbone, self.backbone.tokenize([self.source.text("caption", row, epoch) for row in range(8)])
        image = b.encode_image(self.pixels, normalize=False)
        patches, _ = b.image_tokens(self.pixels)
        text = b.encode_text(tokens, normalize=False)
        same = (self.labels[:, None] == self.labels).float()
        targets = same / same.sum(dim=1)
        cosines = 50 * F.normalize(image, dim=1) @ F.normalize(text, dim=1).T
        sdm = sum(
            (x.softmax(1) * (x.log_softmax(1) - (targets + 1e-8).log())).sum(1).mean() for x in (cosines, cosines.T)
        )
        classifier = self.heads.of_people.classifier
        identity = sum(F.cross_entropy(classifier(x), self.labels) for x in (image, text)) / 2
        return sdm + identity + self.hidden(epoch, tokens[:, :30], image, patches)

    def hidden(self, epoch, tokens, image, patches):
        shown, asked, mask = tokens.clone(), [], self.model.vocab_size - 3  # the last pair that is joined
        for row in range(8):
            draws, before = self.draws(epoch, row), len(asked)
            for place in range(30):
                number, other = float(draws[0, place]), float(draws[2, place])
                if 1 <= int(tokens[row, place]) < mask and number < 0.15:
                    asked.append((row, place))
                    if number < 0.15 * 0.8:
                        shown[row, place] = mask
                    elif number < 0.15 * 0.9:
                        shown[row, place] = 1 + math.floor(other * (mask - 1))
            if len(asked) == before:
                asked.append((row, 1))
                shown[row, 1] = mask
        model = self.model
        x = model.token_embedding(shown) + model.positional_embedding[:30]
        causal = torch.full((30, 30), -math.inf).triu(1)
        for block in model.transformer.resblocks:
            x = block(x, attn_mask=causal)
        words = model.ln_final(x) @ model.text_projection
        rows, places = torch.tensor(asked).T
        mask = torch.zeros(8, 30, dtype=torch.bool)
        mask[rows, places] = True
        scores = self.heads.of_words.encoder(words, torch.cat([image[:, None], patches], dim=1), mask)
        return F.cross_entropy(scores, tokens[mask])
