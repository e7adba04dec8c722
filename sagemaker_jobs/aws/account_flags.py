"""What an account may demand of all that runs in it: tags, a network, keys; flags and data."""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aws.entry_parser import EntryParser

ACCOUNT_FLAGS = ("tags", "subnets", "security_group_ids", "kms_key", "volume_kms_key")
# What request_bounds.check_bounds calls the fields that these flags say.
FLAGS_OF_FIELDS = {
    "Tags": "--tags",
    "Subnets": "--subnets",
    "SecurityGroupIds": "--security_group_ids",
    "VolumeKmsKeyId": "--volume_kms_key",
    "KmsKeyId": "--kms_key",
}


@dataclass(frozen=True)
class AccountDemands:
    """What each request carries because the account's own policies ask for it.

    Args:
        tags: of every resource that is made.
        subnets: ids; with `security_group_ids` the network that a container lies in.
        kms_key: id, alias or ARN of the key that encrypts what is written to S3.
        volume_kms_key: the same, of the instances' disks.

    Raises: ValueError: subnets without security groups, or the other way round.
    """

    tags: Mapping[str, str] = field(default_factory=dict)
    subnets: tuple[str, ...] = ()
    security_group_ids: tuple[str, ...] = ()
    kms_key: str | None = None
    volume_kms_key: str | None = None

    def __post_init__(self) -> None:
        if bool(self.subnets) != bool(self.security_group_ids):
            raise ValueError("--subnets and --security_group_ids: AWS needs both, or none.")

    @property
    def tag_list(self) -> list[dict[str, str]]:
        """The tags as requests have them."""
        return [{"Key": key, "Value": value} for key, value in self.tags.items()]

    @property
    def vpc_config(self) -> dict[str, list[str]] | None:
        """The network as requests have it, VpcConfig; None for SageMaker's own."""
        if not self.subnets:
            return None
        return {
            "Subnets": [*self.subnets],
            "SecurityGroupIds": [*self.security_group_ids],
        }


def add_account_flags(parser: EntryParser) -> None:
    """Add the flags of what an account may demand."""
    group = parser.add_argument_group("what your account may demand")
    group.add_argument(
        "--tags", nargs="+", type=_tag, default=[], metavar="KEY=VALUE", help="of all that is made"
    )
    group.add_argument(
        "--subnets",
        nargs="+",
        default=[],
        metavar="ID",
        help="run in a network of yours, from which S3 and, for a model on the Hub, the Internet "
        "have to be reached",
    )
    group.add_argument(
        "--security_group_ids", nargs="+", default=[], metavar="ID", help="of that network"
    )
    group.add_argument(
        "--kms_key", metavar="KEY", help="id or ARN of the key that encrypts what goes to S3"
    )
    group.add_argument(
        "--volume_kms_key", metavar="KEY", help="the same, for the disks of the instances"
    )


def account_demands(arguments: argparse.Namespace) -> AccountDemands:
    """Return what parsed flags demand. Raises: ValueError: a tag twice, half a network."""
    tags: dict[str, str] = {}
    for key, value in arguments.tags:
        if key in tags:
            raise ValueError(f"--tags {key}={value}: {key} is given twice.")
        tags[key] = value
    return AccountDemands(
        tags=tags,
        subnets=tuple(arguments.subnets),
        security_group_ids=tuple(arguments.security_group_ids),
        kms_key=arguments.kms_key,
        volume_kms_key=arguments.volume_kms_key,
    )


def _tag(text: str) -> Any:
    """Return key and value of a tag. Raises: ValueError: it has no key, or no equals sign."""
    key, has_value, value = text.partition("=")
    if not key or not has_value:
        raise ValueError(text)
    return key, value


_tag.__name__ = "KEY=VALUE"  # what argparse names in "invalid ... value"
