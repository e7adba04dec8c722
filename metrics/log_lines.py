"""Read the figures in one line of a training log; text in, values out, no files.

    metrics split=train step=60 epoch=1 loss=1.3971          scripts/train.py
    {'eval_loss': '1.397', 'epoch': '1'}                     Trainer of transformers 5
    {'eval_loss': 1.397, 'epoch': 1.0}                       Trainer of transformers 4
    Loss 0.0118, Accuracy 30.19%                             plain PyTorch scripts
    Test set: Accuracy: 45%

Anything may stand in front of them: a time, a host, half a progress bar.
"""

import re
from typing import NamedTuple

OWN_LINE = "metrics split="
SPLITS = {"eval_": "validation", "test_": "test", "train_": "train", "": "train"}  # Trainer's
DICTIONARY = re.compile(
    r"""\{(?=['"])[^{}]*?['"](?P<prefix>(?:eval_|test_|train_)?)(?:\w+_)?"""
    r"""(?:loss|accuracy|runtime)['"]: """
)
PERCENTAGES = re.compile(r"(?:Loss (?P<loss>\S+), |Test set: )Accuracy:? (?P<accuracy>\S+)%")
# Any other mention of a loss or an accuracy that a figure, or what is left of one, follows.
SUSPECT = re.compile(
    r"metrics split|Test set: Accuracy"
    r"|\b\w*(?:loss|accuracy)\b['\"]?\s*[:=]?\s*['\"]?[-+]?(?:\d|\.\d|nan\b|inf\b)",
    re.IGNORECASE,
)


class Figures(NamedTuple):
    """What one line says. Numbers are kept as they were printed: 1e-05, nan, -inf."""

    start: int  # where in the line they begin
    split: str  # train, validation or test
    step: str  # empty where the line does not say
    epoch: str  # empty where the line does not say
    values: dict[str, str]  # name without the split's prefix, and number
    is_own: bool  # from scripts/train.py, which prints each set of figures before Trainer does


def read_figures(line: str) -> Figures | None:
    """Return the figures in a line, None where it holds none.

    An accuracy in percent becomes a share. The loss in Trainer's last summary, a mean over the
    whole run, is named mean_loss: it is no point of the curve.

    Raises: ValueError: the line looks like a metric and cannot be read to its end.
    """
    start = line.find(OWN_LINE)
    if start >= 0:
        split, *items = line[start + len(OWN_LINE) :].split()
        return _figures(start, split, [item.split("=") for item in items], is_own=True)
    if "{" in line and (found := DICTIONARY.search(line)):
        return _read_dictionary(line, found)
    if "oss" in line or "ccuracy" in line:
        if found := PERCENTAGES.search(line):
            return _read_percentages(found)
        if SUSPECT.search(line):
            raise ValueError("in none of the known forms")
    return None


def _read_dictionary(line: str, found: re.Match[str]) -> Figures:
    start, end = found.start(), line.find("}", found.end())
    if end < 0:
        raise ValueError("the dictionary is cut off")
    prefix = found["prefix"]
    items = line[start + 1 : end].replace("'", "").replace('"', "").split(", ")
    pairs = [item.removeprefix(prefix).split(": ") for item in items]
    return _figures(start, SPLITS[prefix], pairs, is_own=False)


def _read_percentages(found: re.Match[str]) -> Figures:
    share = ["accuracy", repr(float(found["accuracy"]) / 100)]
    if found["loss"] is None:
        return _figures(found.start(), "test", [share], is_own=False)
    return _figures(found.start(), "train", [["loss", found["loss"]], share], is_own=False)


def _figures(start: int, split: str, pairs: list[list[str]], is_own: bool) -> Figures:
    """Check the numbers, and tell step and epoch from the rest.

    Raises: ValueError: not all of it is names with numbers, or an accuracy is no share.
    """
    values = dict(pairs)
    for name, number in values.items():
        if float(number) > 1 and "accuracy" in name:
            raise ValueError(f"{name} {number} is not a share from 0 to 1")
    step, epoch = values.pop("step", ""), values.pop("epoch", "")
    if not values:
        raise ValueError("no figure in it")
    if split == "train" and "runtime" in values and "loss" in values:
        values["mean_loss"] = values.pop("loss")
    return Figures(start, split, step, epoch, values, is_own)
