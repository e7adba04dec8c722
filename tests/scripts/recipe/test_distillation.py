import torch
from transformers import PreTrainedModel, ViTConfig, ViTForImageClassification

from recipe.distillation import Teachers
from tiny_model import TINY_VIT


def drawn(seed: int) -> PreTrainedModel:
    torch.manual_seed(seed)
    model = ViTForImageClassification(ViTConfig(**TINY_VIT, num_labels=5))
    torch.nn.init.normal_(model.classifier.weight)
    return model.train()


def test_targets_get_the_share_of_the_teachers_mean() -> None:
    models = [drawn(0), drawn(1)]
    photos = torch.randn(3, 3, 32, 32)
    labels = torch.eye(5)[:3]
    taught = Teachers(models, 0.25).taught(labels, photos)
    with torch.no_grad():
        said = [model.eval()(pixel_values=photos).logits.softmax(1) for model in models]
    torch.testing.assert_close(taught, 0.75 * labels + 0.25 * (said[0] + said[1]) / 2)
    assert torch.equal(Teachers(models, 0.0).taught(labels, photos), labels)


def test_teachers_do_not_learn() -> None:
    model = drawn(0)
    taught = Teachers([model], 1.0).taught(torch.eye(5), torch.randn(5, 3, 32, 32))
    assert not taught.requires_grad
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
