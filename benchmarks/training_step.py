"""Time a training step as train.py makes it, against the common recipe and against a fed device.

    python benchmarks/training_step.py                     # data/bins; an hour on an old CPU
    python benchmarks/training_step.py --steps 50          # on a GPU, whose steps are short
    python benchmarks/training_step.py --operators         # where the time of train.py's steps goes
    python benchmarks/training_step.py --steps 10 --contenders "train.py" "with diagnostics"

All contenders train the same model (random weights, which change no time) on the same photos in
batches of the same size, in one process. Each trains some steps that are not counted; then they
take turns, the last one first in every other round; the first steps of a turn are not counted.
Turns are short and many, since the speed of a shared machine drifts.

    train.py          BinTrainer on the dataset folder, in bf16 where the device has it
    batch is there    the same, on one batch that is on the device already: what no pipeline beats
    with diagnostics  the same as train.py, with --diagnostics, which measure every tenth step: what
                      they cost is told of turns of 10 steps
    augmented         the same as train.py, with every augmentation
    not augmented     the same as train.py, with none
    train.py, fp32    the same as train.py, in the common recipe's precision, where that is another
    compiled          the same as train.py, with --torch_compile, which needs g++ on a CPU
    common recipe     Trainer with the image processor in set_transform, in fp32; see
                      common_recipe.py

The peak that a step's share is taken of is that of the best of some square matrix products of the
same precision on this device; a step's operations are counted by torch, those of matrix products
and convolutions.
"""

import argparse
import importlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch.profiler import profile
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from common_recipe import machine, stack, transformed_photos

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))
VIT = {"model_type": "vit", "image_size": 224, "patch_size": 16}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit_tiny": VIT | {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
    "resnet34": json.loads((ROOT / "scripts/model_configs/resnet34/config.json").read_text()),
    "vit_base": VIT,
}
OURS, FED, WATCHED = "train.py", "batch is there", "with diagnostics"
AUGMENTED, NOT_AUGMENTED = "augmented", "not augmented"
OURS_FP32, COMPILED, COMMON = "train.py, fp32", "compiled", "common recipe"
CONTENDERS = (OURS, FED, WATCHED, AUGMENTED, NOT_AUGMENTED, OURS_FP32, COMPILED, COMMON)
MEASURED_EACH = 10  # steps, by diagnostics
AUGMENTATIONS = ("augment_geometry", "augment_colour", "mixup")
WARM_UP = 2  # steps of each turn that are not counted
COUNTS = (1, 2, 3, 4, 5)
# Matrices so large that a device is at its best; on a CPU smaller ones are.
EDGES = (1024, 2048, 4096, 8192)
# Of the common recipe's time, on a CPU with AMX.
GOAL = 2.5
GOALS_FOR = ("vit_tiny", "resnet34")
CONTENDER_HEAD = (
    "| model | contender | photos a second | waiting | of the matrix peak | times common |",
    "|---|---|---:|---:|---:|---:|",
)
OPERATOR_HEAD = (
    "| model | operator | of all | ms a step | calls a step |",
    "|---|---|---:|---:|---:|",
)
NUM_OPERATORS = 15


class Turn(NamedTuple):
    """What a contender did in its turn: seconds a step, and the share of them waiting for data."""

    seconds: float
    waiting: float


class Clock(TrainerCallback):
    """Notes when each step has ended, on the device too."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Wait for the device, and look at the clock."""
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        self.ends.append(time.perf_counter())


def is_gpu() -> bool:
    """Say whether models train on a GPU here."""
    return torch.cuda.is_available()


def make_model(name: str, folder: Path) -> Any:
    """Return a model of random weights."""
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    config = AutoConfig.from_pretrained(folder, num_labels=len(COUNTS))
    return AutoModelForImageClassification.from_config(config, dtype=torch.float32)


def our_trainer(name: str, options: argparse.Namespace, folder: Path, **flags: Any) -> Trainer:
    """Return the trainer of train.py."""
    arguments, bin_dataset, bin_trainer, models = (
        importlib.import_module(f"training.{module}")
        for module in ("arguments", "bin_dataset", "bin_trainer", "models")
    )
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    source = arguments.ModelArguments(config_name=str(folder))
    dataset = bin_dataset.load_bins(options.dataset_dir, ["train"])
    labels = dataset["train"].features["label"].names
    edge = bin_dataset.photo_size(dataset)
    return bin_trainer.BinTrainer(
        model=models.load_model(source, labels, edge, train=True),
        args=arguments.BinTrainingArguments(
            do_train=True, **common_flags(options, folder), **flags
        ),
        image_processor=models.load_image_processor(source, edge),
        counts=[int(label) for label in labels],
        is_pretrained=False,
        train_dataset=bin_dataset.decoded_photos(dataset["train"], None),
    )


def common_trainer(name: str, options: argparse.Namespace, folder: Path) -> Trainer:
    """Return what people publish: Trainer, and the image processor in set_transform."""
    flags = {"remove_unused_columns": False, "dataloader_pin_memory": is_gpu()}
    return Trainer(
        model=make_model(name, folder),
        args=TrainingArguments(use_cpu=not is_gpu(), **common_flags(options, folder), **flags),
        data_collator=stack,
        train_dataset=transformed_photos(options.dataset_dir),
    )


