"""Rules that say what is wrong with a training, from its figures alone: evidence and an advice.

Each threshold says where it comes from. Most are those of the rule of that name in SageMaker
Debugger, whose place these take; where a figure depends on model or data, it is compared with
another of the same run instead.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from diagnostics.record import Line, RunFigures

State = Literal["fires", "quiet", "unknown"]

# Fewer steps or measurements than these say nothing yet.
FEWEST_STEPS = 40
FEWEST_MEASUREMENTS = 4
# Steps before an evaluation whose mean is the training loss then; or a tenth of the run.
WINDOW = 10
# Standard errors by which a difference of losses is clear: one in 40 is beyond by chance.
CLEAR = 2.0
LEAST_FALL = 0.02  # of the loss: a run that clearly fell by less has learnt next to nothing
# A first batch whose cross entropy is below this share of what the counts' frequencies alone give
# is answered by a model that has learnt before; a new head's is above.
KNOWN_BEFORE = 0.95
OVERFIT_RISE = 0.1  # Debugger's Overfit
# A training loss that rises by this share of the validation loss's rise is a run that comes apart.
RISES_ALONG = 0.5
EXPLOSION = 100.0  # clipping hides a growth from one measurement to the next, not this one
# Debugger's VanishingGradient: Adam divides by the gradient's size plus 1e-8, so that a layer with
# less is not trained. Of large models whose gradients are all small, none has vanished.
VANISHED = 1e-7
VANISHED_SHARE = 1e-4  # of the layer with the largest gradient
# Knowing nothing costs ln(number of counts); more than twice that is to be sure of wrong answers.
CONFIDENT_START = 2.0
SAME_ANSWER = 1e-4  # logits of a batch's photos differ by less: all photos look alike
SILENT_LAYER = 0.5  # Debugger's DeadRelu: half of a layer
IMBALANCE = 10.0  # Debugger's ClassImbalance
WAITING = 0.1  # where more workers pay; a run that is well fed waits for a hundredth or two
SLOW_STEP = 3.0  # times the median
SLOW_SHARE = 0.05  # of all the time of the run: fewer lost minutes are no finding


@dataclass(frozen=True)
class Finding:
    """What a rule says of a run: whether it fires, on what evidence, and what to do then."""

    name: str
    title: str
    state: State
    evidence: str
    advice: str


Verdict = tuple[State, str]


@dataclass(frozen=True)
class Rule:
    """A rule by its name, and the function that judges a run."""

    name: str
    title: str
    judge: Callable[[RunFigures], Verdict]
    advice: str


def findings(figures: RunFigures) -> list[Finding]:
    """Return what every rule says, those that fire first."""
    found = [Finding(rule.name, rule.title, *rule.judge(figures), rule.advice) for rule in RULES]
    return sorted(found, key=lambda finding: ("fires", "quiet", "unknown").index(finding.state))


def loss_not_decreasing(figures: RunFigures) -> Verdict:
    """Compare the training loss of the run's first quarter with that of its last."""
    losses = figures.losses[np.isfinite(figures.losses)]
    if len(losses) < FEWEST_STEPS:
        return "unknown", f"{len(losses)} steps; {FEWEST_STEPS} tell."
    window = len(losses) // 4
    first, last = losses[:window], losses[-window:]
    fall = float(first.mean() - last.mean())
    noise = math.sqrt((first.var(ddof=1) + last.var(ddof=1)) / window)
    said = (
        f"The mean loss of the first {window} steps was {first.mean():.4g}, that of the last "
        f"{window} {last.mean():.4g}, give or take {CLEAR * noise:.2g}."
    )
    if fall > CLEAR * noise:
        return "quiet", said
    if fall < -CLEAR * noise:
        return "fires", said
    if known := _knew_before(figures):
        return "quiet", f"{said} {known}"
    if fall + CLEAR * noise < LEAST_FALL * first.mean():
        return "fires", said
    return "unknown", f"{said} Single steps differ too much to tell."


