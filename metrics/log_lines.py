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

SPLITS = {"eval_": "validation", "test_": "test", "train_": "train", "": "train"}  # Trainer's
# Own lines end where JSON ends the text that they stand in.
SET = re.compile(
    r"""metrics split=(?P<own>[^\n{"'\\]*)"""
    r"""|\{(?=['"])[^{}]*?['"](?P<prefix>(?:eval_|test_|train_)?)(?:\w+_)?"""
    r"""(?:loss|accuracy|runtime)['"]: [^{}]*(?P<end>\}?)"""
    r"""|(?:Loss (?P<loss>\S+), |Test set: )Accuracy:? (?P<accuracy>\S+)%"""
)
# Any other mention of a loss or an accuracy that a figure, or what is left of one, follows.
SUSPECT = re.compile(
    r"metrics split|Test set: Accuracy"
    r"|\b\w*(?:loss|accuracy)\b['\"]?\s*[:=]?\s*['\"]?[-+]?(?:\d|\.\d|nan\b|inf\b)",
    re.IGNORECASE,
)


class Figures(NamedTuple):
    """What one set in a line says. Numbers are kept as they were printed: 1e-05, nan, -inf."""

    start: int  # where in the line they begin
    split: str  # train, validation or test
    step: str  # empty where the line does not say
    epoch: str  # empty where the line does not say
    values: dict[str, str]  # name without the split's prefix, and number
    is_own: bool  # from scripts/train.py, which prints each set of figures before Trainer does


def read_figures(line: str) -> tuple[list[Figures], str]:
    """Return the sets of figures in a line, as a rule one or none, and what is wrong with the rest.

    An accuracy in percent becomes a share. The loss in Trainer's last summary, a mean over the
    whole run, is named mean_loss: it is no point of the curve. What looks like a metric and cannot
    be read to its end is told, the first of it; else the text is empty.
    """
    sets: list[Figures] = []
    end, problem = 0, ""
    if not ("metrics split" in line or "{" in line or "oss" in line or "ccuracy" in line):
        return sets, problem
    last = len(line) - 1  # where, as a rule, a newline is all that is left
    while end < last and (found := SET.search(line, end)):
        between, (start, end) = end, found.span()
        if start > between:
            problem = problem or _problem(line[between:start])
        try:
            sets.append(_read_set(found))
        except ValueError as error:
            problem = problem or str(error)
    if end < last:
        problem = problem or _problem(line[end:])
    return sets, problem


def _problem(between: str) -> str:
    """Say what is wrong with the text between sets of figures; empty where it is none."""
    if ("oss" in between or "ccuracy" in between or "metrics split" in between) and SUSPECT.search(
        between
    ):
        return "in none of the known forms"
    return ""


def _read_set(found: re.Match[str]) -> Figures:
    start, kind = found.start(), found.lastgroup
    if kind == "own":
        own = found["own"]
        if found.string.startswith("{", found.end()) and not own.endswith(" "):
            raise ValueError("it runs into what follows")
        split, *items = own.split() or [""]
        return _figures(start, split, [item.split("=") for item in items], is_own=True)
    if kind == "end":
        if not found["end"]:
            raise ValueError("the dictionary is cut off")
        prefix = found["prefix"]
        items = found[0][1:-1].replace("'", "").replace('"', "").split(", ")
        pairs = [item.removeprefix(prefix).split(": ") for item in items]
        return _figures(start, SPLITS[prefix], pairs, is_own=False)
    share = ["accuracy", repr(float(found["accuracy"]) / 100)]
    if found["loss"] is None:
        return _figures(start, "test", [share], is_own=False)
    return _figures(start, "train", [["loss", found["loss"]], share], is_own=False)


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
