import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

from model_families import TINY_CONFIGS
from paths import ROOT
from recipe.regularization import (
    LAYER_DECAY,
    WeightAverage,
    add_drop_path,
    layer_depths,
    layer_groups,
    load_trained_weights,
    matrices,
    save_trained_weights,
)
from tiny_model import TINY_VIT


def tiny_model(tmp_path: Path, **config: object) -> PreTrainedModel:
    content = {**(config or TINY_VIT), "id2label": {str(i): str(i + 1) for i in range(5)}}
    (tmp_path / "config.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    return AutoModelForImageClassification.from_config(AutoConfig.from_pretrained(tmp_path))


def tiny_resnet(tmp_path: Path) -> PreTrainedModel:
    shipped = json.loads((ROOT / "scripts/model_configs/resnet34/config.json").read_text())
    small = {"hidden_sizes": [4, 8, 16, 32], "depths": [1, 2, 1, 1], "embedding_size": 4}
    return tiny_model(tmp_path, **{**shipped, **small})


def test_the_depth_of_a_vits_weights_is_that_of_their_layer(tmp_path: Path) -> None:
    depths = layer_depths(tiny_model(tmp_path))
    assert {depth for name, depth in depths.items() if "embeddings" in name} == {0}
    assert {depth for name, depth in depths.items() if "classifier" in name} == {3}
    assert depths["vit.layernorm.weight"] == 3
    in_layers = [depth for depth in depths.values() if depth in (1, 2)]
    assert in_layers.count(1) == in_layers.count(2) > 10


def test_the_depth_of_a_resnets_weights_is_that_of_their_stage(tmp_path: Path) -> None:
    depths = layer_depths(tiny_resnet(tmp_path))
    for name, depth in depths.items():
        if "stages" in name:
            assert f"stages.{depth - 1}." in name
        else:
            assert depth == (0 if "embedder" in name else 5)


@pytest.mark.parametrize(
    ("family", "lowest", "in_stack", "num_levels"),
    [
        ("mobilenet_v1", "conv_stem", "layer.25.", 14),
        ("mobilenet_v2", "conv_stem", "layer.15.", 14),
        ("mobilevit", "conv_stem", "layer.4.", 7),
        ("efficientnet", "embeddings", "blocks.6.", 9),
        ("poolformer", None, "block.3.", 5),
        ("swiftformer", "patch_embed", "network.6.", 9),
        ("swinv2", "embeddings", "layers.1.", 4),
        ("dinov2", "embeddings", "layer.1.", 4),
    ],
)
def test_the_depths_of_each_family_rise_from_the_photos_to_the_head(
    family: str, lowest: str | None, in_stack: str, num_levels: int
) -> None:
    config = AutoConfig.for_model(family, **TINY_CONFIGS[family], num_labels=5)
    depths = layer_depths(AutoModelForImageClassification.from_config(config))
    assert len({*depths.values()}) == num_levels
    head = max(depths.values())
    assert depths[list(depths)[-1]] == head  # the classifier
    assert {depth for name, depth in depths.items() if in_stack in name} == {head - 1}
    if lowest is not None:
        assert {depth for name, depth in depths.items() if lowest in name} == {0}
    else:  # each stage has its own
        assert [
            depths[f"poolformer.encoder.patch_embeddings.{n}.projection.bias"] for n in range(4)
        ] == [1, 2, 3, 4]


class NamedAsInTimm(nn.Module):
    """The names of timm's networks, which are not installed here."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        for name in names:
            *path, last = name.split(".")
            module: nn.Module = self
            for part in path:
                if part not in dict(module.named_children()):
                    module.add_module(part, nn.Module())
                module = module.get_submodule(part)
            module.register_parameter(last, nn.Parameter(torch.zeros(4, 4)))


def test_the_layers_of_timm_models_are_found() -> None:
    vit = NamedAsInTimm(
        "timm_model.cls_token", "timm_model.pos_embed", "timm_model.patch_embed.proj.weight",
        *(f"timm_model.blocks.{n}.mlp.fc{m}.weight" for n in range(24) for m in (1, 2)),
        "timm_model.norm.weight", "timm_model.head.weight",
    )  # fmt: skip
    depths = layer_depths(vit)
    assert depths["timm_model.pos_embed"] == depths["timm_model.patch_embed.proj.weight"] == 0
    assert [depths[f"timm_model.blocks.{n}.mlp.fc1.weight"] for n in range(24)] == [*range(1, 25)]
    assert depths["timm_model.head.weight"] == 25
    resnet = NamedAsInTimm(
        "timm_model.conv1.weight", "timm_model.bn1.weight",
        *(f"timm_model.layer{n}.{m}.conv1.weight" for n in (1, 2, 3, 4) for m in (0, 1)),
        "timm_model.fc.weight",
    )  # fmt: skip
    depths = layer_depths(resnet)
    assert depths["timm_model.conv1.weight"] == 0
    assert [depths[f"timm_model.layer{n}.1.conv1.weight"] for n in (1, 2, 3, 4)] == [1, 2, 3, 4]
    assert depths["timm_model.fc.weight"] == 5


def test_weight_decay_is_for_matrices_alone(tmp_path: Path) -> None:
    model = tiny_resnet(tmp_path)
    names = matrices(model, [name for name, _ in model.named_parameters()])
    assert names
    assert not [name for name in names if "normalization" in name or "bias" in name]


def test_each_layer_learns_slower_than_the_one_above_and_every_weight_is_in_one_group(
    tmp_path: Path,
) -> None:
    model = tiny_model(tmp_path)
    decayed = {name for name, _ in model.named_parameters() if "bias" not in name}
    groups = layer_groups(model, decayed, weight_decay=0.05, learning_rate=1.0)
    optimizer = torch.optim.AdamW(groups, lr=1.0)
    assert optimizer.param_groups[0]["lr"] == 1.0
    group_of = {
        parameter: group for group in optimizer.param_groups for parameter in group["params"]
    }
    depths = layer_depths(model)
    assert len(group_of) == sum(len(group["params"]) for group in optimizer.param_groups)
    for name, parameter in model.named_parameters():
        group = group_of[parameter]
        assert group["lr"] == pytest.approx(LAYER_DECAY ** (3 - depths[name]))
        assert group["weight_decay"] == (0.0 if "bias" in name else 0.05)


def test_drop_path_skips_layers_in_training_alone_and_keeps_their_mean(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    names = set(model.state_dict())
    photo = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        whole = model.eval()(pixel_values=photo).logits
        add_drop_path(model, 0.1)
        assert set(model.state_dict()) == names
        torch.testing.assert_close(model(pixel_values=photo).logits, whole)
        layer = (model.vit.encoder.layer if hasattr(model.vit, "encoder") else model.vit.layers)[1]
        hidden_states = torch.randn(1, 4, 32).expand(4000, -1, -1)
        added = layer.eval()(hidden_states)[0] - hidden_states[0]
        dropped = layer.train()(hidden_states) - hidden_states
    is_skipped = (dropped == 0).flatten(1).all(dim=1)
    assert 0.07 < float(is_skipped.float().mean()) < 0.13
    torch.testing.assert_close(dropped[~is_skipped][0], added / 0.9, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(dropped.mean(dim=0), added, rtol=0.1, atol=1e-3)


def test_a_resnet_skips_no_layers(tmp_path: Path) -> None:
    model = tiny_resnet(tmp_path)
    add_drop_path(model, 0.1)
    assert not any(module._forward_hooks for module in model.modules())


def test_without_a_share_no_layer_is_skipped(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    add_drop_path(model, 0.0)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_average_follows_the_last_tenth_of_the_steps_and_holds_statistics_too(
    tmp_path: Path,
) -> None:
    model = tiny_resnet(tmp_path)
    average = WeightAverage(model)
    for step in range(1, 1001):
        for tensor in model.state_dict().values():
            tensor.fill_(step)
        average.update(model, step)
    for name, tensor in average.model.state_dict().items():
        if name.endswith("num_batches_tracked"):
            assert int(tensor) == 1000
        else:
            # Of weights that grow as the steps do, the mean of the power function is 7.94 / 8.94.
            assert float(tensor.flatten()[0]) == pytest.approx(888.1, rel=0.01)


def test_weights_in_training_come_back_to_the_bit_or_not_at_all(tmp_path: Path) -> None:
    model = tiny_model(tmp_path)
    save_trained_weights(model, tmp_path)
    other = tiny_model(tmp_path)
    for parameter in other.parameters():
        parameter.data.add_(1.0)
    load_trained_weights(other, tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])
    with pytest.raises(RuntimeError):
        load_trained_weights(tiny_resnet(tmp_path), tmp_path)