def _knew_before(figures: RunFigures) -> str:
    """Return a sentence that says so where the model had learnt before its first step."""
    shares = np.array(list(figures.run["photos_by_count"].values()), dtype=float)
    shares = shares[shares > 0] / shares.sum()
    uninformed = float(-(shares * np.log(shares)).sum())
    loss = next((line["initial_loss"] for line in figures.layers if line["step"] == 1), None)
    if loss is None or loss >= KNOWN_BEFORE * uninformed:
        return ""
    return (
        f"It had learnt before: the cross entropy of its first batch was {loss:.4g}, to know how "
        f"frequent the counts are gives {uninformed:.4g}."
    )


def overfit(figures: RunFigures) -> Verdict:
    """Look for a validation loss that rises while the training loss falls, or stays."""
    evaluations = [line for line in figures.evaluations if line.get("loss") is not None]
    if len(evaluations) < 2:
        return "unknown", f"{len(evaluations)} evaluations; two tell."
    best = min(evaluations, key=lambda line: line["loss"])
    last = evaluations[-1]
    at_best, at_last = (_training_loss_before(figures, line["step"]) for line in (best, last))
    rise = last["loss"] / best["loss"] - 1
    said = (
        f"The validation loss was {best['loss']:.4g} after epoch {best['epoch']:.3g} and "
        f"{last['loss']:.4g} after epoch {last['epoch']:.3g}, the training loss then {at_best:.4g} "
        f"and {at_last:.4g}."
    )
    # Learnt by heart, photos leave no loss that could fall further.
    alone = at_last - at_best < RISES_ALONG * (last["loss"] - best["loss"])
    if rise > OVERFIT_RISE and alone:
        kept = _kept_evaluation(figures)
        return "fires", f"{said} The run keeps the model of epoch {kept['epoch']:.3g}."
    return "quiet", said


def _kept_evaluation(figures: RunFigures) -> Line:
    """Return the evaluation of the model that the run keeps, as far as it has come."""
    metric, sign = figures.run["kept_by"], 1 if figures.run["greater_is_better"] else -1
    if metric is None:
        return figures.evaluations[-1]
    known = [line for line in figures.evaluations if line.get(metric) is not None]
    return max(known, key=lambda line: sign * line[metric], default=figures.evaluations[-1])


