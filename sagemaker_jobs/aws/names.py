"""Names and instance types that AWS, and the policies of iam/roles.yaml, take."""

import functools
import re

import botocore.session

JOB_NAME = re.compile(r"bins-[a-zA-Z0-9](-*[a-zA-Z0-9])*")  # iam/roles.yaml allows these only
MAX_NAME_LENGTH = 63
# What AWS calls its lists.
INSTANCE_TYPES = {
    "training": "TrainingInstanceType",
    "processing": "ProcessingInstanceType",
    "hosting": "ProductionVariantInstanceType",
    "transform": "TransformInstanceType",
}
# Types with disks of their own, whose names have a d after the number, and all newer GPUs. Source:
# AWS's page on instance store volumes.
LOCAL_DISKS = re.compile(
    r"ml\.(g[4-9][a-z]*|p3dn|p[4-9][a-z0-9-]*|trn[a-z0-9]+|[cmr]\d+[a-z]*d[a-z]*)\."
)


def check_instance_type(instance_type: str, purpose: str, example: str) -> None:
    """Check a name against AWS's own list.

    Args:
        purpose: one of INSTANCE_TYPES.
        example: a type to name where no other is alike.

    Raises: ValueError: AWS has no such type for it.
    """
    known = instance_types(purpose)
    if instance_type in known:
        return
    family = ".".join(instance_type.split(".")[:2])
    similar = [name for name in known if name.startswith(f"{family}.")] or [example]
    raise ValueError(
        f"--instance_type {instance_type}: there is no such type for {purpose}; choose one such as "
        f"{', '.join(similar[:4])}."
    )


def check_volume_key(key: str | None, instance_type: str) -> None:
    """Check that AWS takes a key for an instance's disk.

    Raises: ValueError: the instance has disks of its own, which AWS encrypts by itself.
    """
    if key is not None and LOCAL_DISKS.match(instance_type):
        raise ValueError(
            f"--volume_kms_key: {instance_type} has disks of its own, which AWS encrypts by itself "
            "and takes no key for; leave it out, or choose another --instance_type."
        )


@functools.cache
def instance_types(purpose: str) -> tuple[str, ...]:
    """Return what AWS lists for a purpose, one of INSTANCE_TYPES; reading its list takes 0.1 s."""
    model = botocore.session.get_session().get_service_model("sagemaker")
    return tuple(model.shape_for(INSTANCE_TYPES[purpose]).enum)
