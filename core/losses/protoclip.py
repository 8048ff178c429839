"""ProtoCLIP: images learn the clusters of texts and texts those of images, each in its own space."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..contracts.loss import Extract, Loss
from ..contracts.options import option, require
from ..errors import CapabilityError, ConfigError
from ._info_nce import info_nce

FULL_UP_TO = 10**8  # rows times clusters; beyond it an iteration over all rows takes a minute of one core
MINI_BATCH = 4096
KINDS = ("auto", "full", "minibatch")
MOST_CLUSTERS = 20_000
HIGHEST_SCALE = 100.0
TOWERS = ("image", "text")
OTHER = {"image": "text", "text": "image"}


def k_means(
    features: Tensor, count: int, iterations: int, restarts: int, seed: int, kind: str = "auto"
) -> tuple[Tensor, Tensor]:
    """The cluster (N,) of each row of features (N, D), and the centres (count, D).

    Lloyd's iterations from random rows, by scikit-learn on one thread, since sums of several threads come in any order.

    Args:
        features: (N, D) float32 on the CPU.
        count: number of clusters, up to N.
        iterations: at most so many.
        restarts: the best of so many is taken.
        seed: of the first centres.
        kind: "full" over all rows, "minibatch", or "auto", which is full where N * count is up to 1e8.
    """
    from sklearn.cluster import KMeans, MiniBatchKMeans
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    full = kind == "full" or (kind == "auto" and len(features) * count <= FULL_UP_TO)
    common = {"init": "random", "n_init": restarts, "max_iter": iterations, "tol": 0.0, "random_state": seed}
    method = KMeans(count, **common) if full else MiniBatchKMeans(count, batch_size=MINI_BATCH, **common)
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters: some stay empty
        method.fit(features.numpy())
    assignment = torch.from_numpy(method.labels_).long()
    return assignment, torch.from_numpy(method.cluster_centers_).to(features.dtype)


def cluster_means(features: Tensor, assignment: Tensor, count: int) -> Tensor:
    """Mean of the rows of features (N, D) in each cluster, (count, D); 0 where it is empty."""
    sums = features.new_zeros(count, features.shape[1]).index_add_(0, assignment, features)
    return sums / torch.bincount(assignment, minlength=count).clamp(min=1)[:, None]


@dataclass(eq=False, repr=False, kw_only=True)
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
    (RoBERTa) and its last epochs with a locked image tower are left out. Published: 20,000 clusters of episodes of
    200,000 samples, and 1 warm-up episode of 100 to 400; a share of the samples is cut to 2 to 20,000 clusters. K-means
    goes over mini-batches where samples times clusters are more than 1e8. The learned scale stays in 1..100.

    Parts: "clip", "image" and "text" (which side is trained), and "accuracy", the share of right clusters.

    Raises:
        ConfigError: the samples are fewer than the clusters.
        CapabilityError: dims lacks embed_dim or num_samples.

    Example:
        >>> import torch, vladapt
        >>> out = {"image_features": torch.eye(4), "text_features": torch.eye(4), "logit_scale": torch.tensor(10.0)}
        >>> loss = vladapt.build_loss("protoclip", {"embed_dim": 4, "num_samples": 4}, clusters=2, hidden_dim=8)
        >>> loss.before_epoch(lambda names: {name: out[name] for name in names})  # once per epoch, of the whole set
        >>> sorted(loss({**out, "index": torch.arange(4)}))
        ['accuracy', 'clip', 'image', 'loss', 'text']
    """

    differs: ClassVar[str] = (
        "the prototype term has a fixture; the heads read unit features; the term of an external language model and "
        "the epochs with a locked image tower are left out"
    )
    needs: ClassVar[frozenset[str]] = frozenset({"image_features", "text_features", "logit_scale", "index"})
    graph_changes: ClassVar[bool] = True  # after the warm-up episodes
    logit_scale_bounds: ClassVar[tuple[float, float]] = (1.0, HIGHEST_SCALE)

    clip_weight: float = option(1.0, "weight of CLIP's loss", low=0, high=10_000)
    proto_weight: float = option(1.0, "weight of the prototypes; for CLIP's loss alone use clip", above=0, high=10_000)
    teacher_temperature: float = option(0.01, "temperature of the soft targets; 0 for hard ones", low=0, high=100)
    back_translation: bool = option(
        True, "a side uses its own means for the other's clusters, not the other's prototypes"
    )
    proto_ratio: float = option(
        0.1, "clusters of a side as a share of the samples, where `clusters` is 0", above=0, high=1
    )
    clusters: int = option(0, "clusters of a side, 2 up to the samples; 0 takes `proto_ratio`", low=0, high=1_000_000)
    projection_dim: int = option(128, "width of the space that is clustered", low=1, high=65_536)
    hidden_dim: int = option(2048, "width inside the projection heads", low=1, high=65_536)
    init_scale_proto: float = option(
        1 / 0.07, "initial value of the learned scale of prototypes", low=1, high=HIGHEST_SCALE
    )
    kmeans_iterations: int = option(20, "iterations of k-means, at most", low=1, high=100_000)
    kmeans_restarts: int = option(3, "restarts of k-means; the best one is used", low=1, high=10_000)
    kmeans: str = option("auto", "on all rows or in mini-batches; auto: mini-batches for large sets", choices=KINDS)
    warmup_episodes: int = option(0, "first epochs with CLIP's loss alone", low=0, high=1_000_000)
    seed: int = option(0, "seed of k-means", low=0, high=2**31 - 1)

    def __post_init__(self):
        super().__post_init__()
        self.samples = self.dim("num_samples", "the cluster of each sample")
        require(self.samples >= 2, "num_samples", self.samples, "prototypes need at least 2 samples")
        usable = self.clusters == 0 or 2 <= self.clusters <= self.samples
        require(usable, "clusters", self.clusters, f"give 2 to {self.samples} (the samples), or 0")
        share = round(self.proto_ratio * self.samples)
        self.clusters = self.clusters or min(max(share, 2), MOST_CLUSTERS)
        width = self.dim("embed_dim", "its projection heads")
        self.text_head = _head(width, self.hidden_dim, self.projection_dim)
        self.image_head = deepcopy(self.text_head)
        self.log_scale_proto = nn.Parameter(torch.tensor(math.log(self.init_scale_proto)))
        self.register_buffer("episode", torch.zeros((), dtype=torch.long))
        for tower in TOWERS:
            self.register_buffer(f"{tower}_assignment", torch.zeros(self.samples, dtype=torch.long))
            self.register_buffer(f"{tower}_prototypes", torch.zeros(self.clusters, self.projection_dim))
            self.register_buffer(f"{tower}_translated", torch.zeros(self.clusters, self.projection_dim))

    @torch.no_grad()
    def before_epoch(self, extract: Extract) -> None:
        """Cluster the training set anew.

        Raises:
            ConfigError: it has another number of samples than the loss was told.
        """
        features = extract([f"{tower}_features" for tower in TOWERS])
        projected = {tower: self._projected_set(tower, features[f"{tower}_features"]) for tower in TOWERS}
        for tower in TOWERS:
            assignment, prototypes = self._clustered(projected[tower])
            translated = cluster_means(projected[OTHER[tower]], assignment, self.clusters)
            getattr(self, f"{tower}_assignment").copy_(assignment)
            getattr(self, f"{tower}_prototypes").copy_(prototypes)
            getattr(self, f"{tower}_translated").copy_(translated)
        self.episode += 1

    def compute(self, out: Mapping[str, Any], progress: float) -> dict[str, Tensor]:
        if not self.episode:
            raise CapabilityError(f"{self.title} has no prototypes yet; call before_epoch(extract) before it")
        parts = {"clip": info_nce(out["image_features"], out["text_features"], out["logit_scale"])}
        loss = self.clip_weight * parts["clip"]
        if self.episode > self.warmup_episodes:
            terms = {tower: self._side(tower, out) for tower in TOWERS}
            parts.update({tower: term for tower, (term, _) in terms.items()})
            parts["accuracy"] = sum(hits for _, hits in terms.values()) / 2
            loss = loss + self.proto_weight * (parts["image"] + parts["text"]) / 2
        return {"loss": loss, **parts}

    def _clustered(self, features: Tensor) -> tuple[Tensor, Tensor]:
        iterations, restarts = self.kmeans_iterations, self.kmeans_restarts
        seed = self.seed + int(self.episode)
        return k_means(features, self.clusters, iterations, restarts, seed, kind=self.kmeans)

    def _side(self, tower: str, out: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The term that trains a side on the other's clusters, and how many it gets right."""
        teacher = OTHER[tower]
        prototypes = getattr(self, f"{teacher}_prototypes")
        student = F.normalize(getattr(self, f"{tower}_head")(out[f"{tower}_features"]), dim=-1)  # (B, d)
        targets = getattr(self, f"{teacher}_translated") if self.back_translation else prototypes
        labels = getattr(self, f"{teacher}_assignment")[out["index"].long()]  # (B,)
        scores = self.log_scale_proto.exp() * student @ targets.T  # (B, K)
        hits = (scores.detach().argmax(dim=1) == labels).float().mean()
        return prototype_loss(scores, prototypes, labels, self.teacher_temperature), hits

    def _projected_set(self, tower: str, features: Tensor) -> Tensor:
        """Unit rows (N, d) of the whole set; on the CPU, where all processes agree to the last digit."""
        if len(features) != self.samples:
            raise ConfigError(
                f"{self.title} was made for {self.samples} samples, the training set has {len(features)}; "
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
