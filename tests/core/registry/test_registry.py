"""Names come from files and entry points, importing nothing; the right module is built by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import vladapt
from vladapt.core.errors import CapabilityError, ConfigError, UnknownNameError
from vladapt.core.registry import build_adapter, build_loss, catalogue, load_domain


def distribution(folder: Path, name: str, modules: dict[str, str], entry_points: str) -> Path:
    """A third-party package on disk: modules and the metadata that pip would have written."""
    for file, text in modules.items():
        (folder / file).write_text(text)
    info = folder / f"{name}-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text(entry_points)
    return folder


ADAPTER = """
from dataclasses import dataclass
from vladapt import Adapter, FitReport

@dataclass(eq=False, kw_only=True)
class Outside(Adapter):
    strength: float = 1.0
    def _fit(self, support, classifier, **_):
        return FitReport("outside")
    def _logits(self, batch):
        return batch.unit
"""


def test_the_seven_adapters_are_listed_with_their_groups():
    groups = {name: entry.group for name, entry in catalogue.adapters().items()}
    assert (
        groups.items()
        >= {
            "zero-shot": "head",
            "linear-probe": "head",
            "tip-adapter": "cache",
            "tip-adapter-f": "cache",
            "ape": "cache",
            "ape-t": "cache",
            "coop": "prompt",
        }.items()
    )


def test_unknown_names_get_the_nearest_right_ones():
    with pytest.raises(UnknownNameError, match="did you mean tip-adapter"):
        build_adapter("tip-adaptor")
    with pytest.raises(UnknownNameError, match="did you mean medical"):
        load_domain("medcal")
    with pytest.raises(UnknownNameError, match="did you mean cross-entropy"):
        build_loss("cross-entrop")
    with pytest.raises(UnknownNameError, match="no option 'alfa'; did you mean alpha"):
        build_adapter("tip-adapter", alfa=2)
    with pytest.raises(UnknownNameError, match="label_smoothing"):
        build_loss("cross-entropy", label_smooth=0.1)


def test_listing_and_help_import_no_torch_and_no_top_level_core():
    code = (
        "import sys, vladapt; from vladapt.core.registry import catalogue; import vladapt.cli;"
        "catalogue.adapters(), catalogue.domains(), catalogue.losses();"
        "print([m for m in ('torch', 'core', 'mmengine', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_core_is_no_top_level_module():
    assert "core" not in sys.modules


def test_public_names_resolve():
    for name in dir(vladapt):
        assert getattr(vladapt, name) is not None
    with pytest.raises(AttributeError):
        _ = vladapt.nothing


def test_an_adapter_of_another_package_is_listed_and_built(tmp_path, monkeypatch):
    points = "[vladapt.adapters]\noutside = outside_adapter\n"
    monkeypatch.syspath_prepend(str(distribution(tmp_path, "outside", {"outside_adapter.py": ADAPTER}, points)))
    assert "outside" in catalogue.adapters()
    assert "outside_adapter" not in sys.modules
    adapter = build_adapter("outside", strength=2.0)
    assert adapter.name == "outside" and adapter.strength == 2.0


def test_a_name_taken_twice_names_both(tmp_path, monkeypatch):
    points = "[vladapt.adapters]\nape = mine:Mine\n"
    monkeypatch.syspath_prepend(str(distribution(tmp_path, "rival", {}, points)))
    with pytest.raises(
        ConfigError, match=r"'ape' is defined twice: by vladapt\.adapters\.cache\.ape and by mine:Mine of rival"
    ):
        catalogue.adapters()


def test_an_entry_point_that_is_no_adapter_or_does_not_import_is_named(tmp_path, monkeypatch):
    points = "[vladapt.adapters]\nwrong = wrong_adapter:value\nbroken = broken_adapter:X\n"
    modules = {"wrong_adapter.py": "value = 3\n", "broken_adapter.py": "raise RuntimeError('boom')\n"}
    monkeypatch.syspath_prepend(str(distribution(tmp_path, "wrong", modules, points)))
    with pytest.raises(ConfigError, match="is not of type Adapter"):
        build_adapter("wrong")
    with pytest.raises(ConfigError, match="does not import: boom"):
        build_adapter("broken")


def test_a_missing_package_of_a_plug_in_is_named(monkeypatch):
    import importlib

    from vladapt.core.registry import build

    def fails(name):
        raise ModuleNotFoundError("No module named 'pydicom'", name="pydicom")

    monkeypatch.setattr(importlib, "import_module", fails)
    with pytest.raises(CapabilityError, match=r"needs the package 'pydicom'.*vladapt\[medical\]"):
        build.load_domain("medical")


def test_a_folder_of_the_path_that_cannot_be_read_holds_no_plug_ins(tmp_path, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(catalogue.os, "scandir", refuse)
    assert not catalogue._extends_us(str(tmp_path))


def test_epochs_of_a_method_that_does_not_train():
    with pytest.raises(UnknownNameError, match=r"^--epochs: gda does not train in epochs; it takes .*keep_rows"):
        build_adapter("gda", epochs=5)
    with pytest.raises(UnknownNameError, match=r"^--lr: tip-adapter has no learning rate; it takes "):
        build_adapter("tip-adapter", lr=0.1)


def test_entry_points_are_looked_through_once_for_each_kind(monkeypatch):
    asked = []

    class Installed:
        def select(self, group):
            asked.append(group)
            return ()

    monkeypatch.setattr(catalogue, "_installed", lambda path: Installed())
    catalogue._points.cache_clear()
    try:
        assert catalogue.judgements() == catalogue.judgements() and catalogue.losses()
        assert asked == ["vladapt.judgements", "vladapt.losses"]
    finally:
        catalogue._points.cache_clear()
