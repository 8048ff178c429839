"""TL;DR's codebook: both terms beside loops written out, codes that take part, and drawn scenes it tells apart."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from rank_jobs import rows_of

from vladapt import CapabilityError, ConfigError, build_loss, load_backbone
from vladapt.core.backbones.finders import saved_part
from vladapt.core.backbones.load import save_fine_tuned
from vladapt.core.losses.codebook import tokens_of
from vladapt.core.runtime.ranks import ONE
from vladapt.core.tasks.pretraining.options import plan_of_recipe
from vladapt.core.testing.processes import workers
from vladapt.core.testing.thread_ranks import as_ranks
from vladapt.core.testing.towers import plain_towers
from vladapt.core.training.model import dims_of
from vladapt.core.training.optimizer import epoch_rates
from vladapt.core.training.parts import TrainingTask, objective_of

DIMS = {"image_width": 8, "vocab_size": 9}
NARROW = {"count": 5, "layers": 2, "heads": 2}


def built(seed: int = 0, **options):
    torch.manual_seed(seed)
    return build_loss("codebook", DIMS, **{**NARROW, **options})


def example(seed: int = 0, images: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(0, 9, (images, 6), generator=generator)
    words[0, 4:], words[-1, 2:] = -100, -100
    return {"image_places": torch.randn(images, 4, 8, generator=generator), "caption_words": words}


def test_both_terms_are_loops_written_out():
    loss, out = built().double(), example()
    places, words = out["image_places"].double(), out["caption_words"]
    parts = loss({"image_places": places, "caption_words": words})
    distances, missed, seen, used = [], [], torch.empty_like(places), set()
    for i, image in enumerate(places):
        for p, token in enumerate(image):
            nearest = min(range(5), key=lambda k, token=token: ((token - loss.codes[k]) ** 2).sum().item())
            used.add(nearest)
            seen[i, p] = loss.codes[nearest].detach()
            distances += ((token - loss.codes[nearest]) ** 2).tolist()
    for i, caption in enumerate(words):
        known = [int(word) for word in caption if word >= 0]
        for at, word in enumerate(known):
            x = loss.embed(torch.tensor([0, *(1 + before for before in known[:at])])) + loss.places.weight[: at + 1]
            x = loss.norm(x)[None]
            causal = torch.triu(torch.full((at + 1, at + 1), -torch.inf, dtype=torch.float64), diagonal=1)
            for layer in loss.decoder:
                x = layer(x, seen[i : i + 1], tgt_mask=causal)
            scores = loss.embed.weight[1:] @ loss.head(x)[0, -1] + loss.bias
            missed.append(scores.logsumexp(dim=0) - scores[word])
    torch.testing.assert_close(parts["words"], torch.stack(missed).mean())
    torch.testing.assert_close(parts["codes"].item(), 1.25 * float(np.mean(distances)))
    torch.testing.assert_close(parts["loss"], parts["words"] + parts["codes"])
    assert int(parts["used"]) == len(used)


def test_the_decoder_sees_an_image_by_its_codes_alone():
    loss, out = built(), example()
    loss.codes.data.copy_(out["image_places"].flatten(0, 1)[:5])
    out["image_places"] += 0.1
    words = loss(out)["words"]
    near = loss.codes[loss.nearest(out["image_places"])].detach()
    torch.testing.assert_close(loss({**out, "image_places": near})["words"], words)
    assert (loss({**out, "image_places": near.flip(0)})["words"] - words).abs() > 1e-4


def test_gradients_pass_from_codes_to_tokens_unchanged():
    """Those of the words as if a token were its code; those of the codes as of two distances."""
    loss, out = built(), example()
    places = out["image_places"].requires_grad_()
    nearest = loss.nearest(places)
    near = loss.codes[nearest].detach().requires_grad_()
    known = (out["caption_words"] >= 0).sum()
    (through,) = torch.autograd.grad(loss.words_missed(near, out["caption_words"]) / known, near)
    loss(out)["loss"].backward()
    towards = 2 * 0.25 * (places - near).detach() / places.numel()
    torch.testing.assert_close(places.grad, through + towards)
    pulled = torch.zeros_like(loss.codes)
    for k, difference in zip(nearest.flatten(), (near - places).detach().flatten(0, 1)):
        pulled[k] += 2 * difference / places.numel()
    torch.testing.assert_close(loss.codes.grad, pulled)


@pytest.mark.parametrize("ranks", [1, 2])
def test_idle_codes_are_put_where_tokens_are(ranks):
    losses, out = [built(idle=1) for _ in range(ranks)], example(images=4)
    tokens, used = out["image_places"].flatten(0, 1), torch.tensor([True, False, True, True, False])
    for loss in losses:
        loss.codes.data[~used] += 100
    start = losses[0].codes.detach().clone()

    def step(rank: int) -> None:
        each = slice(rank * 4 // ranks, (rank + 1) * 4 // ranks)
        losses[rank]({name: value[each] for name, value in out.items()})
        losses[rank].after_step(None)

    as_ranks(ranks, step) if ranks > 1 else step(0)
    for loss in losses:
        torch.testing.assert_close(loss.codes.detach(), torch.where(used[:, None], start, tokens[[0, 3, 6, 9, 12]]))
    again = losses[0].codes.detach().clone()
    losses[0](out)
    losses[0].after_step(None)
    torch.testing.assert_close(losses[0].codes.detach(), again)  # all were used, or not for one step


def test_codes_stay_where_none_is_to_be_moved():
    loss = built(idle=0)
    start = loss.codes.detach().clone()
    loss(example())
    loss.after_step(None)
    torch.testing.assert_close(loss.codes.detach(), start)


@pytest.mark.parametrize(
    "options", [{"count": 3}, {"beta": 1.0}, {"layers": 1}, {"heads": 4}], ids=lambda options: next(iter(options))
)
def test_options_change_the_loss(options):
    assert (built(**options)(example())["loss"] - built()(example())["loss"]).abs() > 1e-6


def test_captions_are_cut_off(small_clip):
    loss = build_loss("codebook", dims_of(small_clip, 1), **NARROW, longest=4)
    tokens = small_clip.tokenize(["a dog", "a dog and a cat"])
    out = loss.further_outputs({"pixels": small_clip.blank_image().expand(2, -1, -1, -1), "tokens": tokens}, small_clip)
    assert torch.equal(out["caption_words"], tokens[:, :4])  # start, two words and the end; start and three words
    whole = build_loss("codebook", dims_of(small_clip, 1), **NARROW)
    out = whole.further_outputs(
        {"pixels": small_clip.blank_image().expand(2, -1, -1, -1), "tokens": tokens}, small_clip
    )
    assert out["caption_words"][0, 4:].eq(-100).all() and out["image_places"].shape == (2, 5, 32)


def scenes(count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tokens of images of three kinds among noise, captions that name them, and the kinds."""
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randint(0, 3, (count,), generator=generator)
    places = 0.3 * torch.randn(count, 6, 8, generator=generator)
    places[torch.arange(count), torch.randint(0, 6, (count,), generator=generator), kinds] += 3.0
    return places, torch.stack([torch.full((count,), 7), kinds, torch.full((count,), 8)], dim=1), kinds


