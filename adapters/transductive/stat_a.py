"""StatA: classifies all test images together, by Gaussians that stay near the text where a class has few images.

Take it where all images to be classified are at hand and only few of the classes may occur among them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ...core.contracts import FitReport, option
from ._anchored import Anchor, Gaussians, Settings, solve_anchored
from ._mixture import QueryImages
from ._neighbours import mutual_links
from ._together import ClassifiedTogether


@dataclass(eq=False, kw_only=True)
class StatA(ClassifiedTogether):
    """Realistic Test-Time Adaptation of Vision-Language Models (Zanella, Fuchs, De Vleeschouwer and Ben Ayed, 2025,
    arXiv 2501.03729).

    For Q unlabelled images with unit features x, unit text features t, predictions y = softmax(text logits) and
    temperature T, in turn:

        z_i ~ y_i^lambda exp(log N(x_i; m_k, diag(s_k)) / T + l sum_j (w_ij + w_ji) z_j / 2n)
        b_k = c_k / (alpha + c_k), c_k the number of images whose largest z is that of k
        m_k = b_k mean of z_ik x_i + (1 - b_k) t_k, each to unit length, and so is the sum
        s_k = b_k mean of z_ik (x_i - m_k)^2 + (1 - b_k) (s_0 + (t_k - m_k)^2)

    w_ij is the cosine (not below 0) where j is one of the n nearest images of i. The first z is y, the first m is t,
    and the first s, of all classes, is s_0 = the mean over images of sum_k y_ik (x_i - t_k)^2. So each class is held by
    an anchor, its text, the more so the fewer images it has: a class without images keeps t_k and s_0, and takes no
    images from the others. This makes it robust where many of the classes are absent.

    No label is used and nothing is tuned. Neither (Q, Q) nor (Q, C, D) numbers are ever held.

    Prediction: an image of the unlabelled set (the same feature) gets its z of the joint solution; copies of one image
    share the mean of their log z. Any other image gets one update of its own with the solution kept: y, likelihood, and
    its n nearest unlabelled images, counted both ways: l sum_j w_ij z_j / n. So no answer depends on the batch.

    With `resources["base"]` (`--resource base=RUN`) y is what another fitted adapter predicts; the anchors stay the
    text's.

    Raises:
        ConfigError: an option is out of range.
        CapabilityError: no unlabelled images, or of another width; several labels per image.

    Example:
        >>> adapter = build_adapter("stat-a")
        >>> report = adapter.fit(None, classifier, unlabeled=test.without_labels())
        >>> adapter.logits(test).shape
        torch.Size([12, 3])
    """

    assumes: ClassVar[str] = "images of a class lie together and near its text, however many classes occur"
    differs: ClassVar[str] = (
        "the first variance is divided by the number of images once (released: once per chunk of 2500 images, so that "
        "with more images only the last chunk counts; the published results for larger sets include this); a class "
        "whose z are all 0 in float32 equals its anchor (released: its mean is 0 / 0); scale and bias of y are the "
        "backbone's, not 100; with several templates the anchor is the text weight of the class, from all of them "
        "(released: from the first)"
    )
    label_free: ClassVar[bool] = True
    stands_absent_classes: ClassVar[bool] = True
    state: ClassVar[tuple[str, ...]] = (*ClassifiedTogether.state, "means", "variances")

    alpha: float = option(1.0, "weight of the anchor, in images", low=0)
    soft_counts: bool = option(False, "count the images of a class by the sum of their z, not by their largest z")
    text_weight: float = option(1.0, "lambda, weight of the predictions it starts from", low=0)
    neighbor_weight: float = option(1.0, "l, weight of the classes of an image's neighbours", low=0)
    n_neighbors: int = option(3, "nearest images that an image is linked to; 0 for none", low=0, high=100_000)
    iterations: int = option(10, "updates of assignments, means and variances", low=1, high=100_000)
    inner_iterations: int = option(5, "updates of the assignments in each of them", low=1, high=100_000)
    temperature: float = option(50.0, "what the log-likelihood is divided by, T", above=0)

    def _joint(self, logits: Tensor, support, val, seed: int) -> tuple[FitReport, Tensor]:
        self.lambda_ = float(self.text_weight)
        links = mutual_links(self.queries, self.n_neighbors)
        links = replace(links, weights=self.neighbor_weight * links.weights)
        queries = QueryImages(self.queries, self.lambda_ * logits.log_softmax(dim=1), links)
        y = logits.softmax(dim=1)
        solution = solve_anchored(queries, y, Anchor.of(self.queries, y, self.text), self._settings)
        self.means, self.variances = solution.gaussians.means, solution.gaussians.variances
        return FitReport(self.name), solution.log_assignments

    @property
    def _settings(self) -> Settings:
        return Settings(self.alpha, self.soft_counts, self.iterations, self.inner_iterations, self.temperature)

    def _log_likelihood(self, unit: Tensor) -> Tensor:
        mixture = Gaussians(self.means, self.variances)
        return mixture.log_likelihood(unit, self.means.mean(dim=0)) / self.temperature

    @property
    def _neighbour_weight(self) -> float:
        return self.neighbor_weight
