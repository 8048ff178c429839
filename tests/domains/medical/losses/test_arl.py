"""ARL beside the released code and its parts, computed directly; what each term adds, and what is refused."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from parity_checks.knowledge_losses import arl
from safetensors.torch import save_file

from vladapt import ConfigError, DataError, build_loss
from vladapt.core.registry import loss_class
from vladapt.core.runtime.ranks import ONE
from vladapt.core.testing.loss_steps import DIMS
from vladapt.domains.medical.losses._co_attention import PADDING
from vladapt.domains.medical.losses._entity_graph import EntityGraph, softmax_by
from vladapt.domains.medical.losses._mentions import Words, covered
from vladapt.domains.medical.losses._patch_decoder import PatchDecoder, patch_errors
from vladapt.domains.medical.losses.arl import mentioned

WORDS = {
    "effusion": ["pleural effusion", "effusion"],
    "lung": ["lung", "lungs"],
    "edema": ["edema"],
    "wet": ["effusion of the pleura"],
    "big": ["large pleural effusion and edema"],
}
TRIPLES = {"effusion": ["lung", "edema", "elsewhere"], "edema": ["lung"], "lung": ["effusion"]}
SMALL = {"width": 8, "heads": 2, "hidden": 12, "layers": 3, "dropout": 0.0, "patch_layer": 2, "graph_dropout": 0.0}
SMALL |= {"entity_width": 4, "entity_heads": 2, "entity_hidden": 6, "graph_width": 3, "graph_heads": 2}
SMALL |= {"decoder_width": 8, "decoder_layers": 1, "decoder_heads": 2, "entities_per_text": 3}
SMALL |= {"entities": WORDS, "triples": TRIPLES}
TERMS = ("align", "mlm", "mim", "itm")


def built(seed=0, **options):
    torch.manual_seed(seed)
    loss = build_loss("arl", DIMS, **{**SMALL, **options}).eval()
    with torch.no_grad():
        for parameter in loss.parameters():  # away from the start, where all that is made of entities is small
            parameter += 0.5 * torch.randn(parameter.shape)
    return loss


def only(term, **options):
    return built(**{**dict.fromkeys(TERMS, 0), term: 1.0}, **options)


def batch(seed=0, count=6):
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return torch.randn(count, *shape, generator=generator)

    width, inside, patches, words = DIMS["embed_dim"], DIMS["text_width"], DIMS["patches"], 7
    ids = torch.tensor([[0, 1, PADDING], [2, PADDING, PADDING], [PADDING] * 3, [1, 3, 0], [4, 4, 2], [2, 1, PADDING]])
    covers = torch.zeros(count, 3, words, dtype=torch.bool)
    for place in range(3):
        covers[:, place, 2 * place : 2 * place + 2] = (ids[:, place] >= 0)[:, None]
    labels = torch.full((count, words), PADDING)
    labels[0, 2:4], labels[1, 4], labels[4, 0:2] = torch.tensor([3, 5]), 7, torch.tensor([9, 1])
    visible = torch.zeros(count, patches, dtype=torch.bool).scatter(
        1, torch.rand(count, patches).argsort(1)[:, :2], True
    )
    return {
        "image_embedding": drawn(width),
        "image_tokens": drawn(patches, width),
        "text_embedding": drawn(width),
        "text_tokens": drawn(words, inside),
        "text_mask": torch.arange(words) < torch.tensor([7, 6, 5, 7, 6, 7])[:, None],
        "entity_ids": ids,
        "entity_words": covers,
        "image_entities": (drawn(5) > 0).float(),
        "masked_caption": drawn(width),
        "masked_caption_tokens": drawn(words, inside),
        "masked_caption_labels": labels,
        "visible_tokens": drawn(3, width),
        "visible": visible,
        "patch_pixels": drawn(patches, DIMS["patch_values"]),
        "index": torch.arange(count),
    }


def test_graph_alignment_layers_and_patches_are_the_released_ones(agrees):
    """All numbers of the fixture."""
    agrees(arl)


# The graph ------------------------------------------------------------------------------------------------------------


def test_softmax_by_groups_is_that_of_each_group():
    scores, group = torch.randn(9, 2), torch.tensor([0, 2, 2, 0, 1, 2, 0, 0, 1])
    shares = softmax_by(scores, group, 4)
    for number in range(3):
        torch.testing.assert_close(shares[group == number], scores[group == number].softmax(dim=0))


def test_an_entity_gathers_from_the_sources_of_its_edges_alone():
    torch.manual_seed(0)
    graph = EntityGraph(4, [(0, 1), (1, 2), (3, 3)], 6, 3, 2, 0.0)
    reaches = torch.autograd.functional.jacobian(lambda start: _of_start(graph, start), graph.start.detach())
    moved = reaches.abs().amax(dim=(1, 3)) > 0  # (E of the result, E of the start)
    assert moved.tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]]


def test_graph_attention_is_its_equation():
    """An entity at a time; a loop that is given counts once, beside the one that each entity has."""
    torch.manual_seed(1)
    given = [(0, 1), (2, 1), (2, 1), (1, 0), (2, 2)]
    graph = EntityGraph(3, given, 4, 3, 2, 0.0)
    layer, x = graph.first, torch.randn(3, 4)
    h = layer.map(x).view(3, 2, 3)
    edges = [edge for edge in given if edge[0] != edge[1]] + [(place, place) for place in range(3)]
    wanted = torch.zeros(3, 2, 3)
    for target in range(3):
        sources = [source for source, to in edges if to == target]
        for head in range(2):
            scores = [
                F.leaky_relu(h[source, head] @ layer.as_source[head] + h[target, head] @ layer.as_target[head], 0.2)
                for source in sources
            ]
            shares = torch.stack(scores).softmax(dim=0)
            wanted[target, head] = sum(share * h[source, head] for share, source in zip(shares, sources))
    torch.testing.assert_close(layer(x, graph.edges), wanted.flatten(1) + layer.bias)
    inside = F.elu(layer(graph.norm(graph.start), graph.edges))
    torch.testing.assert_close(graph(), graph.second(inside, graph.edges))


def _of_start(graph, start):
    return torch.func.functional_call(graph, {"start": start}, ())


# The layers -----------------------------------------------------------------------------------------------------------


def attended(module, x, seen, there=None):
    """Softmax attention of one sample, written out."""
    of, width = module.attention, x.shape[1]
    size = width // of.num_heads
    q, k, v = (
        F.linear(y, *each)
        for y, each in zip((x, seen, seen), zip(of.in_proj_weight.chunk(3), of.in_proj_bias.chunk(3)))
    )
    heads = []
    for head in range(of.num_heads):
        own = slice(head * size, (head + 1) * size)
        scores = q[:, own] @ k[:, own].T / size**0.5
        if there is not None:
            scores = scores[:, there] if there.any() else scores
        values = v[there] if there is not None and there.any() else v
        heads.append(scores.softmax(dim=1) @ values[:, own])
    return F.layer_norm(x + of.out_proj(torch.cat(heads, dim=1)), (width,), module.norm.weight, module.norm.bias)


def forwarded(module, x):
    first, _, last, _ = module.layers
    return F.layer_norm(x + last(F.gelu(first(x))), x.shape[1:], module.norm.weight, module.norm.bias)


def test_a_layer_is_its_equation():
    """A sample at a time; its words without padding, its entities too unless it has none."""
    loss, out = only("mim"), batch()
    pair = loss._pair(loss._text(out["text_embedding"], out["text_tokens"]), loss._image(out), out, loss.graph())
    text, image = loss.co_attention.of_text[0], loss.co_attention.of_image[0]
    words, entities = text(pair)
    patches, close = image(pair), {"rtol": 1e-4, "atol": 1e-5}
    for row in range(6):
        there, known = pair.text_mask[row] == 0, pair.entity_mask[row] == 0
        asking = attended(text.entity_each_other, pair.entities[row], pair.entities[row], known)
        asking = attended(text.entity_at_image, asking, text.image_map(pair.image[row]))
        if known.any():  # without entities the rows are padding
            torch.testing.assert_close(entities[row], forwarded(text.entity_feed_forward, asking), **close)
        x = attended(text.each_other, pair.text[row], pair.text[row], there)
        x = attended(text.at_image, x, pair.image[row])
        mixed = text.fused(x + pair.covers[row].T @ text.entity_map(asking)) + x
        mixed = F.layer_norm(mixed, mixed.shape[1:], text.norm.weight, text.norm.bias)
        torch.testing.assert_close(words[row], forwarded(text.feed_forward, mixed), **close)
        y = attended(image.each_other, pair.image[row], pair.image[row])
        y = attended(image.at_text, y, pair.text[row], there)
        torch.testing.assert_close(patches[row], forwarded(image.feed_forward, y), **close)


# Mentions -------------------------------------------------------------------------------------------------------------

CAPTIONS = ("pleural effusion in the left lung", "no effusion of the pleura, lungs clear", "Edema.", "nothing")
CAPTIONS += ("large pleural effusion and edema of lungs and lung and lung",)


@pytest.fixture(scope="module")
def words(small_clip):
    return Words(list(WORDS.values()), small_clip)


def test_the_longest_words_that_a_caption_has_are_found_from_left_to_right(words, small_clip):
    tokens = small_clip.tokenize(CAPTIONS)
    mentions = words.find(tokens, small_clip.word_mask(tokens), 3)
    names = list(WORDS)
    told = [[names[place] for place in row if place >= 0] for row in mentions.ids.tolist()]
    assert told == [["effusion", "lung"], ["wet", "lung"], ["edema"], [], ["big", "lung", "lung"]]
    covers = mentions.covers(tokens.shape[1])
    for row, of_words in (
        (0, "pleural effusion"),
        (1, "effusion of the pleura"),
        (4, "large pleural effusion and edema"),
    ):
        alone = small_clip.tokenize([of_words])
        assert tokens[row][covers[row, 0]].tolist() == alone[small_clip.word_mask(alone)].tolist()
    assert not covers[3].any() and (mentions.ids[3] == PADDING).all()


def test_words_that_truncation_cuts_are_not_found(words, small_clip):
    length = small_clip.context_length
    tokens = small_clip.tokenize(["a " * (length - 3) + "edema"])
    assert (words.find(tokens, small_clip.word_mask(tokens), 3).ids == PADDING).all()


def test_tokens_of_a_mention_are_one_unit(words, small_clip):
    tokens = small_clip.tokenize(CAPTIONS[:1])
    mentions = words.find(tokens, small_clip.word_mask(tokens), 3)
    start, end = int(mentions.start[0, 0]), int(mentions.end[0, 0])
    units = covered(mentions, tokens.shape[1])[0]
    assert end - start > 1 and (units[start:end] == start).all()
    assert units[:start].tolist() == list(range(start)) and int(units[end]) == end


# What it makes of a batch ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(small_clip):
    """(the loss, a batch's fields, what it makes of them)."""
    torch.manual_seed(0)
    dims = {
        **DIMS,
        "text_width": small_clip.width("text"),
        "vocab_size": small_clip.vocab_size,
        "patches": 4,
        "patch_values": 192,
    }
    loss = build_loss("arl", dims, **{**SMALL, "masked_words": 0.4, "masked_patches": 0.5})
    loss.prepare(small_clip)
    tokens = small_clip.tokenize([*CAPTIONS] * 8)
    generator = torch.Generator().manual_seed(3)
    fields = {"tokens": tokens, "pixels": torch.randn(40, 3, 16, 16, generator=generator)}
    fields["draws"] = torch.rand(40, 4, 64, generator=generator)
    with torch.no_grad():
        return loss, fields, loss.further_outputs(fields, small_clip)


def test_entities_are_hidden_whole_and_words_at_their_share(made, small_clip):
    _, fields, out = made
    asked, words = out["masked_caption_labels"] >= 0, small_clip.word_mask(fields["tokens"])
    assert (asked <= words).all() and torch.equal(out["masked_caption_labels"][asked], fields["tokens"][asked])
    for row in range(40):
        for span in out["entity_words"][row]:
            assert not span.any() or asked[row][span].all() or not asked[row][span].any()
    assert 0.25 < asked[words].float().mean() < 0.55


def test_hidden_words_change_what_the_text_tower_reads(made, small_clip):
    _, fields, out = made
    plain = small_clip.text_tokens(fields["tokens"])
    asked = (out["masked_caption_labels"] >= 0).any(dim=1)
    gap = (out["masked_caption_tokens"] - plain).abs().amax(dim=(1, 2))
    assert asked.any() and (~asked).any() and (gap[~asked] < 1e-5).all() and (gap[asked] > 1e-3).float().mean() > 0.7
    whole = small_clip.encode_text(fields["tokens"], normalize=False)
    torch.testing.assert_close(out["masked_caption"][~asked], whole[~asked], rtol=1e-4, atol=1e-5)


def test_the_image_tower_sees_the_patches_that_are_not_left_out(made, small_clip):
    _, fields, out = made
    assert out["visible"].sum(dim=1).tolist() == [2] * 40 and out["visible_tokens"].shape == (40, 3, DIMS["embed_dim"])
    with torch.no_grad():
        x = small_clip.embed_image(fields["pixels"][:1])
        some = torch.cat([x[:, :1], x[:, 1:][:, out["visible"][0]]], dim=1)
        some = small_clip.run_blocks("image", some)
        torch.testing.assert_close(out["visible_tokens"][:1, 0], small_clip.pool_image(some, normalize=False))
        torch.testing.assert_close(out["visible_tokens"][:1, 1:], small_clip.project_patches(some))
    corner = fields["pixels"][0, :, :8, :8].permute(1, 2, 0).flatten()  # row, column, channel
    torch.testing.assert_close(out["patch_pixels"][0, 0], corner)


# The terms ------------------------------------------------------------------------------------------------------------


def test_alignment_is_its_equation():
    loss, out = only("align"), batch()
    parts, entities = loss(out), loss.graph()
    value = {"image": 0.0, "text": 0.0}
    for row in range(6):
        for number in range(5):
            for side, here in (
                ("image", out["image_entities"][row, number] == 1),
                ("text", number in out["entity_ids"][row].tolist()),
            ):
                mapped = getattr(loss, f"{side}_map")(out[f"{side}_embedding"][row]) + loss.kinds[side]
                logit = loss.scores[side].layers(mapped) @ entities[number]
                value[side] -= F.logsigmoid(logit if here else -logit) / 30
    torch.testing.assert_close(parts["loss"], value["image"] + value["text"])
    torch.testing.assert_close(parts["align_image"], value["image"])


def test_without_the_whole_report_an_image_has_the_entities_of_its_caption():
    loss, out = only("align", whole_report=False), batch()
    assert "image_entities" not in loss.needs
    labels = mentioned(out["entity_ids"], 5)
    wanted = only("align")({**out, "image_entities": labels})["loss"]
    torch.testing.assert_close(loss(out)["loss"], wanted)


def test_entities_that_lose_words_do_not_take_part_where_words_are_guessed():
    """The first text's second entity has hidden words, and its first has none."""
    loss, out = only("mlm"), batch()
    other = {**out, "entity_ids": out["entity_ids"].clone()}
    other["entity_ids"][0, 1] = 3
    torch.testing.assert_close(loss(other)["loss"], loss(out)["loss"])
    other["entity_ids"][0, 0] = 3
    assert (loss(other)["loss"] - loss(out)["loss"]).abs() > 1e-4


def test_words_are_guessed_at_the_places_that_are_hidden():
    loss, out = only("mlm"), batch()
    known = []
    read = loss.co_attention.forward

    def remember(pair, stop=None):
        known.append(read(pair, stop))
        return known[-1]

    loss.co_attention.forward = remember
    value, labels = loss(out)["loss"], out["masked_caption_labels"]
    hidden = labels >= 0
    scores = loss.word_scores(known[0].text[:, 1:][hidden])
    torch.testing.assert_close(value, F.cross_entropy(scores, labels[hidden]))
    nothing = {**out, "masked_caption_labels": torch.full_like(labels, PADDING)}
    assert loss(nothing)["loss"] == 0


def test_patches_are_drawn_before_a_layer_and_judged_where_they_were_left_out():
    loss, out = only("mim"), batch()
    text = loss._text(out["text_embedding"], out["text_tokens"])
    pair = loss._pair(text, loss._of_image(out["visible_tokens"]), out, loss.graph())
    seen = loss.co_attention(pair, 2).image
    errors = patch_errors(loss.decoder(seen, out["visible"]), out["patch_pixels"])
    torch.testing.assert_close(loss(out)["loss"], errors[~out["visible"]].mean())
    other = {**out, "patch_pixels": torch.where(out["visible"][..., None], 9.0, 0.0) + out["patch_pixels"]}
    torch.testing.assert_close(loss(other)["loss"], loss(out)["loss"])


def test_errors_are_of_patches_less_their_mean_by_their_deviation():
    predicted, patches = torch.randn(2, 3, 8), 3 + 5 * torch.randn(2, 3, 8)
    errors = patch_errors(predicted, patches)
    for row in range(2):
        for place in range(3):
            patch = patches[row, place]
            target = (patch - patch.mean()) / (((patch - patch.mean()) ** 2).sum() / 7 + 1e-6) ** 0.5
            torch.testing.assert_close(errors[row, place], ((predicted[row, place] - target) ** 2).mean())


def test_the_decoder_puts_each_patch_where_it_was():
    decoder = PatchDecoder(3, 4, 5, 8, 0, 2)
    decoder.pixels = decoder.norm = torch.nn.Identity()
    with torch.no_grad():
        decoder.positions.zero_()
    seen, visible = torch.randn(1, 3, 3), torch.tensor([[False, True, False, True]])
    drawn = decoder(seen, visible)[0]
    torch.testing.assert_close(drawn[[1, 3]], decoder.embed(seen[0, 1:]))
    torch.testing.assert_close(drawn[[0, 2]], decoder.hidden.expand(2, -1))


def test_about_half_of_the_images_are_exchanged_with_those_of_others():
    loss = only("itm")
    shown, own = loss.exchanged(torch.arange(400), ONE)
    assert 0.4 < (shown == own).float().mean() < 0.6 and len(shown[shown != own].unique()) == (shown != own).sum()
    order = torch.randperm(400)
    again, _ = loss.exchanged(order, ONE)
    assert torch.equal(order[again], shown[order])  # whatever the order of the batch
    loss.after_step(None)
    assert not torch.equal(loss.exchanged(torch.arange(400), ONE)[0], shown)


def test_matching_reads_the_first_of_both_streams():
    loss, out = only("itm"), batch()
    shown, own = loss.exchanged(out["index"], ONE)
    text, image = loss._text(out["text_embedding"], out["text_tokens"]), loss._image(out)[shown]
    done = loss.co_attention(loss._pair(text, image, out, loss.graph()))
    pooled = [loss.poolers[side](getattr(done, side)[:, 0]).tanh() for side in ("text", "image")]
    wanted = F.cross_entropy(loss.match(torch.cat(pooled, dim=1)), (shown == own).long())
    torch.testing.assert_close(loss(out)["loss"], wanted)
    assert (shown != own).any() and (shown == own).any()


def test_the_loss_is_the_weighted_sum():
    parts = built(mlm=2.0)(batch())
    wanted = parts["align"] + 2.0 * parts["mlm"] + parts["mim"] + 0.1 * parts["itm"]
    torch.testing.assert_close(parts["loss"], wanted)


@pytest.mark.parametrize("term", TERMS)
def test_a_term_of_weight_0_is_left_out_with_what_it_alone_needs(term):
    loss, out = only(term), batch()
    assert set(loss({name: out[name] for name in loss.needs})) >= {"loss", term}
    without = built(**{term: 0})
    assert term not in without(out) and loss.needs - without.needs


@pytest.mark.parametrize("term", ["mlm", "mim", "itm"])
def test_entities_reach_each_term_through_the_co_attention(term):
    """By reasoning alone: what words take from entities, and where entities look."""
    loss, out = only(term), batch()
    value = loss(out)["loss"]
    with torch.no_grad():
        for layer in loss.co_attention.of_text:
            layer.entity_map.weight.zero_()
            layer.entity_map.bias.zero_()
    assert (loss(out)["loss"] - value).abs() > 1e-5


def test_entities_that_nothing_covers_change_no_word():
    loss, out = only("mim"), batch()
    pair = loss._pair(loss._text(out["text_embedding"], out["text_tokens"]), loss._image(out), out, loss.graph())
    bare = replace(pair, covers=torch.zeros_like(pair.covers))
    other = replace(bare, entities=torch.randn_like(pair.entities))
    torch.testing.assert_close(loss.co_attention(bare).text, loss.co_attention(other).text)
    assert not torch.allclose(loss.co_attention(bare).text, loss.co_attention(pair).text, atol=1e-3)


@pytest.fixture(scope="module")
def plain_value():
    return built()(batch(2))["loss"].item()


@pytest.mark.parametrize(
    "option",
    [
        {"width": 4}, {"heads": 4}, {"hidden": 3}, {"layers": 2}, {"entity_width": 6}, {"entity_heads": 1},
        {"entity_hidden": 3}, {"graph_width": 2}, {"graph_heads": 1}, {"patch_layer": 1}, {"decoder_width": 4},
        {"decoder_layers": 2}, {"decoder_heads": 1}, {"align": 2}, {"mlm": 2}, {"mim": 2}, {"itm": 2},
        {"whole_report": False}, {"triples": {"edema": ["wet"]}},
    ],
    ids=str,
)  # fmt: skip
def test_every_option_changes_the_loss(option, plain_value):
    assert abs(built(**option)(batch(2))["loss"].item() - plain_value) > 1e-4


@pytest.mark.parametrize("option", ["dropout", "graph_dropout"])
def test_dropout_counts_in_training_alone(option):
    loss, out = built(**{option: 0.5}), batch(3)
    torch.manual_seed(0)
    assert loss.train()(out)["loss"] != loss(out)["loss"]
    assert loss.eval()(out)["loss"] == loss(out)["loss"]


def test_how_many_entities_take_part_is_an_option(small_clip):
    """All that a caption mentions are its labels."""
    made = {}
    for most in (1, 3):
        loss = only("align", entities_per_text=most)
        loss.prepare(small_clip)
        made[most] = loss.further_outputs({"tokens": small_clip.tokenize(CAPTIONS)}, small_clip)
        assert made[most]["entity_words"].shape == (5, most, small_clip.context_length)
    assert torch.equal(made[1]["entity_ids"], made[3]["entity_ids"])
    assert (mentioned(made[1]["entity_ids"], 5).sum(dim=1) > 1).any()


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    (tmp_path / "entities.csv").write_text("study,entity,text\n1,C1,edema\n2,C2,lung\n2,C1,oedema\n3,C1,edema\n")
    (tmp_path / "triples.csv").write_text("head,relation,tail\nC1,at,C2\nC9,is,C1\nC1,of,C2\n")
    save_file({"entities": torch.arange(8.0).view(2, 4)}, tmp_path / "start.safetensors")
    return {name: str(tmp_path / f"{name}.{kind}") for name, kind in FILES}


FILES = (("entities", "csv"), ("triples", "csv"), ("start", "safetensors"))


def test_entities_triples_and_start_embeddings_come_as_files(files):
    loss = build_loss("arl", DIMS, **{**SMALL, **files})
    assert loss.entities == {"C1": ("edema", "oedema"), "C2": ("lung",)} and loss.triples == {"C1": ("C2", "C2")}
    assert loss.graph.edges.T.tolist() == [[0, 1], [0, 1], [0, 0], [1, 1]]
    torch.testing.assert_close(loss.graph.start.detach(), torch.arange(8.0).view(2, 4))
    assert loss.graph.start.requires_grad and loss.start is None  # from here on it is learned


def test_what_is_saved_names_no_file(files):
    loss = build_loss("arl", DIMS, **{**SMALL, **files})
    again = build_loss("arl", DIMS, **{**SMALL, "entities": loss.entities, "triples": loss.triples})
    again.load_state_dict(loss.state_dict())
    out = {**batch(), "entity_ids": torch.zeros(6, 3, dtype=torch.int64), "image_entities": torch.ones(6, 2)}
    torch.testing.assert_close(again.eval()(out)["loss"], loss.eval()(out)["loss"])


def test_start_embeddings_are_put_in_the_order_of_the_entities(files, tmp_path):
    rows = {"entities": torch.arange(12.0).view(3, 4)}
    save_file(rows, files["start"], metadata={"entities": json.dumps(["C2", "other", "C1"])})
    loss = build_loss("arl", DIMS, **{**SMALL, **files})
    torch.testing.assert_close(loss.graph.start.detach(), rows["entities"][[2, 0]])


def test_words_may_be_json(tmp_path):
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"C1": ["edema", "oedema"], "C2": []}))
    loss = build_loss("arl", DIMS, **{**SMALL, "entities": str(path), "triples": None})
    assert loss.entities == {"C1": ("edema", "oedema"), "C2": ()}


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("entities.csv", "study,text\n1,edema\n", "lacks the column entity"),
        ("entities.csv", "entity,text\nC1,edema\n,lung\n", "line 3: no entity"),
        ("entities.csv", "entity\nC1\n", "no words of any entity"),
        ("entities.json", '{"C1": "edema"}', "entity C1 has no list of words"),
        ("triples.csv", "head,relation\nC1,at\n", "lacks tail"),
        ("triples.csv", "head,tail\nC1,\n", "line 2: a triple without head or tail"),
        ("triples.csv", "head,tail\nC7,C8\n", "no triple joins two of the 2 entities"),
        ("start.safetensors", "nonsense", "cannot be read"),
        ("start.npz", "", "not a safetensors file"),
        ("nothing.csv", None, "cannot be read|no such file"),
    ],
)
def test_bad_files_are_told_in_a_line(files, tmp_path, name, content, why):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    option = "entities" if name.startswith("nothing") else path.stem
    with pytest.raises(ConfigError, match=why):
        build_loss("arl", DIMS, **{**SMALL, **files, option: str(path)})


