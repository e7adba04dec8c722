import re
import subprocess
import sys

from paths import ROOT

# In a process of its own: one that has run other tests has memory to spare.
PROGRAM = """
import torch
from diagnostics.machine_usage import print_memory

print_memory("start")
held = torch.ones(200 * 2**20, dtype=torch.uint8)
print_memory("model_loaded")
"""


def test_the_memory_of_the_process_is_printed() -> None:
    printed = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT / "scripts",
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    moments = re.findall(r"^memory at=(\w+) process=(\d+)", printed, re.M)
    assert [name for name, _ in moments] == ["start", "model_loaded"]
    start, loaded = (int(mebibytes) for _, mebibytes in moments)
    assert 190 <= loaded - start <= 230
