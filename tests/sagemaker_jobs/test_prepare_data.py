"""What prepares data on SageMaker: its requests where they arrive, and its commands as they run."""

import json
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

import container
import prepare_data
from jobs.processing_job import job_name
from object_store import open_store, write_object
from paths import ROOT
from stand_ins.aws_server import ACCOUNT, AwsServer, make_role

ENTRY = [sys.executable, str(ROOT / "sagemaker_jobs/prepare_data.py")]
OUTPUT = "s3://photos/datasets/bins"
FLAGS = ["--output", OUTPUT, "--role", "data", "--image_size", "32"]
STAGES = ["catalog", "shards", "finish"]


@pytest.fixture
def account(aws: AwsServer) -> AwsServer:
    """Return an account with a bucket and a role."""
    aws.bucket("photos")
    make_role(aws, "data")
    aws.received.clear()
    return aws


def prepare(*flags: str) -> int:
    """Run the entry and return its exit code."""
    with pytest.raises(SystemExit) as exit_info:
        prepare_data.main([*flags])
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


def error_of(capsys: pytest.CaptureFixture[str], *flags: str) -> str:
    assert prepare(*flags) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def started(aws: AwsServer) -> list[str]:
    """Return the names of the jobs that were started, without what they all begin with."""
    names = [request["ProcessingJobName"] for request in aws.requests("CreateProcessingJob")]
    return [re.sub(r"^bins-data-bins-[0-9a-f]{8}-", "", name) for name in names]


def put(aws: AwsServer, *names: str) -> None:
    """Put empty files into the output, as the stages would."""
    for name in names:
        aws.client("s3").put_object(Bucket="photos", Key=f"datasets/bins/{name}", Body=b"")


def have_run(aws: AwsServer, *stages: str) -> Any:
    """Make completed jobs of these stages; return the server's record of the last."""
    parser = prepare_data.make_parser()
    job = prepare_data.dataset_job(*parser.parse_known_args(FLAGS))
    for stage in job.stages():
        if stage.name in stages:
            cluster = {"InstanceType": "ml.c5.xlarge", "InstanceCount": 1, "VolumeSizeInGB": 1}
            aws.client("sagemaker").create_processing_job(
                ProcessingJobName=job_name(job, stage, 1),
                ProcessingResources={"ClusterConfig": cluster},
                AppSpecification={"ImageUri": "image"},
                RoleArn=f"arn:aws:iam::{ACCOUNT}:role/data",
            )
    aws.received.clear()
    return aws.processing_job(f"{job.name}-{stages[-1]}")


