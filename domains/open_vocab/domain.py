"""Placeholder until the domain lands in this session."""
from ...core.contracts.domain import Domain


class OpenVocab(Domain):
    name = "open-vocab"
    tasks = ("detection", "segmentation")

    def read(self, path, task, **options): ...
    def sample(self, task): ...
    def templates(self, task): return ["a photo of a {}."]