def common_flags(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Return the flags that all contenders share."""
    return {
        "output_dir": str(folder),
        "per_device_train_batch_size": options.batch_size,
        "max_steps": options.steps + WARM_UP,
        "eval_strategy": "no",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def feed_one_batch(trainer: Trainer) -> None:
    """Let a trainer train on one batch, which is on its device from the start."""
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.get_batch_samples = lambda iterator, num_batches, device: ([batch], None)


def contenders(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Trainer]:
    """Return the trainers that are asked for and that this machine can have, by name."""

    def ours(**flags: Any) -> Trainer:
        return own_settings(our_trainer(name, options, folder, **flags))

    flags: dict[str, dict[str, Any]] = {
        OURS: {},
        FED: {},
        WATCHED: {"diagnostics": True, "diagnostics_interval": MEASURED_EACH},
        AUGMENTED: dict.fromkeys(AUGMENTATIONS, True),
        NOT_AUGMENTED: dict.fromkeys(AUGMENTATIONS, False),
        OURS_FP32: {"bf16": False},
        COMPILED: {"torch_compile": True},
    }
    wanted = {OURS, *options.contenders}
    if not (is_gpu() or shutil.which("g++")):
        wanted.discard(COMPILED)
    made = {contender: ours(**flags[contender]) for contender in flags if contender in wanted}
    if FED in made:
        feed_one_batch(made[FED])
    if not made[OURS].args.bf16:  # it is in fp32 itself
        made.pop(OURS_FP32, None)
    if COMMON in wanted:
        made[COMMON] = own_settings(common_trainer(name, options, folder))
    return made


def own_settings(trainer: Trainer) -> Trainer:
    """Part a trainer from accelerate's settings, which all trainers of a process share.

    They are those of the one that was made last, and say whether a model is compiled.
    """
    settings = trainer.accelerator.state
    settings.__dict__ = dict(settings.__dict__)
    return trainer


def take_turn(trainer: Trainer) -> Turn:
    """Train some steps and return what each took; what the trainer prints goes nowhere."""
    clock, waits = Clock(), list[float]()
    trainer.add_callback(clock)
    fetch = trainer.get_batch_samples

    def timed_fetch(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        batches = fetch(*args, **kwargs)
        waits.append(time.perf_counter() - start)
        return batches

    trainer.get_batch_samples = timed_fetch
    stdout, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115
    try:
        trainer.train()
    finally:
        sys.stdout.close()
        sys.stdout = stdout
    trainer.get_batch_samples = fetch
    trainer.remove_callback(clock)
    seconds = clock.ends[-1] - clock.ends[WARM_UP - 1]
    return Turn(seconds / (len(clock.ends) - WARM_UP), sum(waits[WARM_UP:]) / seconds)


def take_turns(
    name: str, trainers: dict[str, Trainer], rounds: int
) -> tuple[dict[str, list[Turn]], dict[str, float]]:
    """Let all trainers of a model take turns; return these, and the matrix peak of each."""
    turns: dict[str, list[Turn]] = {contender: [] for contender in trainers}
    kinds = {
        contender: torch.bfloat16 if trainer.args.bf16 else torch.float32
        for contender, trainer in trainers.items()
    }
    peaks = dict.fromkeys(kinds.values(), 0.0)
    for trainer in trainers.values():
        take_turn(trainer)
    for number in range(rounds):
        print(f"{name}, round {number + 1} of {rounds}", file=sys.stderr, flush=True)
        for contender in list(trainers)[:: -1 if number % 2 else 1]:
            turns[contender].append(take_turn(trainers[contender]))
        peaks = {dtype: max(peak, matrix_peak(dtype)) for dtype, peak in peaks.items()}
    return turns, {contender: peaks[kind] for contender, kind in kinds.items()}


def operations_a_photo(name: str, folder: Path) -> int:
    """Return the floating-point operations of a photo's forward and backward pass."""
    model = make_model(name, folder).train()
    photos = torch.zeros(2, 3, 224, 224)  # two: batch normalisation wants more than one
    with FlopCounterMode(display=False) as counter:
        model(pixel_values=photos).logits.sum().backward()
    return counter.get_total_flops() // 2


def matrix_peak(dtype: torch.dtype) -> float:
    """Return the operations a second of the best of some matrix products."""
    device = "cuda" if is_gpu() else "cpu"

    def rates(edge: int) -> Iterator[float]:
        left, right = (torch.randn(edge, edge, device=device, dtype=dtype) for _ in range(2))
        for _ in range(5):
            start = time.perf_counter()
            left @ right
            if is_gpu():
                torch.cuda.synchronize()
            yield 2 * edge**3 / (time.perf_counter() - start)

    return max(max(rates(edge)) for edge in (EDGES if is_gpu() else EDGES[:2]))


def own_share(folder: Path) -> float:
    """Return the share of the training's time that diagnostics say they took."""
    record: Any = importlib.import_module("diagnostics.record")
    return record.gather(record.read_record(folder / "diagnostics.jsonl")).own_share


def contender_rows(name: str, options: argparse.Namespace) -> list[str]:
    """Return the rows of a model in the table of contenders: medians of its turns."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        trainers = contenders(name, options, folder)
        turns, peaks = take_turns(name, trainers, options.rounds)
        operations = operations_a_photo(name, folder)
        own = own_share(folder) if WATCHED in turns else 0.0

    def ratio(faster: str, slower: str) -> float:
        """Return the median over the rounds of how many times as fast one is as the other."""
        both = zip(turns[faster], turns[slower], strict=True)
        return median(slow.seconds / fast.seconds for fast, slow in both)

    rows = []
    for contender, taken in turns.items():
        rate = options.batch_size / median(turn.seconds for turn in taken)
        share = rate * operations / peaks[contender]
        waiting = median(turn.waiting for turn in taken)
        against = f"{ratio(contender, COMMON):.2f}" if COMMON in turns else ""
        rows.append(
            f"| {name} | {contender} | {rate:.1f} | {waiting:.1%} | {share:.0%} | {against} |"
        )

    def add(what: str, value: str, goal: str, is_reached: bool) -> None:
        verdict = "reached" if is_reached else "**not reached**"
        rows.append(f"| {name} | {what} | {value} | goal: {goal}: {verdict} | | |")

    if FED in turns:
        fed = 1 / ratio(FED, OURS)
        add("rate of a fed device that is reached", f"{fed:.1%}", "at least 97 %", fed >= 0.97)
    if WATCHED in turns:
        if options.steps % MEASURED_EACH == 0:
            cost = 1 / ratio(WATCHED, OURS) - 1
            add("diagnostics, against without", f"{cost:+.1%}", "under 2 %", cost < 0.02)
        num_steps = options.steps + WARM_UP
        measured = f"{1 + num_steps // MEASURED_EACH} of {num_steps} steps"
        what = f"diagnostics of {measured}, by their own clock"
        add(what, f"{own:.1%}", "under 2 %", own < 0.02)
    if {AUGMENTED, NOT_AUGMENTED} <= turns.keys():
        share = 1 - ratio(AUGMENTED, NOT_AUGMENTED)
        add("augmentation, share of a step", f"{share:.1%}", "under 5 %", share < 0.05)
    if COMMON in turns and name in GOALS_FOR:
        # Whether this CPU is one is for the reader to see: no verdict.
        rows.append(
            f"| {name} | times the common recipe | {ratio(OURS, COMMON):.2f} "
            f"| goal: {GOAL} on a CPU with AMX | | |"
        )
    return rows


def operator_rows(name: str, options: argparse.Namespace) -> list[str]:
    """Return the rows of a model in the table of operators, those with the largest share first."""
    with tempfile.TemporaryDirectory() as scratch:
        trainer = our_trainer(name, options, Path(scratch))
        take_turn(trainer)
        with profile() as profiled:
            take_turn(trainer)
    steps = options.steps + WARM_UP
    events = [event for event in profiled.key_averages() if time_of(event) > 0]
    total = sum(map(time_of, events))
    return [
        f"| {name} | {event.key.removeprefix('aten::')} | {time_of(event) / total:.1%} "
        f"| {time_of(event) / steps / 1000:.1f} | {event.count / steps:.0f} |"
        for event in sorted(events, key=time_of, reverse=True)[:NUM_OPERATORS]
    ]


def time_of(event: Any) -> float:
    """Return the microseconds that an operator took itself, on the device that trains."""
    return event.self_device_time_total if is_gpu() else event.self_cpu_time_total


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset_dir", default="data/bins", help="of 224 pixels")
    parser.add_argument(
        "--models",
        nargs="+",
        choices=CONFIGS,
        help="default: vit_tiny and resnet34; on a GPU vit_base too",
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=CONTENDERS,
        default=CONTENDERS,
        metavar="NAME",
        help="those named above (default: all)",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=4, help="of a turn; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=8, help="default: %(default)s")
    parser.add_argument(
        "--operators", action="store_true", help="print train.py's operators, and no comparison"
    )
    options = parser.parse_args()
    if not (Path(options.dataset_dir) / "README.md").exists():
        parser.error(f"no dataset {options.dataset_dir}: run data_prep/build_dataset.py first.")
    names = options.models or ["vit_tiny", "resnet34", *(["vit_base"] if is_gpu() else [])]
    measured = operator_rows if options.operators else contender_rows
    rows = [row for name in names for row in measured(name, options)]
    if not is_gpu() and not options.operators and COMPILED in options.contenders:
        rows.append("| vit_base | on a GPU, with and without compilation | not measured | | | |")
    malloc = "set" if "MALLOC_TRIM_THRESHOLD_" in os.environ else "not set"
    print(f"\n{machine()}; batches of {options.batch_size}; torch {torch.__version__}")
    print(f"Turns of {options.steps} steps; MALLOC_* variables {malloc}\n")
    print(*(OPERATOR_HEAD if options.operators else CONTENDER_HEAD), *rows, sep="\n")


if __name__ == "__main__":
    main()
