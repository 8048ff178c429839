"""Learned tokens inside the towers beside the reference code of VPT, IVLP and MaPLe: outputs and gradients."""

from __future__ import annotations

import pytest
from parity_checks.towers import maple, vpt


@pytest.mark.parametrize("comparison", [vpt, maple], ids=["vpt and ivlp", "maple"])
def test_agrees_with_the_reference(agrees, comparison):
    agrees(comparison)
