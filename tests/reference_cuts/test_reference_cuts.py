"""Ours beside cuts of the public code's outputs, which need no folder of reference outputs."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from parity_checks.fixtures import Fixtures
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(Path(__file__).parent))
from reference_cuts import CUTS, comparisons

MOST_BYTES = 300_000


@pytest.fixture(scope="session")
def cuts(tmp_path_factory) -> Fixtures:
    """The cuts as a folder of fixtures; they are kept as one pair of files."""
    folder = tmp_path_factory.mktemp("cuts")
    tensors = load_file(CUTS.with_suffix(".safetensors"))
    for name, facts in json.loads(CUTS.with_suffix(".json").read_text(encoding="utf-8")).items():
        own = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
        whole = {key: value if value.is_floating_point() else value.long() for key, value in own.items()}
        save_file(whole, folder / f"{name}.safetensors")
        (folder / f"{name}.json").write_text(json.dumps(facts), encoding="utf-8")
    return Fixtures(folder)


@pytest.mark.parametrize("comparison", comparisons(), ids=lambda each: f"{each.method}-{each.run.__name__}")
def test_ours_gives_what_the_public_code_gave(agrees, cuts, comparison):
    agrees(comparison, cuts)


def test_each_cut_says_whose_it_is_and_is_used(cuts):
    used = {name for each in comparisons() for name in each.names(cuts)}
    told = json.loads(CUTS.with_suffix(".json").read_text(encoding="utf-8"))
    assert used == told.keys()
    assert all(source["repo"] and source["commit"] for facts in told.values() for source in facts["reference"])


def test_the_cuts_are_small():
    assert sum(CUTS.with_suffix(suffix).stat().st_size for suffix in (".json", ".safetensors")) < MOST_BYTES
