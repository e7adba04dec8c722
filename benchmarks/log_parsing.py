"""Time metrics/parse_logs.py against the way that comes to mind first, on a log of a training.

    python benchmarks/log_parsing.py            # 1,000,000 lines: half a minute

The rival reads the whole log, takes train.py's lines apart with a regex, evaluates Trainer's
dictionaries with ast.literal_eval, and lets pandas melt and write the csv. Both run as processes of
their own, in turn; the memory is the largest that each ever held.
"""

import argparse
import ast
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PARSER = Path(__file__).resolve().parent.parent / "metrics/parse_logs.py"
ASSIGNMENT = re.compile(r"(\w+)=(\S+)")


def write_log(path: Path, num_lines: int) -> None:
    """Write what train.py prints with --logging_steps 1: its line, Trainer's, now and then others.

    Of ten lines nine hold figures; every thousandth step is evaluated.
    """
    with path.open("w") as log:
        num_written = step = 0
        while num_written < num_lines:
            step += 1
            epoch, loss, rate = step / 3000, 1.6 / (1 + step / 40_000), 2e-5 / (1 + step)
            lines = [
                f"metrics split=train step={step} epoch={epoch:.6g} loss={loss:.6g} "
                f"grad_norm=2.31415 learning_rate={rate:.6g}",
                f"{{'loss': '{loss:.4g}', 'grad_norm': '2.314', 'learning_rate': '{rate:.4g}', "
                f"'epoch': '{epoch:.4g}'}}",
            ]
            if step % 5 == 0:
                lines.append("UserWarning: this line is one of many that say nothing to us.")
            if step % 1000 == 0:
                lines += [
                    f"metrics split=validation step={step} epoch={epoch:.6g} loss=1.4 rmse=1.02",
                    f"{{'eval_loss': '1.4', 'eval_rmse': '1.02', 'epoch': '{epoch:.4g}'}}",
                ]
            lines = lines[: num_lines - num_written]
            log.writelines(f"{line}\n" for line in lines)
            num_written += len(lines)


def parse_naively(log: Path, output: Path) -> None:
    """Do the rival's work."""
    import pandas as pd  # here, so that only the rival's process holds it

    rows = []
    for line in log.read_text().splitlines():
        if line.startswith("metrics "):
            rows.append({name: try_number(text) for name, text in ASSIGNMENT.findall(line)})
        elif line.startswith("{"):
            rows.append({name: float(text) for name, text in ast.literal_eval(line).items()})
    frame = pd.DataFrame(rows)
    places = [name for name in ("step", "epoch", "split") if name in frame]
    frame.melt(id_vars=places, var_name="name").dropna(subset="value").to_csv(output, index=False)


def try_number(text: str) -> float | str:
    """Return a number where there is one."""
    try:
        return float(text)
    except ValueError:
        return text


def measured(command: list[str]) -> tuple[float, float, float]:
    """Run a command; return its seconds, those of them on a CPU, and its largest memory, MiB."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"failed: {' '.join(command)}")
    seconds = time.perf_counter() - start
    return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024  # KiB on Linux


def main() -> None:
    """Print what both took, and the ratios: above 1 the rival took more."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num_lines", type=int, default=1_000_000, help="default: %(default)s")
    parser.add_argument("--rival", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rival:
        parse_naively(*arguments.rival)
        return
    with tempfile.TemporaryDirectory() as folder:
        log, output = Path(folder, "training.log"), Path(folder, "metrics.csv")
        ours = [sys.executable, str(PARSER), str(log), "--output", str(output)]
        rival = [sys.executable, __file__, "--rival", str(log), str(output)]
        for num_lines in (arguments.num_lines // 10, arguments.num_lines):
            write_log(log, num_lines)
            print(f"{num_lines:,} lines, {log.stat().st_size / 1e6:.0f} MB")
            own, other = measured(ours), measured(rival)
            ratios = [theirs / mine for theirs, mine in zip(other, own, strict=True)]
            print("  parse_logs.py            {:6.2f} s {:6.2f} s CPU {:6.0f} MiB".format(*own))
            print("  literal_eval and pandas  {:6.2f} s {:6.2f} s CPU {:6.0f} MiB".format(*other))
            print("  ratio                    {:6.1f}   {:6.1f}       {:6.1f}".format(*ratios))


if __name__ == "__main__":
    main()