def test_it_learns_to_say_what_drawn_scenes_show():
    loss = built(count=8, layers=1)
    places, words, kinds = scenes(60)
    optimizer = torch.optim.AdamW(loss.parameters(), lr=1e-2)
    for _ in range(120):
        parts = loss({"image_places": places, "caption_words": words})
        optimizer.zero_grad()
        parts["loss"].backward()
        optimizer.step()
        loss.after_step(None)
    assert parts["words"] < 0.1 < np.log(3) / 3 and parts["used"] >= 4
    shares = (loss.counts(loss.nearest(places)) / 6).sqrt()
    means = F.normalize(torch.stack([shares[kinds == kind].mean(dim=0) for kind in range(3)]), dim=1)
    assert ((shares @ means.T).argmax(dim=1) == kinds).float().mean() > 0.95


def test_another_process_tells_the_same_codes(small_clip_spec, tmp_path, forked_workers):
    backbone = load_backbone(small_clip_spec, device="cpu")
    loss = build_loss("codebook", dims_of(backbone, 1), **NARROW)
    loss.prepare(backbone)
    with torch.no_grad():
        loss.codes.copy_(tokens_of(backbone, torch.rand(1, 3, 16, 16))[0])
    backbone.finder, backbone.compares = saved_part(loss), False
    assert set(backbone.finder.state_dict()) == {"codes", "idle_steps"}
    path = save_fine_tuned(backbone, tmp_path)
    pixels = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    told = workers(2).run(rows_of, {"spec": f"projected:{path}", "pixels": pixels})[1]
    rows = told["rows"]
    assert not told["has_text"] and rows.shape == (4, 5)
    torch.testing.assert_close(rows, loss.embed_image(backbone, pixels))
    shares = [np.bincount(each, minlength=5) / 5 for each in loss.nearest(tokens_of(backbone, pixels)).numpy()]
    torch.testing.assert_close(rows, torch.tensor(np.sqrt(shares), dtype=torch.float32))
    assert len({tuple(row) for row in rows.tolist()}) > 1


def test_what_it_cannot_be_trained_on_is_told_in_a_line(small_clip):
    with pytest.raises(ConfigError, match="option heads=3 is not usable; the image tower's width of 8 is no multiple"):
        built(heads=3)
    with pytest.raises(CapabilityError, match=r"needs dims\['vocab_size'\] for its captions"):
        build_loss("codebook", {"image_width": 8}, **NARROW)
    with pytest.raises(ConfigError, match="layers=0: nothing writes captions; give 1 or more"):
        built(layers=0).prepare(small_clip)
    with pytest.raises(CapabilityError, match=r"as wide as the feature made of them, and .* has 32"):
        built().prepare(small_clip)
    with pytest.raises(CapabilityError, match="finds images by their codes"):
        built().embed_text(small_clip, small_clip.tokenize(["a dog"]))


def test_tokens_of_one_process_are_spread_evenly():
    places = torch.arange(12.0).reshape(3, 4, 1)
    assert built().some(places, ONE).flatten().tolist() == [0, 2, 4, 7, 9]


def test_towers_that_cannot_be_are_refused_before_the_loss_is_built():
    task = TrainingTask(source=None, losses={"codebook": 1.0})
    with pytest.raises(CapabilityError, match="has no transformer blocks of the image tower"):
        objective_of(plain_towers(), task)


def test_the_recipe_has_the_published_rates(tmp_path):
    made = plan_of_recipe("codebook", losses=None, settings={}, sets=[], backbone="embedded", out=str(tmp_path))
    settings = made.settings
    assert made.losses == {"codebook": 1.0}
    assert (settings.epochs, settings.lr, settings.weight_decay, settings.warmup) == (20, 3e-4, 0.05, 0)
    assert epoch_rates(settings) == pytest.approx([0.9**epoch for epoch in range(20)])
