"""A domain of your own in one class: how it reads, which words name its classes. Here: hand-written digits."""

import hashlib
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

import vladapt
from vladapt import Domain, DomainData, Item, Label


class Digits(Domain):
    name = "digits"
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")

    def read(self, path, task, **options):
        digits = load_digits()  # 1,797 real scans of 8 x 8 pixels that come with scikit-learn

        def load(item):
            grey = np.kron(digits.images[item.decode["row"]] / 16, np.ones((8, 8)))
            return np.repeat(grey[..., None], 3, axis=2).astype(np.float32)

        def item(row, label):
            digest = hashlib.sha256(digits.images[row].tobytes()).hexdigest()  # no file of its own: the content's hash
            return Item(f"digit-{row}", Path(__file__), {"row": row, "digest": digest}, Label(int(label)))

        items = [item(row, label) for row, label in enumerate(digits.target[:200])]
        return DomainData(items, self.words, load, name="scikit-learn digits", licence="BSD-3-Clause")

    def sample(self, task):
        return self.read("sample", task)

    def templates(self, task):
        return ["a scan of the hand-written number {}."]


result = vladapt.fit(domain=Digits(), adapter="ridge", shots=8)
print(f"zero-shot {result.metrics['zero_shot']['accuracy']:.1%}, adapted {result.metrics['adapted']['accuracy']:.1%}")
