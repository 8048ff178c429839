"""Cuts from the folder of reference outputs what the tests beside carry: `python reference_cuts.py FOLDER`.

Of each comparison the tensors that it reads are kept, and what their JSON says of them.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from safetensors.torch import save_file

ROOT = Path(__file__).resolve().parents[2]
CUTS = Path(__file__).with_name("cuts")
COMPARISONS: dict[str, tuple[str, ...]] = {
    "metrics": ("delong_as_released", "operating_point_as_released"),
    "video": ("mug",),
    "video_losses": ("teach_text", "egonce"),
    "losses": ("m_flag", "protoclip"),
    "person": ("tbps_clip", "unipt"),
    "person_search": ("cmpm_cmpc",),
    "pseudo_labels": ("growing",),
    "detectors": ("detection_matching",),
    "from_above": ("georsclip_retrieval",),
    "re_identification": ("samplers", "erasing", "camera_metrics"),
}
"""File of benchmarks/parity_checks -> its comparisons, each of fixtures that need no others and no towers."""
DROPPED = ("shape", "dtype", "max_abs")
"""What a fixture says of a tensor that the tensor says itself."""


def comparisons() -> list:
    """Those of `COMPARISONS`, in order."""
    modules = {name: importlib.import_module(f"parity_checks.{name}") for name in COMPARISONS}
    return [getattr(modules[name], each) for name, some in COMPARISONS.items() for each in some]


def main(folder: Path) -> None:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from parity_checks.fixtures import Fixtures, Reference

    read: dict[str, set[str]] = {}
    recorded = Reference._recorded

    def noting(self, key):
        read.setdefault(self.name, set()).add(key)
        return recorded(self, key)

    Reference._recorded = noting
    fixtures = Fixtures(folder)
    for comparison in comparisons():
        for reference in comparison.references(fixtures):
            assert all(check.share <= 1 for check in comparison.run(reference, fixtures)), reference.name
    tensors, facts = {}, {}
    for name in sorted(read):
        reference = fixtures.reference(name)
        told = json.loads((fixtures.folder / f"{name}.json").read_text(encoding="utf-8"))
        for key in sorted(read[name]):
            value = reference.tensors[key]
            tensors[f"{name}/{key}"] = (value if value.is_floating_point() else value.short()).contiguous()
        kept = {key: value for key, value in told["tensors"].items() if key in read[name]}
        kept = {key: {n: v for n, v in each.items() if n not in DROPPED} for key, each in kept.items()}
        facts[name] = {
            "reference": told["reference"],
            "hyper_parameters": told["hyper_parameters"],
            "tolerance": told.get("tolerance", {}),
            "tensors": kept,
        }
    save_file(tensors, CUTS.with_suffix(".safetensors"))
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(each)}" for name, each in facts.items())
    CUTS.with_suffix(".json").write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
