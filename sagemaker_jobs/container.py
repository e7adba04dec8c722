"""The only home of container versions: what runs in a SageMaker job, and so on the laptop.

Source: AWS's list of Hugging Face deep learning containers, November 2026. image_uri.py prints the
URIs of a region.
"""

# The Hugging Face training container; a GPU image, as all training images of this family are.
TRAINING_IMAGE_TAG = "2.9.0-transformers5.3.0-gpu-py312-cu130-ubuntu22.04"
INFERENCE_IMAGE_TAGS = {
    "cpu": "2.6.0-transformers5.5.3-cpu-py312-ubuntu22.04",
    "gpu": "2.6.0-transformers5.5.3-gpu-py312-cu124-ubuntu22.04",
}
# On a CPU: AWS's PyTorch image, in which a job installs TRAINING_PACKAGES as it starts. Its torch
# is the laptop's: what is tested is what runs. AWS mends it until 2027-07-20; source of tag and
# date: aws/deep-learning-containers, docs/src/data/pytorch/2.13-cpu-sagemaker.yml.
CPU_TRAINING_PYTORCH = "2.13.0"
CPU_TRAINING_IMAGE = f"pytorch:{CPU_TRAINING_PYTORCH}-cpu-amzn2023-sagemaker"
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
# Family: size: GPUs, of instances with more than one. The SDK's own table ends at older types.
# Source: aws.amazon.com/ec2/instance-types, accelerated computing.
SEVERAL_GPUS = {
    **{family: {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8} for family in ("g5", "g6", "g6e")},
    "g4dn": {"12xlarge": 4, "metal": 8},
    "g7e": {"12xlarge": 2, "24xlarge": 4, "48xlarge": 8},
    "p2": {"8xlarge": 8, "16xlarge": 16},
    "p3": {"8xlarge": 4, "16xlarge": 8},
    **{family: {"24xlarge": 8} for family in ("p3dn", "p4d", "p4de")},
    **{family: {"48xlarge": 8} for family in ("p5", "p5e", "p5en", "p6-b200", "p6-b300")},
}


def processor_of(instance_type: str) -> str:
    """Return gpu or cpu for an instance type such as ml.g5.xlarge.

    Source: AWS's naming: the families p and g hold NVIDIA GPUs, no other that is used here does.
    """
    return "gpu" if instance_type.removeprefix("ml.").startswith(("p", "g")) else "cpu"


def num_gpus(instance_type: str) -> int:
    """Return the GPUs of an instance; 2 for a family that is newer than the table.

    With several a job starts a process on each, which one alone takes as well.
    """
    if processor_of(instance_type) == "cpu":
        return 0
    family, _, size = instance_type.removeprefix("ml.").partition(".")
    return SEVERAL_GPUS[family].get(size, 1) if family in SEVERAL_GPUS else 2


def vcpus_of(instance_type: str) -> int:
    """Return how many processors an instance type such as ml.c5.xlarge has.

    Source: AWS's naming: xlarge is 4, 12xlarge 48, what is smaller 2; metal says nothing.
    """
    size = instance_type.rpartition(".")[2]
    times = size.removesuffix("xlarge")
    if times == size:
        return 2
    return 4 * int(times) if times.isdecimal() else 4
