import pytest

import container


@pytest.mark.parametrize(
    ("instance_type", "processor"),
    [("ml.g5.2xlarge", "gpu"), ("ml.p4d.24xlarge", "gpu"), ("ml.c5.xlarge", "cpu")]
    + [("ml.m5.large", "cpu"), ("local", "cpu")],
)
def test_the_family_says_whether_there_is_a_gpu(instance_type: str, processor: str) -> None:
    assert container.processor_of(instance_type) == processor
