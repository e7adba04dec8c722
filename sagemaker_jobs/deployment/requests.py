"""A deployment as data, and the requests that make it. Nothing here reaches AWS."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import container
from aws.account_flags import FLAGS_OF_FIELDS, AccountDemands
from aws.names import JOB_NAME, MAX_NAME_LENGTH, check_instance_type, check_volume_key
from aws.request_bounds import check_bounds
from aws.settings import bucket_and_prefix

VARIANT = "AllTraffic"
LAMBDA_FOLDER = Path(__file__).parent.parent / "lambda_function"
DEFAULT_INSTANCE_TYPE = "ml.c5.xlarge"
# Other processors than the container is made for, and GPUs that its CUDA 12.4 has dropped
# or does not know yet.
UNUSABLE = re.compile(r"ml\.(p2|p6|g7|inf\d|trn\d|[a-z]+\d+g)[a-z]*[.-]")
# Source of all limits: AWS's pages on serverless inference, autoscaling and batch transform.
SERVERLESS_MEMORY = (1024, 2048, 3072, 4096, 5120, 6144)  # MB
MAX_SERVERLESS_CONCURRENCY = 200
# Less than multi-model-server takes (6.5 MB) and than AWS sends to a serverless endpoint (4 MB).
BATCH_PAYLOAD_MB = 6
# Requests at once to an instance of a batch transform: all their payloads stay below AWS's 100 MB.
MAX_CONCURRENT_TRANSFORMS = 16
LAMBDA_PHOTO_BYTES = 2_900_000  # in base64 below those 4 MB
# The flags that say a request's fields.
FLAGS = FLAGS_OF_FIELDS | {
    "InstanceType": "--instance_type",
    "InitialInstanceCount": "--instance_count",
    "InstanceCount": "--instance_count",
    "MaxCapacity": "--max_instance_count",
    "MinCapacity": "--instance_count",
    "TargetValue": "--invocations_per_minute",
    "DestinationS3Uri": "--data_capture",
    "S3Uri": "--batch_transform",
    "S3OutputPath": "--batch_transform",
    "ModelDataUrl": "--output",
    "SSEKMSKeyId": "--kms_key",
    "ExecutionRoleArn": "--role",
}
# What the contents of a request's Body are called, before there are any.
MODEL_ARCHIVE, SMOKE_PHOTO = "the model's archive", "the smoke test's photo, a PNG"


@dataclass(frozen=True)
class Request:
    """One call to AWS, in botocore's words.

    `body` names what `Body` will hold, where the call has one.
    """

    service: str
    operation: str
    parameters: Mapping[str, Any]
    body: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what --dry_run prints of it."""
        parameters = dict(self.parameters) | ({"Body": f"<{self.body}>"} if self.body else {})
        return {"service": self.service, "operation": self.operation, "parameters": parameters}


@dataclass(frozen=True)
class Serverless:
    """An endpoint without instances: MB of memory of each worker, and requests at once."""

    memory_mb: int
    max_concurrency: int

    def __post_init__(self) -> None:
        if self.memory_mb not in SERVERLESS_MEMORY:
            sizes = ", ".join(map(str, SERVERLESS_MEMORY))
            raise ValueError(f"--memory_mb {self.memory_mb}: AWS has {sizes}.")
        if self.max_concurrency > MAX_SERVERLESS_CONCURRENCY:
            raise ValueError(
                f"--max_concurrency {self.max_concurrency}: AWS allows "
                f"{MAX_SERVERLESS_CONCURRENCY} at most."
            )


@dataclass(frozen=True)
class Scaling:
    """Instances between the first number and this one, for so many requests a minute each."""

    max_instance_count: int
    requests_per_minute: float


@dataclass(frozen=True)
class Instances:
    """A real-time endpoint on instances of its own."""

    instance_type: str
    instance_count: int
    scaling: Scaling | None = None
    data_capture: str | None = None  # S3 folder

    def __post_init__(self) -> None:
        check_usable(self.instance_type, "hosting")
        if self.scaling and self.scaling.max_instance_count <= self.instance_count:
            raise ValueError(
                f"--max_instance_count {self.scaling.max_instance_count} has to be more than "
                f"--instance_count {self.instance_count}."
            )


