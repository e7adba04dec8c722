import re

import pytest
import torch

from memory import print_memory


def test_the_memory_of_the_process_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    held = torch.ones(100 * 2**20, dtype=torch.uint8)
    print_memory("model_loaded")
    del held
    print_memory("end")
    moments = re.findall(r"^memory at=(\w+) process=(\d+)", capsys.readouterr().out, re.M)
    assert [name for name, _ in moments] == ["model_loaded", "end"]
    loaded, end = (int(mebibytes) for _, mebibytes in moments)
    assert 90 <= loaded - end <= 110
