"""The policies of iam/roles.yaml as CloudFormation makes them in the stand-in account."""

import ast
import fnmatch
from dataclasses import dataclass
from typing import Any

from paths import ROOT
from stand_ins.aws_server import ACCOUNT, REGION, AwsServer

TEMPLATE = ROOT / "sagemaker_jobs/iam/roles.yaml"
BUCKET = "our-bins"
HUB_SECRET = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:bin-counting/hub-token-AbCdEf"
ROLES = ("JobRole", "DataRole", "EndpointRole")
MANAGED_POLICIES = (
    *("LaunchPolicy", "DeployPolicy", "DeployLambdaPolicy", "EndpointCallerPolicy"),
    "LambdaBoundary",
)
# Allowed to everybody, whatever a policy says.
FREE = {"sts:GetCallerIdentity"}


@dataclass
class Stack:
    """What CloudFormation made: each policy's statements, and the roles."""

    policies: dict[str, list[dict[str, Any]]]
    trust: dict[str, dict[str, Any]]
    arns: dict[str, str]

    def allows(self, policy: str, action: str, resource: str) -> bool:
        return action in FREE or any(
            action in statement["Action"]
            and any(fnmatch.fnmatchcase(resource, r) for r in listed(statement["Resource"]))
            for statement in self.policies[policy]
        )


def listed(resource: str | list[str]) -> list[str]:
    return [resource] if isinstance(resource, str) else resource


def make_stack(aws: AwsServer, region: str = REGION, **parameters: str) -> Stack:
    cloudformation, iam = aws.client("cloudformation", region), aws.client("iam", region)
    cloudformation.create_stack(
        StackName="bin-counting",
        TemplateBody=TEMPLATE.read_text(),
        Parameters=[
            {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
        ],
        Capabilities=["CAPABILITY_IAM"],
    )
    (described,) = cloudformation.describe_stacks(StackName="bin-counting")["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}
    documents: dict[str, Any] = {role: {"Statement": []} for role in ROLES}
    arns, trust = {}, {}
    for role in ROLES:
        arns[role] = outputs[f"{role}Arn"]
        name = arns[role].rpartition("/")[2]
        trust[role] = iam.get_role(RoleName=name)["Role"]["AssumeRolePolicyDocument"]
        for attached in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
            assert attached["PolicyArn"] == outputs.get("KeyPolicyArn")  # none of AWS's own
            document = iam.get_policy_version(PolicyArn=attached["PolicyArn"], VersionId="v1")
            documents[role]["Statement"] += document["PolicyVersion"]["Document"]["Statement"]
        for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
            inline = iam.get_role_policy(RoleName=name, PolicyName=policy)["PolicyDocument"]
            # moto gives an inline policy of a template back as Python writes it.
            document = ast.literal_eval(inline) if isinstance(inline, str) else inline
            documents[role]["Statement"] += document["Statement"]
    for policy in MANAGED_POLICIES:
        version = iam.get_policy_version(PolicyArn=outputs[f"{policy}Arn"], VersionId="v1")
        documents[policy] = version["PolicyVersion"]["Document"]
    aws.received.clear()
    return Stack(
        policies={policy: document["Statement"] for policy, document in documents.items()},
        trust=trust,
        arns=arns,
    )
