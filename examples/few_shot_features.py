"""Compare methods on features you already have.

python examples/few_shot_features.py features.npz      (no argument: seeded random features)
"""

import sys

import torch

import vladapt
from vladapt import FeatureSet, TextClassifier

if len(sys.argv) > 1:
    file = vladapt.load_features(sys.argv[1])
    features, classifier = file.features, file.classifier
else:
    torch.manual_seed(0)
    centres, labels = torch.randn(5, 64), torch.arange(5).repeat_interleave(40)
    features = FeatureSet(centres[labels] + 1.5 * torch.randn(200, 64), labels=labels)
    classifier = TextClassifier(centres + 2.0 * torch.randn(5, 64), class_names=list("abcde"))

order = torch.randperm(len(features), generator=torch.Generator().manual_seed(1))
by_class = [order[features.labels[order] == c] for c in range(len(classifier))]
support = features.select(torch.cat([rows[:16] for rows in by_class]))
val = features.select(torch.cat([rows[16:20] for rows in by_class]))
test = features.select(torch.cat([rows[20:] for rows in by_class]))

for name in ("zero-shot", "linear-probe", "tip-adapter", "tip-adapter-f", "ape", "ape-t"):
    adapter = vladapt.build_adapter(name)
    report = adapter.fit(support, classifier, val=val, seed=1)
    accuracy = (adapter.predict(test) == test.labels).float().mean()
    print(f"{name:14} {accuracy:.1%}  {report.chosen}")
