"""Text embeddings as a part of models: carried, moved and saved with them, replaced by name."""

import pytest
import torch
from torch import nn

from vladapt import CapabilityError, ConfigError
from vladapt.domains.open_vocab.text_embeddings import TextEmbeddings, set_classes
from vladapt.domains.open_vocab.vocabulary import NamedClasses, Vocabulary, embed_classes


class Taker(nn.Module, NamedClasses):
    """Takes names and keeps them."""

    def __init__(self, templates=None):
        super().__init__()
        if templates is not None:
            self.templates = templates

    def take_classes(self, vocabulary):
        self.taken = vocabulary


class Head(Taker):
    """A decode head as mmseg's segmentors copy counts from."""

    num_classes = out_channels = 2

    def take_classes(self, vocabulary):
        super().take_classes(vocabulary)
        self.num_classes, self.out_channels = len(vocabulary), len(vocabulary) + 1


@pytest.fixture
def texts(small_clip_spec):
    return TextEmbeddings(small_clip_spec, "cat, dog", "name")


def test_they_are_the_classes_of_the_vocabulary(texts, small_clip):
    assert texts.names == ("cat", "dog") and len(texts) == 2 and texts.embed_dim == 24
    expected = embed_classes(Vocabulary.of("cat, dog", "name"), small_clip)
    assert torch.equal(texts(), expected) and texts().dtype == torch.float32


def test_they_are_a_buffer_and_bring_no_tower(texts):
    assert list(texts.state_dict()) == ["embeddings"] and list(texts.parameters()) == []
    assert [type(module) for module in texts.modules()] == [TextEmbeddings]
    texts.take_classes(Vocabulary.of("emu", "name"))
    moved = texts.to("meta")
    assert moved().device.type == "meta" and moved().shape == (1, 24)


def test_new_names_replace_the_old_and_keep_the_parts_own_templates(texts, small_clip):
    model = nn.Sequential(nn.Linear(2, 2), texts)
    vocabulary = set_classes(model, {"emu": ["a bird."], "fox": [], "cat": []})
    assert texts.names == vocabulary.names == ("emu", "fox", "cat") and len(texts) == 3
    expected = embed_classes(Vocabulary.of({"emu": ["a bird."], "fox": [], "cat": []}, "name"), small_clip)
    assert torch.equal(texts(), expected)
    assert torch.equal(model[1].state_dict()["embeddings"], expected)


def test_other_templates_may_come_with_the_names(texts, small_clip):
    set_classes(texts, "emu", "the {}.")
    assert torch.equal(texts(), embed_classes(Vocabulary.of("emu", "the {}."), small_clip))


def test_every_part_that_takes_names_is_found_however_deep():
    deep = nn.Sequential(nn.ModuleDict({"a": nn.Sequential(Taker("name"))}), Taker(), nn.ModuleList([Taker(["a {}"])]))
    set_classes(deep, ["cat"])
    taken = [module.taken.queries for module in deep.modules() if isinstance(module, Taker)]
    assert taken == [(("cat",),), (("a photo of a cat.",),), (("a cat",),)]


def test_segmentors_count_their_heads_classes_again():
    plain, cascade = nn.Module(), nn.Module()
    plain.decode_head, plain.num_classes, plain.out_channels = Head(), 2, 2
    cascade.decode_head, cascade.num_classes, cascade.out_channels = nn.ModuleList([Head(), Head()]), 2, 2
    model = nn.ModuleList([plain, cascade])
    set_classes(model, "a, b, c")
    assert [(part.num_classes, part.out_channels) for part in model] == [(3, 4), (3, 4)]


def test_a_model_without_texts_is_refused_in_one_line():
    with pytest.raises(CapabilityError, match="Linear: takes no class names"):
        set_classes(nn.Linear(2, 2), "cat")


def test_nothing_changes_where_the_names_cannot_be_used(texts):
    before = texts().clone()
    with pytest.raises(ConfigError):
        set_classes(texts, "cat, cat")
    assert texts.names == ("cat", "dog") and torch.equal(texts(), before)


@pytest.mark.parametrize("saved", ["cat, dog", "emu, fox", "a, b, c"])
def test_weights_saved_with_any_names_load_and_leave_the_names_of_now(texts, small_clip_spec, saved):
    model, other = nn.Sequential(nn.Linear(2, 2), texts), nn.Sequential(nn.Linear(2, 2), nn.Identity())
    other[1] = TextEmbeddings(small_clip_spec, saved, "name")
    before = texts().clone()
    model.load_state_dict(other.state_dict())
    assert torch.equal(texts(), before) and torch.equal(model[0].weight, other[0].weight)