def test_a_dry_run_needs_nothing_but_the_command() -> None:
    result = subprocess.run(
        [*ENTRY, "--dry_run", "--instance_count", "3", "--price_per_hour", "2"],
        env={"HOME": "/nonexistent", "PATH": "/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    )
    requests = json.loads(result.stdout)
    assert [request["ProcessingJobName"].rpartition("-")[2] for request in requests] == STAGES
    clusters = [request["ProcessingResources"]["ClusterConfig"] for request in requests]
    assert [cluster["InstanceCount"] for cluster in clusters] == [1, 3, 1]
    for request in requests:
        assert request["RoleArn"].endswith("/YOUR-ROLE")
        assert request["Environment"]["AWS_REGION"] == "us-east-1"
        assert "NetworkConfig" not in request
        assert request["AppSpecification"]["ImageUri"].endswith(container.CPU_TRAINING_IMAGE)
    assert "all cost at most 40.00" in result.stderr  # five machines, four hours, 2 an hour
    assert "Traceback" not in result.stderr


def test_a_dry_run_shows_the_region_and_the_role_that_a_run_would_take(
    aws: AwsServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-south-1")
    monkeypatch.setenv("SAGEMAKER_ROLE", "arn:aws:iam::123456789012:role/trains")
    monkeypatch.setenv("SAGEMAKER_DATA_ROLE", "arn:aws:iam::123456789012:role/prepares")
    prepare_data.main(["--dry_run"])
    for request in json.loads(capsys.readouterr().out):
        assert request["RoleArn"].endswith("role/prepares")
        assert request["Environment"]["AWS_REGION"] == "eu-south-1"
        assert ".ecr.eu-south-1." in request["AppSpecification"]["ImageUri"]
    assert not aws.received


def test_what_arrives_is_what_the_dry_run_printed_and_in_its_order(
    account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    arn = account.client("iam").get_role(RoleName="data")["Role"]["Arn"]
    flags = ["--source", "s3://photos/mirror/", "--instance_count", "4", "--max_run", "600"]
    account.received.clear()
    prepare_data.main(["--dry_run", *FLAGS, *flags, "--role", arn])
    printed = json.loads(capsys.readouterr().out)
    assert not account.received
    assert prepare(*FLAGS, *flags) == 0
    assert account.requests("CreateProcessingJob") == printed
    operations = account.operations()
    first, second, third = (i for i, o in enumerate(operations) if o == "CreateProcessingJob")
    # Each is followed to its end, and its log read, before the next begins.
    for between in (operations[first:second], operations[second:third], operations[third:]):
        assert {"DescribeProcessingJob", "DescribeLogStreams"} <= set(between)
    assert f"vit.py --dataset {OUTPUT}" not in capsys.readouterr().out  # 32 pixels are not for it


def test_what_an_account_demands_reaches_every_stage_and_what_it_writes(
    account: AwsServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare_data.main(
        [
            "--dry_run",
            "--tags",
            "team=bins",
            "--subnets",
            "subnet-1",
            "--security_group_ids",
            "sg-1",
        ]
        + ["--kms_key", "out", "--volume_kms_key", "disk", "--volume_gb", "50"]
    )
    for request in json.loads(capsys.readouterr().out):
        assert request["Tags"] == [{"Key": "team", "Value": "bins"}]
        vpc = request["NetworkConfig"]["VpcConfig"]
        assert vpc == {"Subnets": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
        cluster = request["ProcessingResources"]["ClusterConfig"]
        assert (cluster["VolumeSizeInGB"], cluster["VolumeKmsKeyId"]) == (50, "disk")
        code = request["ProcessingInputs"][0]["S3Input"]["S3Uri"]
        assert code.startswith("s3://YOUR-BUCKET/bin-counting/code/")
    # What data_prep itself writes, it writes with the key that the stage's environment names.
    for name, value in request["Environment"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    account.received.clear()
    write_object(open_store("s3://photos/datasets"), "card", b"a card")
    (put,) = [sent for sent in account.received if sent.method == "PUT"]
    assert put.headers["X-Amz-Server-Side-Encryption"] == "aws:kms"
    assert put.headers["X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"] == "out"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--max_run", "900000"], "--max_run 900000: AWS takes 777,600 at most."),
        (["--instance_count", "101"], "--instance_count 101: AWS takes 100 at most."),
        (
            ["--volume_kms_key", "k", "--instance_type", "ml.r5d.4xlarge"],
            "--volume_kms_key: ml.r5d.4xlarge has disks of its own",
        ),
    ],
)
def test_what_aws_would_refuse_is_one_line(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        prepare_data.main(["--dry_run", *flags])
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.startswith(f"{Path(sys.argv[0]).name}: error: {message}")


@pytest.mark.slow
def test_the_next_command_is_printed_and_the_log_of_each_stage(
    account: AwsServer, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = ["--output", OUTPUT, "--role", "data"]
    prepare_data.main([*flags, "--dry_run"])
    for number, request in enumerate(json.loads(capfd.readouterr().out)):
        group = "/aws/sagemaker/ProcessingJobs"
        stream = f"{request['ProcessingJobName']}/algo-1-1700000000"
        logs = account.client("logs")
        if number == 0:
            logs.create_log_group(logGroupName=group)
        logs.create_log_stream(logGroupName=group, logStreamName=stream)
        event = {"timestamp": int(1000 * time.time()), "message": f"line {number}"}
        logs.put_log_events(logGroupName=group, logStreamName=stream, logEvents=[event])
    assert prepare(*flags) == 0
    lines = capfd.readouterr().out.splitlines()
    # Several machines wrote shards: their names stand before their lines.
    assert lines[:3] == ["line 0", "algo-1 | line 1", "line 2"]
    assert lines[3:] == [
        f"Next: python sagemaker_jobs/vit.py --dataset {OUTPUT} --region us-east-1"
    ]


@pytest.mark.slow
def test_the_code_that_arrives_is_data_prep_with_the_files_that_flags_name(
    account: AwsServer, tmp_path: Path
) -> None:
    listed = tmp_path / "my bins.json"
    listed.write_text('{"1": ["data/metadata/00152.json"]}')
    excluded = tmp_path / "label errors.csv"
    excluded.write_text("id\n00153\n")
    assert prepare(*FLAGS, "--bin_list", str(listed), "--exclude", str(excluded)) == 0
    for request in account.requests("CreateProcessingJob"):
        code = request["ProcessingInputs"][0]["S3Input"]["S3Uri"]
        key = code.removeprefix("s3://photos/")
        assert key.startswith("bin-counting/code/bins-data-bins-")
        body = account.client("s3").get_object(Bucket="photos", Key=key)["Body"].read()
        with tarfile.open(fileobj=BytesIO(body)) as archive:
            names = {name.removeprefix("./") for name in archive.getnames()}
            for name, path in (("bin_list.json", listed), ("exclude.csv", excluded)):
                sent = archive.extractfile(name)
                assert sent is not None
                assert sent.read() == path.read_bytes()
        assert {"build_catalog.py", "build_dataset.py", "requirements.txt"} <= names
        assert not [name for name in names if "__pycache__" in name]
        arguments = request["AppSpecification"]["ContainerArguments"]
        if "--finish" not in arguments and "--resource_config" not in arguments:
            assert "--image_size" not in arguments  # build_catalog.py has no such flags
            assert "--exclude" not in arguments
        else:
            assert arguments[arguments.index("--exclude") + 1] == "exclude.csv"
        assert arguments[arguments.index("--bin_list") + 1] == "bin_list.json"


@pytest.mark.slow
def test_a_catalog_that_is_given_is_not_built(
    account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = "s3://photos/datasets/catalog.parquet"
    assert prepare(*FLAGS, "--catalog", catalog) == 0
    assert started(account) == ["shards", "finish"]
    for request in account.requests("CreateProcessingJob"):
        arguments = request["AppSpecification"]["ContainerArguments"]
        assert arguments[arguments.index("--catalog") + 1] == catalog


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give --output s3://BUCKET/FOLDER"),
        (["--output", "data/bins"], "data/bins is not an S3 URI"),
        (["--output", "s3://photos"], "name a folder too"),
        (["--output", "s3://nowhere/bins", "--role", "data"], "there is no such bucket"),
        (["--output", OUTPUT], "then give --role, or set SAGEMAKER_DATA_ROLE"),
        ([*FLAGS, "--source", "../mirror"], "--source ../mirror: a job sees S3 alone"),
        ([*FLAGS, "--catalog", "c.parquet"], "--catalog c.parquet: a job sees S3 alone"),
        ([*FLAGS, "--bin_list", "nowhere.json"], "No such file or directory: 'nowhere.json'"),
        ([*FLAGS, "--finish"], "--finish: each stage sets this itself"),
        ([*FLAGS, "--output_dir=x"], "--output_dir=x: each stage sets this itself"),
        ([*FLAGS, "--max_bins", "many"], "'many' is not an integer above 0"),
        ([*FLAGS, "--max_bin", "3"], "unrecognized arguments: --max_bin 3"),
        (
            ["--output", OUTPUT, "--marks", "README.md", "b.csv"],
            "b.csv belongs to no flag; jobs take one file of",
        ),
        (
            ["--output", OUTPUT, "--marks", "README.md", "--marks", "b.csv"],
            "--marks b.csv: jobs take one file of it",
        ),
        ([*FLAGS, "--min_count", "3", "--max_count", "2"], "--min_count 3 exceeds --max_count"),
        ([*FLAGS, "--bin_list", "README.md"], "--bin_list README.md: expected JSON"),
        ([*FLAGS, "--instance_type", "ml.g5.xlarge"], "nothing here uses a GPU"),
        ([*FLAGS, "--instance_type", "ml.c5.large"], "no such type for processing; choose one"),
        ([*FLAGS, "--instance_count", "101"], "--instance_count 101: AWS takes 100 at most"),
        ([*FLAGS, "--instance_count", "0"], "invalid whole number above 0 value: '0'"),
        (
            [*FLAGS, "--source", f"s3://{'x' * 300}"],
            "--source, --output or another argument: 305 characters: AWS takes 256 characters",
        ),
        ([*FLAGS, "--region", "mars-1"], "--region mars-1: AWS keeps no CPU"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_sent(
    flags: list[str],
    message: str,
    account: AwsServer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    assert message in error_of(capsys, *flags)
    assert not [request for request in account.received if request.method == "PUT"]
    assert not account.requests("CreateProcessingJob")


@pytest.mark.slow
def test_a_failed_stage_ends_the_command_and_the_next_one_goes_on_there(
    account: AwsServer, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    create = prepare_data.create

    def create_and_fail_shards(job: Any, stage: Any, *rest: Any) -> None:
        create(job, stage, *rest)
        if not account.requests("CreateProcessingJob"):
            return  # what is only held to AWS's bounds
        if stage.name == "catalog":
            put(account, "catalog.parquet")
        if stage.name == "shards":
            failed = account.processing_job(rest[0])
            failed.processing_job_status = "Failed"
            failed.failure_reason = "AlgorithmError: no space left on device"

    monkeypatch.setattr(prepare_data, "create", create_and_fail_shards)
    assert prepare(*FLAGS) == 1
    errors = capfd.readouterr().err
    assert re.search("-shards: Failed: AlgorithmError: no space left on device\n", errors)
    assert errors.endswith("Once that is mended, the same command goes on from here.\n")
    assert started(account) == ["catalog", "shards"]

    monkeypatch.setattr(prepare_data, "create", create)
    # With more machines, each with fewer processes: what is done does not change.
    assert prepare(*FLAGS, "--instance_count", "5", "--num_workers", "3") == 0
    assert "catalog: done by bins-data-" in capfd.readouterr().err
    assert started(account) == ["catalog", "shards", "shards-2", "finish"]


def test_a_finished_dataset_is_left_alone(
    account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    have_run(account, *STAGES)
    put(account, "catalog.parquet", "README.md")
    assert prepare(*FLAGS) == 0
    assert started(account) == []
    assert f"Next: python sagemaker_jobs/resnet34.py --dataset {OUTPUT}" in capsys.readouterr().out


def test_a_job_that_still_runs_is_followed_and_not_started_twice(account: AwsServer) -> None:
    shards = have_run(account, "catalog", "shards")
    put(account, "catalog.parquet")
    shards.processing_job_status = "InProgress"
    with subprocess.Popen(
        [*ENTRY, *FLAGS], env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            while not account.requests("DescribeLogStreams") and process.poll() is None:
                time.sleep(0.05)
            assert started(account) == []
            shards.processing_job_status = "Completed"
            _, errors = process.communicate()
        finally:
            process.kill()
    assert process.returncode == 0, errors
    assert started(account) == ["finish"]


@pytest.mark.slow
def test_ctrl_c_leaves_the_job_running(account: AwsServer) -> None:
    have_run(account, "catalog").processing_job_status = "InProgress"
    with subprocess.Popen(
        [*ENTRY, *FLAGS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, which gets Ctrl-C as a terminal's does
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            while not account.requests("DescribeLogStreams") and process.poll() is None:
                time.sleep(0.05)
            os.killpg(process.pid, signal.SIGINT)
            _, errors = process.communicate()
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert errors.endswith("-catalog runs on its own; the same command goes on from here.\n")
    assert "Traceback" not in errors
    assert not account.requests("StopProcessingJob")
    assert started(account) == []


def test_shards_that_the_last_stage_misses_are_written_again(account: AwsServer) -> None:
    have_run(account, *STAGES).processing_job_status = "Failed"
    put(account, "catalog.parquet")
    assert prepare(*FLAGS) == 0
    assert started(account) == ["shards-2", "finish-2"]


@pytest.mark.slow
def test_a_catalog_that_has_gone_is_built_again_and_all_that_follows(account: AwsServer) -> None:
    have_run(account, *STAGES)
    assert prepare(*FLAGS) == 0
    assert started(account) == ["catalog-2", "shards-2", "finish-2"]


def test_an_output_that_something_else_has_made_is_refused(
    account: AwsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    have_run(account, *STAGES)
    put(account, "catalog.parquet", "settings.json")
    line = error_of(capsys, *FLAGS, "--seed", "7")
    assert f"--output {OUTPUT} holds something already (catalog.parquet)" in line
    assert started(account) == []
    # A catalog in its place is what one may begin with, a dataset is not.
    catalog = ["--catalog", f"{OUTPUT}/catalog.parquet"]
    assert "holds something already (settings.json)" in error_of(capsys, *FLAGS, *catalog)


def test_a_file_of_other_content_makes_other_jobs(account: AwsServer, tmp_path: Path) -> None:
    def name(content: str) -> str:
        path = tmp_path / "list.json"
        path.write_text(content)
        parser = prepare_data.make_parser()
        arguments, flags = parser.parse_known_args([*FLAGS, "--bin_list", str(path)])
        return prepare_data.dataset_job(arguments, flags).name

    assert name('{"1": ["1.json"]}') != name('{"1": ["2.json"]}')
    assert name('{"1": ["1.json"]}') == name('{"1": ["1.json"]}')


def pins() -> dict[str, str]:
    """Return what a job installs."""
    lines = (ROOT / "data_prep/requirements.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def run_machines(aws: AwsServer, request: dict[str, Any], folder: Path) -> str:
    """Do what SageMaker does with a processing job, with a folder a machine for its /opt/ml.

    Returns: what the machines printed.
    """
    cluster = request["ProcessingResources"]["ClusterConfig"]
    hosts = [f"algo-{number}" for number in range(1, cluster["InstanceCount"] + 1)]
    application = request["AppSpecification"]
    machines = []
    for host in hosts:
        opt_ml = folder / request["ProcessingJobName"] / host
        (opt_ml / "config").mkdir(parents=True)
        config = {"current_host": host, "hosts": hosts}
        (opt_ml / "config/resourceconfig.json").write_text(json.dumps(config))
        for an_input in request["ProcessingInputs"]:
            bucket, _, key = an_input["S3Input"]["S3Uri"].removeprefix("s3://").partition("/")
            local = opt_ml / Path(an_input["S3Input"]["LocalPath"]).relative_to("/opt/ml")
            local.mkdir(parents=True)
            body = aws.client("s3").get_object(Bucket=bucket, Key=key)["Body"].read()
            if key.endswith(".sh"):
                body = body.replace(b"/opt/ml", str(opt_ml).encode())
            (local / Path(key).name).write_bytes(body)
        words = application["ContainerEntrypoint"] + application["ContainerArguments"]
        command = [word.replace("/opt/ml", str(opt_ml)) for word in words]
        machines.append(started_machine(aws, command, request["Environment"]))
    outputs = [machine.communicate()[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0] * len(hosts), outputs
    return "\n".join(outputs)


def started_machine(
    aws: AwsServer, command: list[str], environment: dict[str, str]
) -> subprocess.Popen[str]:
    """Start a command that reaches the server's S3, and finds no package index."""
    reaches = {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL": aws.url,
        "AWS_ALLOW_HTTP": "true",
        "NO_PROXY": "127.0.0.1",
        "PIP_NO_INDEX": "1",
        "PIP_ROOT_USER_ACTION": "ignore",
    }
    return subprocess.Popen(
        command,
        env=reaches | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
@pytest.mark.timeout(900)  # pip alone runs four times
def test_what_the_jobs_of_two_machines_make_is_what_one_machine_makes(
    account: AwsServer, bucket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if any(version(name) != pin for name, pin in pins().items()):
        pytest.skip("the environment has other versions than a job installs")
    s3 = account.client("s3")
    for metadata in sorted(bucket.glob("metadata/*"))[:100]:
        for path in (metadata, bucket / f"bin-images/{metadata.stem}.jpg"):
            key = f"datasets/mirror/{path.relative_to(bucket)}"
            s3.put_object(Bucket="photos", Key=key, Body=path.read_bytes())
    flags = ["--source", "s3://photos/datasets/mirror", "--test_fraction", "0.2"]
    assert prepare(*FLAGS, *flags) == 0
    catalog, shards, finish = account.requests("CreateProcessingJob")
    run_machines(account, catalog, tmp_path)
    printed = run_machines(account, shards, tmp_path)
    # Each did its own part.
    assert sorted(re.findall(r"The (\d) of 3 shards", printed)) == ["1", "2"]
    run_machines(account, finish, tmp_path)

    alone = [sys.executable, str(ROOT / "data_prep/build_dataset.py"), *flags]
    alone += ["--image_size", "32", "--output_dir", str(tmp_path / "alone"), "--num_workers", "1"]
    machine = started_machine(account, alone, {"AWS_REGION": "us-east-1"})
    output, _ = machine.communicate()
    assert machine.returncode == 0, output
    made = {
        entry["Key"].removeprefix("datasets/bins/"): s3.get_object(
            Bucket="photos", Key=entry["Key"]
        )["Body"].read()
        for entry in s3.list_objects_v2(Bucket="photos", Prefix="datasets/bins/")["Contents"]
    }
    names = {str(path.relative_to(tmp_path / "alone")) for path in tmp_path.glob("alone/data/*")}
    assert len(names) == 3
    for name in (*names, "catalog.parquet", "set_aside.jsonl"):
        assert made[name] == (tmp_path / "alone" / name).read_bytes(), name
    assert names == {name for name in made if name.startswith("data/")}
    assert "README.md" in made

    account.received.clear()
    capsys.readouterr()
    assert prepare(*FLAGS, *flags) == 0
    assert started(account) == []
    assert "catalog: done by bins-data-bins-" in capsys.readouterr().err
