"""A tiny config of every family that AutoModelForImageClassification knows, for small photos.

A few layers, some thousand parameters: a step takes milliseconds. Where a network within has as
many heads as there are counts, five, it is so on purpose.
"""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageClassification

IMAGE_SIZE = 64

TRANSFORMER = {
    "image_size": IMAGE_SIZE,
    "patch_size": 16,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}
# Of text and images; the half for text is not used.
TWO_TOWERS = {"vision_config": TRANSFORMER, "text_config": {"num_hidden_layers": 1}}
STAGES = {"hidden_sizes": [8, 16, 24, 32], "depths": [1, 1, 2, 1]}
SWIN = {
    "image_size": IMAGE_SIZE,
    "patch_size": 4,
    "embed_dim": 10,
    "depths": [1, 2],
    "num_heads": [2, 5],
    "window_size": 4,
}

TINY_CONFIGS: dict[str, dict[str, Any]] = {
    "beit": TRANSFORMER,
    "bit": {"embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 1], "num_groups": 8},
    "clip": TWO_TOWERS,
    "convnext": {**STAGES, "num_stages": 4},
    "convnextv2": {**STAGES, "num_stages": 4},
    "cvt": {"embed_dim": [8, 16, 32], "num_heads": [1, 1, 2], "depth": [1, 2, 3]},
    "data2vec-vision": TRANSFORMER,
    "deit": TRANSFORMER,
    "dinat": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2]},
    "dinov2": {**TRANSFORMER, "image_size": 128},
    "dinov2_with_registers": {**TRANSFORMER, "image_size": 128},
    "donut-swin": SWIN,
    "efficientnet": {
        "image_size": IMAGE_SIZE,
        "width_coefficient": 0.25,
        "depth_coefficient": 0.25,
        "hidden_dim": 320,
    },
    "focalnet": {
        "image_size": IMAGE_SIZE,
        "embed_dim": 8,
        "depths": [1, 2],
        "focal_levels": [1, 1],
        "focal_windows": [3, 3],
    },
    "hgnet_v2": {},
    "hiera": {
        "image_size": [64, 64],
        "embed_dim": 8,
        "num_heads": [1, 1, 2, 2],
        "depths": [1, 1, 2, 1],
    },
    "ijepa": TRANSFORMER,
    "imagegpt": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64 * 64},
    "levit": {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "num_attention_heads": [1, 1, 2],
        "depths": [1, 1, 1],
        "key_dim": [8, 8, 8],
    },
    "metaclip_2": TWO_TOWERS,
    "mobilenet_v1": {"depth_multiplier": 0.25},
    "mobilenet_v2": {"depth_multiplier": 0.35},
    "mobilevit": {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "neck_hidden_sizes": [8, 8, 16, 16, 24, 32, 40],
    },
    "mobilevitv2": {
        "image_size": 64,
        "base_attn_unit_dims": [16, 24, 32],
        "n_attn_blocks": [1, 1, 1],
        "width_multiplier": 0.25,
    },
    "perceiver": {
        "image_size": IMAGE_SIZE,
        "num_latents": 8,
        "d_latents": 32,
        "num_self_attends_per_block": 2,
    },
    "poolformer": STAGES,
    "pvt": {
        "image_size": 64,
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
    },
    "pvt_v2": {
        "image_size": 64,
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
    },
    "regnet": {
        "embedding_size": 8,
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 2, 1],
        "groups_width": 8,
    },
    "resnet": {**STAGES, "embedding_size": 8, "layer_type": "basic"},
    "segformer": {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 2, 2],
        "decoder_hidden_size": 16,
    },
    "shieldgemma2": {
        "vision_config": TRANSFORMER,
        "text_config": {
            "vocab_size": 64,
            "hidden_size": 32,
            "head_dim": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
        },
    },
    "siglip": TWO_TOWERS,
    "siglip2": TWO_TOWERS,
    "swiftformer": {"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32]},
    "swin": SWIN,
    "swinv2": SWIN,
    "textnet": {},
    "timm_wrapper": {"architecture": "resnet18"},
    "vit": TRANSFORMER,
    "vit_msn": TRANSFORMER,
}


def drawn_model(family: str) -> Any:
    """Return a tiny model of three counts, the same random one every time, in evaluation mode."""
    config = AutoConfig.for_model(family, **TINY_CONFIGS[family], num_labels=3)
    torch.manual_seed(0)
    return AutoModelForImageClassification.from_config(config).eval()
