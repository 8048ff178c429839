"""The classes that two scene sets share, as two folders with the same names: fit on one set, test on the other.

    python benchmarks/shared_scenes.py shared      # shared/whu_rs19 and shared/rsscn7, from VLADAPT_DATA
    vladapt compare --domain remote-sensing --protocol domain-generalization --data shared/whu_rs19 --data shared/rsscn7

WHU-RS19's meadow is RSSCN7's grass land, its river "river or lake". The images are copied as they are.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from usage import print_help

from vladapt import load_domain

SHARED = {
    "farmland": ("farmland", "farm land"),
    "forest": ("forest", "forest"),
    "grassland": ("meadow", "grass land"),
    "industrial area": ("industrial", "industrial region"),
    "parking lot": ("parking", "parking lot"),
    "residential area": ("residential", "residential region"),
    "river": ("river", "river or lake"),
}
"""Name here -> what vladapt says of it in WHU-RS19, in RSSCN7."""
SETS = ("whu_rs19", "rsscn7")


def main(target: Path) -> None:
    source = Path(os.environ.get("VLADAPT_DATA", "../shared/data")) / "remote_sensing"
    for place, name in enumerate(SETS):
        data = load_domain("remote-sensing").read(source / name, "classification")
        spoken = {words[place]: shared for shared, words in SHARED.items()}
        if unknown := sorted(set(spoken) - set(data.class_names)):
            raise SystemExit(f"{source / name}: has no class {unknown[0]}; it has {', '.join(data.class_names)}")
        copied = 0
        for item in data.items:
            shared = spoken.get(data.class_names[item.target.index])
            if shared is not None:
                folder = target / name / shared
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(item.source, folder / item.source.name)
                copied += 1
        print(f"{target / name}: {copied} images of {len(SHARED)} classes")


if __name__ == "__main__":
    print_help(__doc__, words=1)
    main(Path(sys.argv[1]))
