"""Published encoders of tiles: what they decide, and what they refuse."""

import pytest

from vladapt import Recipe, load_domain
from vladapt.core.backbones.specs import find_published
from vladapt.core.errors import DataError
from vladapt.core.recipes.asked_for import read_data
from vladapt.domains.medical.slides.encoders import check_width, encoder_of, encoders

MEDICAL = load_domain("medical")


@pytest.mark.parametrize("encoder", encoders(), ids=lambda encoder: encoder.name)
def test_the_table_agrees_with_that_of_backbones(encoder):
    for entry in filter(None, map(find_published, encoder.specs)):
        stated = (entry.spec, entry.width, entry.licence, entry.gated)
        assert stated == (encoder.specs[-1], encoder.width, encoder.licence, encoder.gated)
        assert entry.non_commercial == ("NC" in entry.licence)


@pytest.mark.parametrize(
    "spec", ["virchow2", "Virchow2", "timm:hf-hub:paige-ai/Virchow2@w.safetensors", "virchow2#merge=4"]
)
def test_an_encoder_is_told_by_alias_or_spec(spec):
    assert encoder_of(spec).width == 2560


@pytest.mark.parametrize("spec", [None, "", "embedded", "timm:vit_tiny_patch16_224", "hf:openai/clip"])
def test_others_are_none(spec):
    assert encoder_of(spec) is None


def test_tile_and_resolution_are_the_encoders_where_nobody_says_otherwise(write_slide, tmp_path):
    write_slide("set/a/1.tif"), write_slide("set/b/2.tif")

    def cut(backbone, **options):
        recipe = Recipe(
            domain="medical", backbone=backbone, data={"path": str(tmp_path / "set"), "unit": "slide", **options}
        )
        data = read_data(recipe, MEDICAL, "classification")
        assert data.reading == {name: data.items[0].decode[name] for name in ("tile", "mpp")}
        return data.reading

    assert cut("embedded") == {"tile": 256, "mpp": 0.5}
    assert cut("virchow2") == {"tile": 224, "mpp": 0.5}
    assert cut("virchow2", tile=64, mpp=1.0) == {"tile": 64, "mpp": 1.0}
    assert MEDICAL.reading_for({}, "virchow2") == {}, "images are not cut"


def test_features_of_another_width_than_the_encoders_are_refused():
    check_width("uni", 1024, "bags")
    check_width("embedded", 7, "bags")
    with pytest.raises(
        DataError, match=r"bags: its features are 2,560 wide, UNI gives 1,024; .* \(Virchow2, for instance\)"
    ):
        check_width("uni", 2560, "bags")
