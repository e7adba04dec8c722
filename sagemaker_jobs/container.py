"""The only home of container versions: what runs in a SageMaker job, and so on the laptop.

    python sagemaker_jobs/container.py --region eu-west-1                     # the training image
    python sagemaker_jobs/container.py --processor cpu --purpose inference

Sources: AWS's list of Hugging Face deep learning containers, November 2026; the registries of the
regions from the SDK's own table, which ends at older versions.
"""

from aws.entry_parser import EntryParser
from aws.quiet_sdk import import_sagemaker

# The Hugging Face training container; a GPU image, as all training images of this family are.
TRAINING_IMAGE_TAG = "2.9.0-transformers5.3.0-gpu-py312-cu130-ubuntu22.04"
INFERENCE_IMAGE_TAGS = {
    "cpu": "2.6.0-transformers5.5.3-cpu-py312-ubuntu22.04",
    "gpu": "2.6.0-transformers5.5.3-gpu-py312-cu124-ubuntu22.04",
}
# On a CPU: AWS's PyTorch image, the newest that the SDK lists; a job there installs
# TRAINING_PACKAGES as it starts.
CPU_TRAINING_PYTORCH = "2.8.0"
PYTHON_VERSION = "py312"

# What the training container holds, and what requirements.txt therefore pins.
TRAINING_PACKAGES = {
    "transformers": "5.3.0",
    "datasets": "4.5.0",
    "accelerate": "1.12.0",
    "evaluate": "0.4.6",
    "huggingface_hub": "1.10.0",
}

DEFAULT_REGION = "us-east-1"
# The image that docker_debugging/debug.py builds on top of the training container.
LOCAL_IMAGE = "bin-counting-debug"
# Versions in the SDK's table, asked only for the registry of a region.
_LISTED = {
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
        listed: dict[str, str] = {"framework": "pytorch", "version": CPU_TRAINING_PYTORCH}
        instance_type = "ml.c5.xlarge"
    else:
        listed = {"framework": "huggingface", **_LISTED[purpose]}
        instance_type = "ml.g5.xlarge"  # the registry is the same for both
    try:
        uri = import_sagemaker().image_uris.retrieve(
            region=region,
            py_version=PYTHON_VERSION,
            instance_type=instance_type,
            image_scope=purpose,
            **listed,
        )
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"--region {region}: AWS keeps no {processor.upper()} {purpose} container there, or "
            f"there is no such region; choose another, such as {DEFAULT_REGION}."
        ) from error
    if listed["framework"] == "pytorch":
        return uri
    tag = TRAINING_IMAGE_TAG if purpose == "training" else INFERENCE_IMAGE_TAGS[processor]
    return f"{uri.rpartition(':')[0]}:{tag}"


def processor_of(instance_type: str) -> str:
    """Return gpu or cpu for an instance type such as ml.g5.xlarge.

    Source: AWS's naming: the families p and g hold NVIDIA GPUs, no other that is used here does.
    """
    return "gpu" if instance_type.removeprefix("ml.").startswith(("p", "g")) else "cpu"


def main(argv: list[str] | None = None) -> None:
    """Print the URI of an image."""
    parser = EntryParser(__doc__)
    parser.add_argument(
        "--region", default=DEFAULT_REGION, help="an AWS region (default: %(default)s)"
    )
    parser.add_argument(
        "--processor", choices=("gpu", "cpu"), default="gpu", help="default: %(default)s"
    )
    parser.add_argument(
        "--purpose",
        choices=("training", "inference"),
        default="training",
        help="default: %(default)s",
    )
    arguments = parser.parse_args(argv)
    with parser.errors_of_one_line():
        print(image_uri(arguments.region, arguments.processor, arguments.purpose))


if __name__ == "__main__":
    main()