def _training_loss_before(figures: RunFigures, step: int) -> float:
    """Return the mean training loss of the steps before one; nan where there is none."""
    window = max(WINDOW, len(figures.steps) // 10)
    losses = figures.losses[(figures.steps > step - window) & (figures.steps <= step)]
    return float(np.nanmean(losses)) if np.isfinite(losses).any() else math.nan


def exploding_gradients(figures: RunFigures) -> Verdict:
    """Look for losses and gradients that are no number, and for gradients that have grown."""
    lost = figures.steps[~np.isfinite(figures.losses)]
    if len(lost):
        return "fires", f"The loss of step {lost[0]}, and of {len(lost)} in all, is no number."
    if figures.run["precision"] == "fp16":
        # Its scaling of the loss is found by trying; steps whose gradients overflow are left out.
        layers = [line for line in figures.layers if line["gradient_norm"] is not None]
    else:
        layers = list(figures.layers)
        for line in layers:
            if line["gradient_norm"] is None:
                return "fires", f"The gradient of step {line['step']} is no number."
    if len(layers) < FEWEST_MEASUREMENTS:
        return "unknown", f"{len(layers)} measurements; {FEWEST_MEASUREMENTS} tell."
    norms = np.array([line["gradient_norm"] for line in layers])
    window = max(2, len(norms) // 10)
    first, last = float(np.median(norms[:window])), float(np.median(norms[-window:]))
    said = f"The gradient's norm was {first:.3g} at first and {last:.3g} at last."
    return ("fires" if last > EXPLOSION * first else "quiet"), said


def vanishing_gradients(figures: RunFigures) -> Verdict:
    """Look for lowest layers that get next to no gradient while those above them get some."""
    if len(figures.layers) < FEWEST_MEASUREMENTS:
        return "unknown", f"{len(figures.layers)} measurements; {FEWEST_MEASUREMENTS} tell."
    typical = _of_second_half(figures, "gradient_rms")
    if not (typical > 0).any():
        return "unknown", "No layer has a gradient that is a number above 0."
    # Exactly nothing is another rule's: a dead layer.
    limit = min(VANISHED, VANISHED_SHARE * float(np.nanmax(typical)))
    # Only what is on the way to all layers below has vanished: the branches of a healthy ConvNeXt,
    # which begin scaled down to a millionth, get as little, and the gradient passes them by.
    reached = [index for index, rms in enumerate(typical) if rms >= limit]
    vanished = [index for index in range(reached[0]) if typical[index] > 0]
    least = int(np.nanargmin(np.where(typical > 0, typical, np.inf)))
    names = figures.run["layers"]
    said = (
        f"The root mean square of the gradient is {typical[least]:.2g} in {names[least]} and "
        f"{np.nanmax(typical):.2g} in {names[int(np.nanargmax(typical))]}."
    )
    if vanished:
        return (
            "fires",
            f"{said} It is below {limit:.2g} in the lowest {len(vanished)} of {len(names)} layers.",
        )
    return "quiet", said


def poor_initialisation(figures: RunFigures) -> Verdict:
    """Judge the answers and the weights before the first step."""
    first = next((line for line in figures.layers if line["step"] == 1), None)
    if first is None:
        return "unknown", "The first step was not measured."
    uninformed = math.log(figures.run["num_counts"])
    loss, spread = first["initial_loss"], first["answer_spread"]
    if loss is None or loss > CONFIDENT_START * uninformed:
        shown = "no number" if loss is None else f"{loss:.4g}"
        return "fires", (
            f"The cross entropy of the first batch was {shown}; to know nothing gives "
            f"{uninformed:.4g}."
        )
    if first["constant_layers"]:
        listed = ", ".join(first["constant_layers"][:3])
        return "fires", (
            f"All weights of a layer are the same number in {len(first['constant_layers'])} layers "
            f"({listed})."
        )
    said = (
        f"The cross entropy of the first batch was {loss:.4g} (to know nothing gives "
        f"{uninformed:.4g})"
    )
    if spread is None:  # a batch of one photo
        return "quiet", f"{said}."
    said = f"{said}, and logits of different photos differed by {spread:.2g}."
    # A head of zeros gives every photo the same answer on purpose, and learns from its first step.
    is_same = spread < SAME_ANSWER and not first["head_is_zero"]
    return ("fires" if is_same else "quiet"), said


def dead_layers(figures: RunFigures) -> Verdict:
    """Look for layers most of whose units are silent, and for weights without any gradient."""
    if len(figures.layers) < FEWEST_MEASUREMENTS:
        return "unknown", f"{len(figures.layers)} measurements; {FEWEST_MEASUREMENTS} tell."
    gradients = _of_second_half(figures, "gradient_max")
    names, functions = figures.run["layers"], figures.run["activations"]
    dead = [f"{names[i]} gets no gradient" for i in np.flatnonzero(gradients == 0)]
    silent = _of_second_half(figures, "silent") if functions else np.empty(0)
    for index in np.flatnonzero(silent > SILENT_LAYER):
        dead.append(f"{silent[index]:.0%} of the units of {functions[index]} say nothing")
    if dead:
        return "fires", "; ".join(dead[:4]) + (f"; {len(dead) - 4} more." if dead[4:] else ".")
    if not np.isfinite(silent).any():
        return "quiet", "Every layer gets a gradient; silent units were not looked for."
    most = int(np.nanargmax(silent))
    return "quiet", (
        f"Every layer gets a gradient; at most {silent[most]:.0%} of a layer's units say nothing "
        f"({functions[most]})."
    )


def _of_second_half(figures: RunFigures, name: str) -> np.ndarray:
    """Return the median of a figure by layer over the second half of the measurements."""
    values = figures.of_layers(name)
    kept = values[len(values) // 2 :]
    # A layer that was never measured stays nan, without a warning.
    measured = np.isfinite(kept).any(axis=0)
    medians = np.full(kept.shape[1], np.nan)
    medians[measured] = np.nanmedian(kept[:, measured], axis=0)
    return medians


def class_imbalance(figures: RunFigures) -> Verdict:
    """Compare how many training photos the counts have."""
    photos: Line = figures.run["photos_by_count"]
    most, least = max(photos, key=photos.__getitem__), min(photos, key=photos.__getitem__)
    said = f"{photos[most]:,} training photos show {most}, {photos[least]:,} show {least}."
    if photos[least] == 0:
        return "fires", f"{said} No weight makes up for that: the model never answers {least}."
    if figures.run["class_weights"] != "none":
        return "quiet", f"{said} The loss weighs them alike."
    return ("fires" if photos[most] > IMBALANCE * photos[least] else "quiet"), said


def device_waiting(figures: RunFigures) -> Verdict:
    """Compare the time spent waiting for photos with the time of the steps."""
    if len(figures.steps) < FEWEST_STEPS:
        return "unknown", f"{len(figures.steps)} steps; {FEWEST_STEPS} tell."
    share = figures.data_share
    said = (
        f"{share:.1%} of the time is spent waiting for photos, with "
        f"{figures.run['num_workers']} worker processes."
    )
    return ("fires" if share > WAITING else "quiet"), said


def step_time_outliers(figures: RunFigures) -> Verdict:
    """Look for steps that take much longer than the others, and cost something."""
    kept = ~figures.is_traced
    kept[:2] = False  # the first ones allocate, choose kernels and compile
    steps, seconds = figures.steps[kept], figures.step_seconds[kept]
    if len(steps) < FEWEST_STEPS:
        return "unknown", f"{len(steps)} steps; {FEWEST_STEPS} tell."
    usual = float(np.median(seconds))
    is_slow = seconds > SLOW_STEP * usual
    lost = float((seconds[is_slow] - usual).sum() / seconds.sum())
    said = (
        f"{is_slow.sum()} of {len(steps)} steps took more than {SLOW_STEP:g} times the usual "
        f"{usual:.3g} s and cost {lost:.1%} of the time"
    )
    if not is_slow.any():
        return "quiet", f"{said}."
    slowest = steps[np.argsort(seconds)[::-1][: min(5, int(is_slow.sum()))]]
    said = f"{said}; the slowest: {', '.join(map(str, slowest))}."
    return ("fires" if lost > SLOW_SHARE else "quiet"), said


RULES = (
    Rule(
        "loss_not_decreasing",
        "Loss does not decrease",
        loss_not_decreasing,
        "Try --learning_rate ten times lower, then ten times higher; look at some photos with "
        "their labels.",
    ),
    Rule(
        "overfit",
        "Overfit",
        overfit,
        "Train for fewer --num_train_epochs, on more photos, with --augment_colour, and with "
        "whatever of --augment_geometry, --mixup and --regularize is off.",
    ),
    Rule(
        "exploding_gradients",
        "Exploding gradients",
        exploding_gradients,
        "Lower --learning_rate, add --warmup_steps 0.1, keep --max_grad_norm at 1; with --fp16 try "
        "--bf16.",
    ),
    Rule(
        "vanishing_gradients",
        "Vanishing gradients",
        vanishing_gradients,
        "Start from a pretrained model, or from a config with normalisation and residual "
        "connections; with --fp16 try --bf16.",
    ),
    Rule(
        "poor_initialisation",
        "Poor weight initialisation",
        poor_initialisation,
        "Start from a pretrained model, or set initializer_range in config.json to 0.02.",
    ),
    Rule(
        "dead_layers",
        "Dead layers",
        dead_layers,
        "Lower --learning_rate and warm up (--warmup_steps 0.1); what is dead from the first step "
        "on is badly initialised or not connected.",
    ),
    Rule(
        "class_imbalance",
        "Class imbalance",
        class_imbalance,
        "Add bins with the rare count, or, where it has some, --class_weights balanced.",
    ),
    Rule(
        "device_waiting",
        "Device waits for data",
        device_waiting,
        "Raise --dataloader_num_workers to the cores there are, or take a machine with more cores "
        "for each GPU; keep the dataset on a local disk.",
    ),
    Rule(
        "step_time_outliers",
        "Step-time outliers",
        step_time_outliers,
        "Look at what else the machine does at these steps; --trace_steps FIRST-LAST shows what a "
        "step does.",
    ),
)
