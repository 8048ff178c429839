"""Several sources in one training."""

from __future__ import annotations

import random
from collections.abc import Iterator

import torch

from vladapt.core.data.pairs.code_switch import CodeSwitch
from vladapt.core.training.mixing import Mixture, MixtureCounts, MixtureStage, source_shares

from .comparison import compares
from .fixtures import Check, Fixtures, Reference

STEPS, BATCH = 400, 1000


@compares("sources", "mixing_sources")
def mixing_sources(ref: Reference, f: Fixtures) -> Iterator[Check]:
    of_shard = ref["source_of_shard"]
    sizes = of_shard.bincount().tolist()
    factors = [float(each) for each in ref.setting("upsampling_factors").split("::")]
    shares = source_shares(factors, sizes, factors=True)
    yield ref.check(torch.tensor(factors)[of_shard], "weights")
    yield ref.check(torch.tensor(shares), "expected_share")
    names = tuple(map(str, range(len(sizes))))
    taken = torch.from_numpy(
        MixtureCounts(Mixture(names, (MixtureStage(None, shares),)), BATCH, seed=0).before(STEPS)[-1]
    )
    yield ref.check(taken / (STEPS * BATCH), "expected_share", "drawn", atol=1e-5)


@compares("code-switching", "multilingual")
def code_switching(ref: Reference, f: Fixtures) -> Iterator[Check]:
    dictionary, switched = ref.setting("dictionary"), ref.given["code_switch"]
    for settings, texts in switched.items():
        if "," not in settings:  # sentences of a language that the dictionary lacks
            continue
        switch = CodeSwitch(dictionary["en"], *map(float, settings.split(",")))
        draws = random.Random(ref.setting("seed"))
        ours = [switch(text, draws) for text in ref.given["sentences"] for _ in range(ref.setting("repeats"))]
        wrong = sum(one != other for one, other in zip(ours, texts, strict=True))
        yield Check("code-switching", ref.name, f"sentences at {settings}", float(wrong), float(wrong))


GROUPS = (mixing_sources, code_switching)
DEVIATIONS = {
    "code-switching": "none",
    "sources": "samples are drawn, not shards, evenly over the steps, and none of a source again before all of it were "
    "seen; the released code draws shards with replacement, whose order is not compared",
}
