"""The Hub's token, out of AWS Secrets Manager."""

import re

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
