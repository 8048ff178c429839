"""ProtoCLIP: images learn the clusters of texts and texts those of images, each in its own space."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.adapter import require
from ..contracts.errors import CapabilityError, ConfigError
from ..contracts.loss import Extract, Loss
from ._clusters import KINDS, cluster_means, k_means
from ._info_nce import info_nce

MOST_CLUSTERS = 20_000
HIGHEST_SCALE = 100.0
TOWERS = ("image", "text")
OTHER = {"image": "text", "text": "image"}


class Protoclip(Loss):
    """ProtoCLIP: Prototypical Contrastive Language Image Pretraining (Chen et al., 2022, arXiv 2206.10996).

    Before each epoch (an episode) the images and the texts of the training set are clustered by k-means, each in the
    space of an own projection head. An image is then trained to tell the cluster of its text, and a text that of its
    image: cross-entropy of its scaled cosines to the prototypes. Targets are soft, by how alike the other side's
    prototypes are. For a prototype of texts an image uses the mean of the images whose texts are in it (prototypical
    back translation), so that no gap between the two spaces is in the way; and the other way round.

    L = clip_weight L_clip + proto_weight (L_image + L_text) / 2.

    Prototypes are means of unit rows and not brought to length 1, as in the released code. Its heads take features
    before normalisation; here they take unit ones. Its further term with clusters of an external language model
    (RoBERTa) and its last epochs with a locked image tower are left out.

    Args:
        clip_weight: weight of CLIP's loss.
        proto_weight: weight of the prototypes, above 0.
        teacher_temperature: of the soft targets; 0 for hard ones.
        back_translation: whether a side uses its own means for the other's clusters; else the other's prototypes.
        proto_ratio: clusters of a side as a share of the samples, if `clusters` is 0; from 2 to 20,000 clusters.
            Published: 20,000 clusters of episodes of 200,000 samples.
        clusters: number of clusters of a side, 0 to take `proto_ratio`.
        projection_dim: width of the space that is clustered.
        hidden_dim: width inside the projection heads.
        init_scale_proto: where the learned scale of the prototypes' cosines starts; it is kept in 1..100.
        kmeans_iterations: at most so many.
        kmeans_restarts: the best of so many is taken.
        kmeans: "full", "minibatch", or "auto": minibatch where samples times clusters are more than 1e8.
        warmup_episodes: first epochs with CLIP's loss alone; its training commands have 1 of 100 to 400.
        seed: of k-means.

    Parts: "clip", "image" and "text" (which side is trained), and "accuracy", the share of right clusters.

    Raises:
        ConfigError: an option is out of range, or the samples are fewer than the clusters.
        CapabilityError: dims lacks embed_dim or num_samples.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "logit_scale", "index"})
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, HIGHEST_SCALE)

    def __init__(
        self,
        dims: Mapping[str, int] | None = None,
        clip_weight: float = 1.0,
        proto_weight: float = 1.0,
        teacher_temperature: float = 0.01,
        back_translation: bool = True,
        proto_ratio: float = 0.1,
        clusters: int = 0,
        projection_dim: int = 128,
        hidden_dim: int = 2048,
        init_scale_proto: float = 1 / 0.07,
        kmeans_iterations: int = 20,
        kmeans_restarts: int = 3,
        kmeans: str = "auto",
        warmup_episodes: int = 0,
        seed: int = 0,
    ):
        super().__init__(dims)
        require(clip_weight >= 0, "clip_weight", clip_weight, "give 0 or more")
        require(proto_weight > 0, "proto_weight", proto_weight, "give a number above 0; for CLIP's loss alone use clip")
        require(teacher_temperature >= 0, "teacher_temperature", teacher_temperature, "give 0 or more")
        require(1 <= init_scale_proto <= HIGHEST_SCALE, "init_scale_proto", init_scale_proto, "give 1 to 100")
        require(kmeans in KINDS, "kmeans", kmeans, f"give one of {', '.join(KINDS)}")
        counts = {"kmeans_iterations": kmeans_iterations, "kmeans_restarts": kmeans_restarts}
        for name, value in {**counts, "projection_dim": projection_dim, "hidden_dim": hidden_dim}.items():
            require(type(value) is int and value >= 1, name, value, "give a whole number, 1 or more")
        for name, value in {"warmup_episodes": warmup_episodes, "seed": seed}.items():
            require(type(value) is int and value >= 0, name, value, "give a whole number, 0 or more")
        self.clip_weight, self.proto_weight, self.temperature = clip_weight, proto_weight, teacher_temperature
        self.back_translation, self.warmup_episodes, self.seed = back_translation, warmup_episodes, seed
        self.k_means = {"iterations": kmeans_iterations, "restarts": kmeans_restarts, "kind": kmeans}
        self.samples = self.dim("num_samples", "the cluster of each sample")
        self.clusters = _cluster_count(self.samples, clusters, proto_ratio)
        self.text_head = _head(self.dim("embed_dim", "its projection heads"), hidden_dim, projection_dim)
        self.image_head = deepcopy(self.text_head)
        self.log_scale_proto = nn.Parameter(torch.tensor(math.log(init_scale_proto)))
        self.register_buffer("episode", torch.zeros((), dtype=torch.long))
        for tower in TOWERS:
            self.register_buffer(f"{tower}_assignment", torch.zeros(self.samples, dtype=torch.long))
            self.register_buffer(f"{tower}_prototypes", torch.zeros(self.clusters, projection_dim))
            self.register_buffer(f"{tower}_translated", torch.zeros(self.clusters, projection_dim))

    @torch.no_grad()
    def before_epoch(self, extract: Extract) -> None:
        """Cluster the training set anew.

        Raises:
            ConfigError: it has another number of samples than the loss was told.
        """
        features = extract([f"{tower}_features" for tower in TOWERS])
        projected = {tower: self._projected_set(tower, features[f"{tower}_features"]) for tower in TOWERS}
        for tower in TOWERS:
            seed = self.seed + int(self.episode)
            assignment, prototypes = k_means(projected[tower], self.clusters, seed=seed, **self.k_means)
            translated = cluster_means(projected[OTHER[tower]], assignment, self.clusters)
            getattr(self, f"{tower}_assignment").copy_(assignment)
            getattr(self, f"{tower}_prototypes").copy_(prototypes)
            getattr(self, f"{tower}_translated").copy_(translated)
        self.episode += 1

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        if not self.episode:
            raise CapabilityError("loss 'Protoclip' has no prototypes yet; call before_epoch(extract) before it")
        parts = {"clip": info_nce(out["image_features"], out["text_features"], out["logit_scale"])}
        loss = self.clip_weight * parts["clip"]
        if self.episode > self.warmup_episodes:
            terms = {tower: self._side(tower, out) for tower in TOWERS}
            parts.update({tower: term for tower, (term, _) in terms.items()})
            parts["accuracy"] = sum(hits for _, hits in terms.values()) / 2
            loss = loss + self.proto_weight * (parts["image"] + parts["text"]) / 2
        return {"loss": loss, **parts}

    def _side(self, tower: str, out: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The term that trains a side on the other's clusters, and how many it gets right."""
        teacher = OTHER[tower]
        prototypes = getattr(self, f"{teacher}_prototypes")
        student = F.normalize(getattr(self, f"{tower}_head")(out[f"{tower}_features"]), dim=-1)  # (B, d)
        targets = getattr(self, f"{teacher}_translated") if self.back_translation else prototypes
        labels = getattr(self, f"{teacher}_assignment")[out["index"].long()]  # (B,)
        scores = self.log_scale_proto.exp() * student @ targets.T  # (B, K)
        hits = (scores.detach().argmax(dim=1) == labels).float().mean()
        return prototype_loss(scores, prototypes, labels, self.temperature), hits

    def _projected_set(self, tower: str, features: Tensor) -> Tensor:
        """Unit rows (N, d) of the whole set; on the CPU, where all processes agree to the last digit."""
        if len(features) != self.samples:
            raise ConfigError(
                f"loss 'Protoclip' was made for {self.samples} samples, the training set has {len(features)}; "
                "make it with dims['num_samples'] of this set"
            )
        head = deepcopy(getattr(self, f"{tower}_head")).cpu().float().eval()
        parts = [head(part.cpu().float()) for part in features.split(4096)]
        return F.normalize(torch.cat(parts), dim=-1)

    @torch.no_grad()
    def after_step(self, model: nn.Module | None) -> None:
        """Keeps the prototypes' scale in 1..100."""
        self.log_scale_proto.clamp_(0, math.log(HIGHEST_SCALE))


def prototype_loss(scores: Tensor, prototypes: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of the scores (B, K) with the teacher's clusters.

    Args:
        scores: of each sample and prototype.
        prototypes: (K, d) of the teacher.
        labels: (B,) the sample's cluster there.
        temperature: targets are the softmax of that prototype's products with all, divided by it; 0: the cluster alone.
    """
    if not temperature:
        return F.cross_entropy(scores, labels)
    return F.cross_entropy(scores, (prototypes[labels] @ prototypes.T / temperature).softmax(dim=1))


def _head(width: int, hidden: int, projected: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, projected)
    )


def _cluster_count(samples: int, clusters: int, ratio: float) -> int:
    usable = type(clusters) is int and (clusters == 0 or 2 <= clusters <= samples)
    require(usable, "clusters", clusters, f"give a whole number, 2 to {samples} (the samples), or 0")
    require(0 < ratio <= 1, "proto_ratio", ratio, "give a share above 0, up to 1")
    require(samples >= 2, "num_samples", samples, "prototypes need 2 samples at least")
    return clusters or min(max(round(ratio * samples), 2), MOST_CLUSTERS)
