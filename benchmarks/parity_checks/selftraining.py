"""Methods that make labels for images themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from vladapt import build_adapter
from vladapt.adapters.selftraining._projected import Propagation, projection_of
from vladapt.adapters.selftraining._words import nearest_word_of, nearest_words, renumbered, votes_of, words_of_clusters
from vladapt.adapters.selftraining.dpa import label_share, loss_terms, prediction_mixture, prototypes, pseudo_labels
from vladapt.adapters.transductive.gta_clip import confused_pairs, count_threshold, multi_positive

from .comparison import compares
from .fixtures import Check, Fixtures, Reference


@compares("reclip", "reclip")
def reclip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    text, images = f.common["text_features"], f.test_set
    spread = ref.setting("cg")["maxiter"]
    for stated in ref.setting("settings"):
        name, k, cut = _settings(stated)
        projection = projection_of(text, cut or text.shape[1])
        yield ref.check(projection, f"projection_{name}", f"{stated}, projection")
        done = Propagation(k, ref.setting("alpha"), spread)(text, images.features, projection)
        of_images = done.scores[len(text) :]
        yield ref.check_choice(done.labels, f"pseudo_labels_{name}", of_images, f"{stated}, pseudo-labels")
        yield ref.check(done.scores, f"scores_{name}", f"{stated}, scores")
        yield ref.check(done.centroids, f"centroids_{name}", f"{stated}, centroids")
        right = 100 * (done.labels == images.labels).float().mean()
        yield ref.check(right.reshape(1), f"accuracy_{name}", f"{stated}, accuracy")
        shares = done.scores[len(text) :] / done.scores[len(text) :].sum(dim=1, keepdim=True)
        entropy = -(shares * shares.log()).sum(dim=1) / torch.tensor(len(text)).log()
        yield ref.check(1 - entropy, f"confidence_{name}", f"{stated}, confidence of the scores' shares")


def _settings(stated: str) -> tuple[str, int, int | None]:
    """ "k=20, cut=7" -> ("k20_cut7", 20, 7); 768 of fewer stands as "cutall"."""
    said = dict(re.findall(r"(k|cut)=(\d+)", stated))
    k, cut = int(said["k"]), None if "(all)" in stated else int(said["cut"])
    return f"k{k}_cut{'all' if cut is None else cut}", k, cut


@compares("dpa", "dpa")
def dpa(ref: Reference, f: Fixtures) -> Iterator[Check]:
    memory, text = f.test_set.features, f.common["text_features"]
    scale = float(ref.setting("temperature"))
    labels = (memory @ text.T).argmax(dim=1)
    yield ref.check_choice(labels, "init_pseudo_labels", memory @ text.T, "labels of the texts")
    centres = prototypes(memory, labels, text)
    yield ref.check(centres, "image_prototypes", "image prototypes")
    weak, strong = ref["weak_features"], ref["strong_features"].requires_grad_()
    by_text, by_images = ((scale * weak @ rows.T).softmax(dim=1) for rows in (text, centres))
    yield ref.check(by_images, "centre_probs", "predictions by image prototypes")
    mean = torch.stack([ref["previous_batch_mean"], by_text.mean(dim=0)]).mean(dim=0)
    mixed, aligned = prediction_mixture(by_text, by_images, mean, ref.setting("a"))
    yield ref.check(aligned, "text_probs_aligned", "predictions by text prototypes, aligned")
    yield ref.check(mixed, "refined_probs", "their mixture")
    labels = pseudo_labels(by_text, by_images, mean, ref.setting("a"))
    yield ref.check_choice(labels, "pseudo_labels", mixed, "pseudo-labels")
    weights = label_share(by_text, labels) * label_share(by_images, labels)
    yield ref.check(weights, "weights", "weights")
    rows = text.clone().requires_grad_()
    terms = {"fairness": ref.setting("reg"), "alignment": ref.setting("align"), "sharpness": ref.setting("w")}
    loss = sum(loss_terms(scale * strong @ rows.T, labels, weights, centres, rows, terms).values())
    loss.backward()
    yield ref.check(loss.detach(), "loss", "loss")
    yield ref.check(strong.grad, "grad_strong", "gradient of the strong views")
    yield ref.check(rows.grad, "grad_classifier", "gradient of the text prototypes")


@compares("gta-clip", "gta_clip")
def gta_clip(ref: Reference, f: Fixtures) -> Iterator[Check]:
    images, rows = f.test_set, ref["attribute_features"].split(ref["attributes_per_class"].tolist())
    logits = f.text.logit_scale * images.features @ torch.stack([some.mean(dim=0) for some in rows]).T
    right = 100 * (logits.argmax(dim=1) == images.labels).float().mean()
    yield ref.check(right.reshape(1), "clip_accuracy", "accuracy of the attributes")
    z = build_adapter("gta-clip")._solved(images.features, logits).assignments
    yield ref.check(z, "z", "z")
    pairs, counts = confused_pairs(z, ref.setting("confusion_margin"))
    yield ref.check(pairs, "all_confused_pairs", "confused pairs")
    yield ref.check(counts, "all_confused_counts", "images of each")
    threshold = count_threshold(counts, ref.setting("target_fraction"))
    yield ref.check(torch.tensor([threshold]), "count_threshold", "threshold")
    yield ref.check(pairs[counts > threshold], "confused_pairs", "pairs that are compared")
    ours = z.T.topk(ref.setting("k"), dim=1).indices
    yield ref.check_choice(ours, "top8_indices", z.T, "pseudo-labels of each class, ties in any order")
    images_of, texts_of = ref["mp_image_ids"], ref["mp_text_ids"]
    same = (images_of[:, None] == images_of).float() @ (texts_of[:, None] == texts_of).float()  # paths over a pair
    given = ref["mp_logits_per_image"].clone().requires_grad_()
    loss = multi_positive(given, same > 0)
    loss.backward()
    yield ref.check(loss.detach(), "mp_loss", "contrastive loss")
    yield ref.check(given.grad, "mp_grad", "its gradient")


@compares("s3a", "s3a")
def s3a(ref: Reference, f: Fixtures) -> Iterator[Check]:
    features, text, clusters = f.test_set.features, ref["vocab_features"], ref["clusters"]
    top = nearest_words(features, text, ref["topk"].shape[1])
    yield ref.check_choice(top, "topk", features @ text.T, "nearest words")
    for key, count in ref.keys(r"votes_top(\d+)"):
        votes = votes_of(clusters, top[:, : int(count)], len(text))
        yield ref.check(votes, key, f"votes for {count} words")
        words = words_of_clusters(votes)
        theirs = ref[f"assigned_word_per_cluster_top{count}"]
        rows = torch.arange(len(votes))
        alike = torch.isclose(votes[rows, words].sum(), votes[rows, theirs].sum())
        words = theirs if alike else words  # of assignments with as many votes any will do
        yield ref.check(words, f"assigned_word_per_cluster_top{count}", f"{count} words, assignment")
        yield ref.check(words[clusters], f"image_label_top{count}", f"{count} words, word of each image")
        after = nearest_word_of(features, text, words)
        yield ref.check(after, f"reassigned_word_top{count}", f"{count} words, word after the move")
        yield ref.check(renumbered(after), f"reassigned_cluster_top{count}", f"{count} words, cluster after the move")


GROUPS = (reclip, dpa, gta_clip, s3a)
