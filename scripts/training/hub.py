"""The Hub: the token for a push from a job, out of AWS Secrets Manager, and the push itself."""

import re
import sys
from typing import TYPE_CHECKING

from huggingface_hub.errors import HTTPError

from training.sagemaker_job import in_sagemaker_job

if TYPE_CHECKING:
    # Takes seconds to import, which a check of the flags need not wait for.
    from transformers import Trainer

# Of Amazon's photos, which ask that what is made of them is shared alike.
DATA_LICENCE = "cc-by-nc-sa-3.0"
# Marks the repositories that sagemaker_jobs/push_to_hub.py may write to.
HUB_TAG = "bin-counting"

SECRET_ARN = re.compile(r"arn:aws[\w-]*:secretsmanager:([a-z0-9-]+):\d{12}:secret:[\w/+=.@-]+")


def check_secret_arn(arn: str) -> str:
    """Return the region in a secret's ARN. Raises: ValueError: it is no such ARN."""
    if match := SECRET_ARN.fullmatch(arn):
        return match[1]
    raise ValueError(
        f"--hub_token_secret {arn}: give the ARN of a secret in AWS Secrets Manager, "
        "arn:aws:secretsmanager:REGION:ACCOUNT:secret:NAME."
    )


def read_hub_token(arn: str) -> str:
    """Return the token that a secret holds.

    Raises: ValueError: no permission, no such secret, or it holds something else than a token.
    """
    # In the container, but not wherever this script runs; and only here.
    import boto3
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client("secretsmanager", region_name=check_secret_arn(arn))
    try:
        token = client.get_secret_value(SecretId=arn).get("SecretString", "").strip()
    except ClientError as error:
        code = error.response["Error"]["Code"]
        raise ValueError(
            f"--hub_token_secret: AWS does not give it ({code}); the role that runs this needs "
            "secretsmanager:GetSecretValue for it (sagemaker_jobs/iam/roles.yaml, parameter "
            "HubTokenSecretArn)."
        ) from error
    except BotoCoreError as error:
        raise ValueError(f"--hub_token_secret: {error}") from error
    if not re.fullmatch(r"\S+", token) or token.startswith("{"):
        raise ValueError(
            "--hub_token_secret: the secret has to be the token alone, as plain text; make it with "
            "`aws secretsmanager create-secret --name NAME --secret-string file://FILE`."
        )
    return token


def push_to_hub(trainer: "Trainer") -> None:
    """Push as Trainer does: its run folder but for checkpoints, with a card of its own."""
    try:
        trainer.push_to_hub(license=DATA_LICENCE, tags=[HUB_TAG])
    except (OSError, RuntimeError, HTTPError) as error:
        reason = " ".join(str(error).split())
        print(
            f"The model was not pushed ({reason}); sagemaker_jobs/push_to_hub.py can push it.",
            file=sys.stderr,
        )
        # A job that fails leaves no model in S3.
        if not in_sagemaker_job():
            sys.exit(1)
