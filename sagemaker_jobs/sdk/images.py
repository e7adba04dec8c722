"""The URI of an image in a region: AWS's registry there, and the version of container.py."""

from typing import Any

import container
from sdk.installed import installed_sdk

# Versions that either SDK's table has, asked only for the registry of a region: they end at older
# ones than container.py names.
_LISTED: dict[str, dict[str, Any]] = {
    "training": {
        "version": "4.56.2",
        "base_framework_version": "pytorch2.8.0",
        "container_version": "cu129-ubuntu22.04",
    },
    "inference": {
        "version": "4.51.3",
        "base_framework_version": "pytorch2.6.0",
        "container_version": "cu124-ubuntu22.04",
    },
}


def image_uri(region: str, processor: str, purpose: str) -> str:
    """Return the URI of the image that a job or an endpoint runs.

    Args:
        processor: gpu or cpu.
        purpose: training or inference.

    Raises: ValueError: AWS keeps no such container in the region.
    """
    if (purpose, processor) == ("training", "cpu"):
        name = container.CPU_TRAINING_IMAGE
    elif purpose == "training":
        name = f"huggingface-pytorch-training:{container.TRAINING_IMAGE_TAG}"
    else:
        name = f"huggingface-pytorch-inference:{container.INFERENCE_IMAGE_TAGS[processor]}"
    sdk = installed_sdk()
    try:
        uri = sdk.listed_image_uri(
            framework="huggingface",
            region=region,
            py_version=container.PYTHON_VERSION,
            instance_type="ml.g5.xlarge",  # the registry is the same for all
            image_scope=purpose,
            **_LISTED[purpose],
        )
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"--region {region}: AWS keeps no {processor.upper()} {purpose} container there, or "
            f"there is no such region; choose another, such as {container.DEFAULT_REGION}."
        ) from error
    return f"{uri.partition('/')[0]}/{name}"


def check_profiler_rules(region: str) -> None:
    """Check that AWS keeps its profiler rules in a region.

    Raises: ValueError: it does not, in five of those that have the training container.
    """
    sdk = installed_sdk()
    try:
        sdk.listed_image_uri(framework="debugger", region=region)
    except ValueError as error:
        raise ValueError(
            f"--profile: AWS has no profiler rules in {region}; --diagnostics measures and judges "
            "the training there too."
        ) from error