@dataclass(frozen=True)
class BatchTransform:
    """All photos of one S3 folder once, answers to another."""

    photos: str
    answers: str
    instance_type: str
    instance_count: int

    def __post_init__(self) -> None:
        check_usable(self.instance_type, "transform")


@dataclass(frozen=True)
class LambdaFunction:
    """A Lambda function in front of the endpoint.

    `photos` is the S3 folder of which an event may name photos, `role_boundary` the ARN of the
    policy that bounds its role.
    """

    photos: str
    role_boundary: str | None = None


@dataclass(frozen=True)
class Deployment:
    """What is deployed, before anybody knows as whom and where it runs.

    `archive` is where the model's archive goes to in S3. `photos` is the S3 folder of which the
    handler itself may read photos, `has_export` says whether the model has the form for CPUs that
    scripts/export_model.py writes. Without `form` there is an endpoint already.

    Raises: ValueError: AWS would refuse it, or it would not work.
    """

    name: str
    form: Instances | Serverless | BatchTransform | None
    archive: str = ""
    photos: str | None = None
    has_export: bool = False
    function: LambdaFunction | None = None
    demands: AccountDemands = field(default_factory=AccountDemands)

    def __post_init__(self) -> None:
        check_name(self.name)
        if isinstance(self.form, Serverless) and (
            self.demands.vpc_config or self.demands.volume_kms_key
        ):
            raise ValueError(
                "--serverless: AWS puts it into no network of yours and encrypts its disk itself; "
                "leave --subnets, --security_group_ids and --volume_kms_key out."
            )
        if isinstance(self.form, Instances | BatchTransform):
            check_volume_key(self.demands.volume_kms_key, self.form.instance_type)
        if isinstance(self.form, BatchTransform) and (self.function or self.photos):
            raise ValueError(
                "--batch_transform makes no endpoint: leave --lambda and --photos out."
            )

    @property
    def serves_export(self) -> bool:
        """Whether the exported form, made for CPUs, goes along.

        To a serverless endpoint it does not: only /tmp can be written there, and the package that
        reads the form is installed when the container starts.
        """
        takes_it = not isinstance(self.form, Serverless) and self.processor == "cpu"
        return self.has_export and takes_it

    @property
    def processor(self) -> str:
        """gpu or cpu."""
        if isinstance(self.form, Instances | BatchTransform):
            return container.processor_of(self.form.instance_type)
        return "cpu"

    @property
    def environment(self) -> dict[str, str]:
        """The container's environment variables."""
        variables = {
            # As the SDK's HuggingFaceModel sets them.
            "SAGEMAKER_PROGRAM": "inference.py",
            "SAGEMAKER_SUBMIT_DIRECTORY": "/opt/ml/model/code",
            "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
            "HF_HUB_OFFLINE": "1",
        }
        if isinstance(self.form, Serverless):
            # One request at a time comes to a serverless worker; each process holds the model.
            variables |= {"SAGEMAKER_MODEL_SERVER_WORKERS": "1", "HF_HOME": "/tmp"}  # noqa: S108
        if self.photos:
            variables["BIN_PHOTOS_S3_PREFIX"] = self.photos
        return variables

    def requests(self, image: str, role: str) -> list[Request]:
        """Return all that is sent to make it, in this order.

        Args:
            image: URI of the inference container.
            role: ARN of the role that it runs as.
        """
        making: list[Request] = []
        if self.form is not None:
            making = [self._upload(), self._create_model(image, role)]
        if isinstance(self.form, BatchTransform):
            return [*making, self._transform(self.form)]
        if self.form is not None:
            making += [self._create_configuration(), self._create_endpoint()]
            making += self._scale() + [self._smoke_test()]
        return making + ([self._create_stack(self.function)] if self.function else [])

    def _upload(self) -> Request:
        bucket, key = bucket_and_prefix(self.archive)
        parameters = {"Bucket": bucket, "Key": key}
        if self.demands.kms_key:
            parameters |= {
                "ServerSideEncryption": "aws:kms",
                "SSEKMSKeyId": self.demands.kms_key,
            }
        return Request("s3", "PutObject", parameters, MODEL_ARCHIVE)

    def _create_model(self, image: str, role: str) -> Request:
        parameters: dict[str, Any] = {
            "ModelName": self.name,
            "ExecutionRoleArn": role,
            "PrimaryContainer": {
                "Image": image,
                "ModelDataUrl": self.archive,
                "Environment": self.environment,
            },
        }
        # A container that reads nothing from S3 and installs nothing needs no network. A serverless
        # one cannot be told so.
        if not (isinstance(self.form, Serverless) or self.photos or self.serves_export):
            parameters["EnableNetworkIsolation"] = True
        if self.demands.vpc_config:
            parameters["VpcConfig"] = self.demands.vpc_config
        return Request("sagemaker", "CreateModel", parameters | self._tags)

    def _create_configuration(self) -> Request:
        variant: dict[str, Any] = {"VariantName": VARIANT, "ModelName": self.name}
        parameters: dict[str, Any] = {
            "EndpointConfigName": self.name,
            "ProductionVariants": [variant],
        }
        if isinstance(self.form, Serverless):
            variant["ServerlessConfig"] = {
                "MemorySizeInMB": self.form.memory_mb,
                "MaxConcurrency": self.form.max_concurrency,
            }
        elif isinstance(self.form, Instances):
            variant |= {
                "InstanceType": self.form.instance_type,
                "InitialInstanceCount": self.form.instance_count,
                "InitialVariantWeight": 1.0,
            }
            if self.form.data_capture:
                parameters["DataCaptureConfig"] = {
                    "EnableCapture": True,
                    "InitialSamplingPercentage": 100,
                    "DestinationS3Uri": self.form.data_capture,
                    "CaptureOptions": [{"CaptureMode": "Input"}, {"CaptureMode": "Output"}],
                    "CaptureContentTypeHeader": {"JsonContentTypes": ["application/json"]},
                    **self._key("KmsKeyId", self.demands.kms_key),
                }
            parameters |= self._key("KmsKeyId", self.demands.volume_kms_key)
        return Request("sagemaker", "CreateEndpointConfig", parameters | self._tags)

    def _create_endpoint(self) -> Request:
        names = {"EndpointName": self.name, "EndpointConfigName": self.name}
        return Request("sagemaker", "CreateEndpoint", names | self._tags)

    def _scale(self) -> list[Request]:
        if not isinstance(self.form, Instances) or not self.form.scaling:
            return []
        target = scalable_target(self.name)
        capacity = {
            "MinCapacity": self.form.instance_count,
            "MaxCapacity": self.form.scaling.max_instance_count,
        }
        policy = {
            "PolicyName": self.name,
            "PolicyType": "TargetTrackingScaling",
            "TargetTrackingScalingPolicyConfiguration": {
                "TargetValue": self.form.scaling.requests_per_minute,
                "PredefinedMetricSpecification": {
                    "PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"
                },
            },
        }
        return [
            Request("application-autoscaling", "RegisterScalableTarget", target | capacity),
            Request("application-autoscaling", "PutScalingPolicy", target | policy),
        ]

    def _smoke_test(self) -> Request:
        question = {"EndpointName": self.name, "ContentType": "image/png"}
        question["Accept"] = "application/json"
        return Request("sagemaker-runtime", "InvokeEndpoint", question, SMOKE_PHOTO)

    def _transform(self, batch: BatchTransform) -> Request:
        data_source = {"S3DataType": "S3Prefix", "S3Uri": batch.photos}
        parameters = {
            "TransformJobName": self.name,
            "ModelName": self.name,
            "MaxPayloadInMB": BATCH_PAYLOAD_MB,
            "MaxConcurrentTransforms": min(
                container.vcpus_of(batch.instance_type), MAX_CONCURRENT_TRANSFORMS
            ),
            "BatchStrategy": "SingleRecord",
            "TransformInput": {
                "DataSource": {"S3DataSource": data_source},
                "ContentType": "application/x-image",
                "CompressionType": "None",
                "SplitType": "None",
            },
            "TransformOutput": {
                "S3OutputPath": batch.answers,
                "Accept": "application/json",
                "AssembleWith": "None",
                **self._key("KmsKeyId", self.demands.kms_key),
            },
            "TransformResources": {
                "InstanceType": batch.instance_type,
                "InstanceCount": batch.instance_count,
                **self._key("VolumeKmsKeyId", self.demands.volume_kms_key),
            },
        }
        return Request("sagemaker", "CreateTransformJob", parameters | self._tags)

    def _create_stack(self, function: LambdaFunction) -> Request:
        bucket, prefix = bucket_and_prefix(function.photos)
        values = {
            "EndpointName": self.name,
            "PhotoBucket": bucket,
            "PhotoPrefix": f"{prefix}/",
            "MaxPhotoBytes": str(LAMBDA_PHOTO_BYTES),
        }
        if function.role_boundary:
            values["RoleBoundaryArn"] = function.role_boundary
        parameters = {
            "StackName": self.name,
            "TemplateBody": lambda_template(),
            "Capabilities": ["CAPABILITY_IAM"],
            "Parameters": [{"ParameterKey": k, "ParameterValue": v} for k, v in values.items()],
        }
        # CloudFormation gives them to the function, its role and its log, too.
        return Request("cloudformation", "CreateStack", parameters | self._tags)

    @property
    def _tags(self) -> dict[str, Any]:
        return {"Tags": self.demands.tag_list} if self.demands.tags else {}

    @staticmethod
    def _key(field: str, key: str | None) -> dict[str, str]:
        return {field: key} if key else {}


