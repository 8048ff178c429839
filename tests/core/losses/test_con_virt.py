"""ConVIRT beside its equation."""

import torch
import torch.nn.functional as F

from vladapt import build_loss


def test_it_is_the_papers_equation():
    generator = torch.Generator().manual_seed(0)
    image, text = F.normalize(torch.randn(2, 5, 7, generator=generator, dtype=torch.float64), dim=-1)
    image.requires_grad_()
    value = build_loss("con-virt")({"image_features": image, "text_features": text})["loss"]
    terms = []
    for i in range(5):
        to_text = -(image[i] @ text[i] / 0.1) + (image[i] @ text.T / 0.1).exp().sum().log()
        to_image = -(image[i] @ text[i] / 0.1) + (image @ text[i] / 0.1).exp().sum().log()
        terms.append(0.75 * to_text + 0.25 * to_image)
    wanted = torch.stack(terms).mean()
    torch.testing.assert_close(value, wanted)
    ours, theirs = (torch.autograd.grad(each, image, retain_graph=True)[0] for each in (value, wanted))
    torch.testing.assert_close(ours, theirs)


def test_both_options_count():
    out = {"image_features": torch.eye(3), "text_features": torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [0, 0, 1]])}
    parts = build_loss("con-virt", image_weight=1.0)(out)
    assert parts["loss"] == parts["image_to_text"] != parts["text_to_image"]
    assert build_loss("con-virt", temperature=0.5)(out)["loss"] > build_loss("con-virt")(out)["loss"]
