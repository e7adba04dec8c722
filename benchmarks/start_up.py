"""Time the wait before a command does anything: --help, a mistyped flag, a launcher's --dry_run.

    python benchmarks/start_up.py

Each command runs in a process of its own, all of them in turns; seconds are medians. Every entry's
--help is asked for, those of benchmarks/ alone excepted; the slowest are shown.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from training_recipe import markdown

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("data_prep", "scripts", "sagemaker_jobs", "metrics", "docker_debugging")
SHOWN = 8  # of the entries' help
MISTYPED = ["--lerning_rate", "3e-4"]
HELP_GOAL, REFUSAL_GOAL, DRY_RUN_GOAL = 1.0, 1.5, 3.0  # seconds


def entries() -> list[str]:
    """Return what a person runs, relative to the project's root."""
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).glob("*.py"))]
    is_entry = 'if __name__ == "__main__":'
    return [str(path.relative_to(ROOT)) for path in files if is_entry in path.read_text()]


def seconds_of(command: list[str], expected_code: int) -> float:
    """Return how long a command takes. Raises: AssertionError: it ends with another code."""
    start = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True)
    seconds = time.perf_counter() - start
    assert done.returncode == expected_code, (command, done.stderr.decode())
    assert expected_code == 0 or MISTYPED[0] in done.stderr.decode(), done.stderr.decode()
    return seconds


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    rounds = parser.parse_args().rounds
    goals: dict[tuple[str, ...], tuple[int, float]] = {
        (entry, "--help"): (0, HELP_GOAL) for entry in entries()
    }
    goals["scripts/train.py", *MISTYPED] = (2, REFUSAL_GOAL)
    goals["sagemaker_jobs/vit.py", "--dry_run", *MISTYPED] = (2, REFUSAL_GOAL)
    goals["sagemaker_jobs/vit.py", "--dry_run"] = (0, DRY_RUN_GOAL)
    seconds: dict[tuple[str, ...], list[float]] = {command: [] for command in goals}
    for turn in range(rounds + 1):
        for command, (code, _) in goals.items():
            taken = seconds_of([*command], code)
            if turn:  # the first one reads the files from disk
                seconds[command].append(taken)
    medians = {command: statistics.median(times) for command, times in seconds.items()}
    of_help = sorted((c for c in goals if c[1] == "--help"), key=medians.__getitem__, reverse=True)
    rows = []
    for command in [*of_help[:SHOWN], *(c for c in goals if c[1] != "--help")]:
        goal = goals[command][1]
        verdict = "reached" if medians[command] <= goal else "**not reached**"
        rows.append([f"`{' '.join(command)}`", f"{medians[command]:.2f}", f"{goal:g}: {verdict}"])
    print(f"{os.cpu_count()} cores; {len(of_help)} entries, the {SHOWN} slowest of --help\n")
    print(markdown(["command", "seconds", "at most"], rows))


if __name__ == "__main__":
    main()