def checked_requests(deployment: Deployment, image: str, role: str) -> list[Request]:
    """Return all that is sent to make a deployment, within the bounds that AWS states.

    Args: as of Deployment.requests.

    Raises: ValueError: AWS would refuse a value, after the upload.
    """
    requests = deployment.requests(image, role)
    for request in requests:
        flags = FLAGS
        if request.operation == "CreateEndpointConfig":  # which has both, by one name
            flags = {**FLAGS, "KmsKeyId": "--volume_kms_key or --kms_key"}
        check_bounds(request.service, request.operation, request.parameters, flags)
    return requests


def check_name(name: str) -> None:
    """Check a deployment's name. Raises: ValueError: AWS or the policies would refuse it."""
    if not JOB_NAME.fullmatch(name) or len(name) > MAX_NAME_LENGTH:
        raise ValueError(
            f"{name} is no name of a deployment: write bins-NAME with letters, digits and single "
            f"dashes, at most {MAX_NAME_LENGTH} characters; the policies allow no other."
        )


def check_usable(instance_type: str, purpose: str) -> None:
    """Check that the inference container runs on a type. Raises: ValueError: it does not."""
    if UNUSABLE.match(instance_type):
        raise ValueError(
            f"--instance_type {instance_type}: the inference container does not run on it; choose "
            f"one such as {DEFAULT_INSTANCE_TYPE} or ml.g5.xlarge."
        )
    check_instance_type(instance_type, purpose, DEFAULT_INSTANCE_TYPE)


def scalable_target(name: str) -> dict[str, str]:
    """Return what Application Auto Scaling calls an endpoint's instances."""
    return {
        "ServiceNamespace": "sagemaker",
        "ResourceId": f"endpoint/{name}/variant/{VARIANT}",
        "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
    }


def lambda_template() -> str:
    """Return the function's CloudFormation template with the handler's source in it."""
    source = (LAMBDA_FOLDER / "handler.py").read_text()
    code = "".join(f"\n{' ' * 10}{line}" if line else "\n" for line in source.splitlines())
    template = (LAMBDA_FOLDER / "template.yaml").read_text()
    head, placeholder, tail = template.partition('ZipFile: "handler.py"')
    assert placeholder, "the template has a place for the source"
    return f"{head}ZipFile: |{code}{tail}"