@pytest.mark.parametrize(
    ("tensors", "metadata", "why"),
    [
        ({"a": torch.zeros(2, 4), "b": torch.zeros(2, 4)}, None, r"none of its tensors \(a, b\) is called entities"),
        ({"entities": torch.zeros(3, 4)}, None, "is 3 x 4, and 2 entities of width 4"),
        ({"entities": torch.zeros(2, 5)}, None, "is 2 x 5, and 2 entities of width 4"),
        ({"entities": torch.full((2, 4), torch.nan)}, None, "some embeddings are no numbers"),
        ({"entities": torch.zeros(2, 4)}, {"entities": '["C1", "C5"]'}, "no row for entity C2"),
        ({"entities": torch.zeros(2, 4)}, {"entities": "nonsense"}, "cannot be read"),
    ],
)
def test_bad_start_embeddings_are_told_in_a_line(files, tensors, metadata, why):
    save_file(tensors, files["start"], metadata=metadata)
    with pytest.raises(ConfigError, match=why):
        build_loss("arl", DIMS, **{**SMALL, **files})


def test_entities_of_the_data_have_to_be_those_of_the_words(files):
    named = loss_class("arl").named
    assert named({}, {"entities": ("C1", "C2")})["entities"] == {"C1": ["C1"], "C2": ["C2"]}
    assert list(named({"entities": files["entities"]}, {"entities": ("C1", "C2")})["entities"]) == ["C1", "C2"]
    assert named({}, {}) == {}
    with pytest.raises(ConfigError, match=r"are not those of the data \(1\).*one file to both"):
        named({"entities": files["entities"]}, {"entities": ("C1",)})
    with pytest.raises(DataError, match="2 entities per image, and 5"):
        only("align")({**batch(), "image_entities": torch.ones(6, 2)})


def test_what_cannot_be_is_told():
    for options, why in (
        ({"heads": 3}, "width=8 does not divide into heads=3"),
        ({"entity_heads": 3}, "entity_width=4 does not divide into entity_heads=3"),
        ({"patch_layer": 4}, "patch_layer=4, and there are 3 layers"),
        ({"entities": {}}, "option entities names none"),
    ):
        with pytest.raises(ConfigError, match=why):
            built(**options)
