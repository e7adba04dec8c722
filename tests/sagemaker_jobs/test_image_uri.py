import pytest

import container
import image_uri

ACCOUNT = "763104351884.dkr.ecr.us-east-1.amazonaws.com"


@pytest.mark.parametrize(
    ("argv", "uri"),
    [
        ([], f"{ACCOUNT}/huggingface-pytorch-training:{container.TRAINING_IMAGE_TAG}"),
        (
            ["--region", "eu-south-1"],
            "692866216735.dkr.ecr.eu-south-1.amazonaws.com/huggingface-pytorch-training:"
            + container.TRAINING_IMAGE_TAG,
        ),
        (["--processor", "cpu"], f"{ACCOUNT}/{container.CPU_TRAINING_IMAGE}"),
        (
            ["--purpose", "inference", "--processor", "cpu"],
            f"{ACCOUNT}/huggingface-pytorch-inference:{container.INFERENCE_IMAGE_TAGS['cpu']}",
        ),
        (
            ["--purpose", "inference"],
            f"{ACCOUNT}/huggingface-pytorch-inference:{container.INFERENCE_IMAGE_TAGS['gpu']}",
        ),
    ],
)
def test_each_region_and_purpose_has_its_image(
    argv: list[str], uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    image_uri.main(argv)
    assert capsys.readouterr().out == f"{uri}\n"


def test_a_region_without_the_container_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        image_uri.main(["--region", "mars-north-1"])
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--region mars-north-1" in line
    assert "choose another, such as us-east-1" in line
