from __future__ import annotations

import pytest

from vladapt.adapters.cache._presets import APE_SETTINGS, TIP_SETTINGS
from vladapt.adapters.published_sets import SETS, set_name
from vladapt.core.errors import UnknownNameError
from vladapt.core.registry import build_adapter


@pytest.mark.parametrize(
    "spelling, name",
    [
        ("dtd", "dtd"), ("Flowers", "oxford_flowers"), ("Oxford-Flowers", "oxford_flowers"), ("pets", "oxford_pets"),
        ("cars", "stanford_cars"), ("fgvc", "fgvc_aircraft"), ("aircraft", "fgvc_aircraft"), ("SUN397", "sun397"),
        ("Caltech101", "caltech101"), ("EuroSAT", "eurosat"),
    ],
)  # fmt: skip
def test_usual_spellings(spelling, name):
    assert set_name(spelling) == name


@pytest.mark.parametrize("adapter", ["tip-adapter", "tip-adapter-f", "ape", "ape-t"])
def test_an_unknown_preset_is_answered_with_the_nearest(adapter):
    with pytest.raises(UnknownNameError, match="did you mean food101"):
        build_adapter(adapter, preset="foood101")


def test_every_set_has_both_settings():
    assert set(TIP_SETTINGS) == set(APE_SETTINGS) == {None, *SETS}


def test_sets_without_a_published_setting():
    tip, ape = TIP_SETTINGS[None], APE_SETTINGS[None]
    assert (tip.search_scale, tip.alpha) == ((7, 3), 1.17)
    assert (ape.search_scale, ape.alpha, ape.w, ape.epochs) == ((7, 7, 1), 3, (0.5, 0.5), 30)
    assert (round(ape.top_q), round(ape.train_top_q)) == (717, 819)
