"""The model card: README.md of a model's repository on the Hub. Pure text from recorded figures."""

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

# Marks the repositories that push_to_hub.py may write to again.
TAG = "bin-counting"
BUCKET = "aft-vbi-pds"
REGISTRY = "https://registry.opendata.aws/amazon-bin-imagery/"
DRAWN = "Drawn bins, as in the demo, are free of these terms, and say nothing about real ones."
# What the weights depend on, in the order of the command that the card shows.
FLAGS = (
    *("num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("learning_rate", "lr_scheduler_type", "max_grad_norm", "optim", "seed", "fp16"),
    *("metric_for_best_model", "early_stopping_patience", "max_hours"),
)
# Those that are said where they are not train.py's defaults, which are these.
RARE_FLAGS = {
    **{"max_steps": -1, "data_seed": None, "lr_scheduler_kwargs": None, "optim_args": None},
    **{"adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8, "label_smoothing_factor": 0.0},
    **{"dataloader_drop_last": False, "load_best_model_at_end": True},
    **{"eval_strategy": "epoch", "save_strategy": "epoch", "eval_steps": None},
}
# Those that are said also where they are off, or 0: train.py's default is another.
RECIPE_FLAGS = (
    *("bf16", "warmup_steps", "weight_decay"),
    *("loss", "neighbour_weight", "class_weights", "checked_weight"),
    *("augment_geometry", "augment_colour", "mixup"),
    *("regularize", "average_weights", "drop_path", "learn_changes", "learn_items", "calibrate"),
    "max_train_samples",
)
METRICS = {
    "accuracy": ("Accuracy", "share of the photos whose most likely count is right"),
    "within_one_accuracy": (
        "Accuracy within one item",
        "the most likely count is off by 1 at most",
    ),
    "mae": ("Mean absolute error, items", "of the distribution's median"),
    "rmse": ("Root mean squared error, items", "of the distribution's mean"),
    "negative_log_likelihood": ("Negative log-likelihood", "cross entropy, nats"),
}
# What scripts/audit_evaluation/cases.py makes wrong, and what is known there.
WRONG_RECORDS = {
    "real_pairs": "the record of the bin's state before or after a pick",
    "symmetric_errors": "one item off",
    "real_changes": "another change since a visit, whose count is known, than there was",
    "real_pairs_with_visits": "as real pairs, with all photos of the bin and none of its other "
    "records",
    "symmetric_errors_with_visits": "one item off, where the count of another visit is known",
    "real_pairs_with_items": "as real pairs, with the items that both records name",
    "real_pairs_with_visits_and_items": "as real pairs, with all photos of the bin, and the items "
    "that both records name",
    "real_changes_with_items": "as real changes, with the items that all records name",
}
BUDGET_OF_RIVALS = 0.2
PLOTS = {
    "confusion_matrix": "Confusion matrix",
    "by_count": "Accuracy and RMSE for each count",
    "reliability": "Reliability diagram",
}
# Of changes and visits, as metrics/report.py names them.
OF_CHANGES = ("direction", "count_accuracy", "count_rmse", "count_loss", "calibration_error")
OF_VISITS = ("accuracy", "rmse", "loss")
# Of the items, likewise.
OF_SIZES = ("r2", "covered")
SIZES = {
    "volume": "volume of all items",
    "largest": "volume of the largest item",
    "smallest": "volume of the smallest item",
    "weight": "weight of all items",
}


def model_card(
    repo_id: str, arguments: Mapping[str, Any], counts: Sequence[str], figures: Mapping[str, Any]
) -> str:
    """Return the text of README.md.

    Args:
        repo_id: USER/NAME on the Hub.
        arguments: what scripts/train.py recorded in arguments.json.
        counts: the labels, such as "1" to "5".
        figures: report.json of metrics/report.py, with intervals.
    """
    data = card_data(repo_id, arguments, counts, figures)
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {repo_id.split('/')[1]}: items in a warehouse bin, from one photo",
        introduction(arguments, counts, figures),
        "## How to use it",
        usage(repo_id),
        "## How well it counts",
        results(figures),
        "## Calibration",
        calibration(figures),
        *telling_changes(figures.get("visits")),
        *telling_items(figures.get("items")),
        *finding_wrong_records(figures.get("audit")),
        "## Data, split, licence",
        data_note(arguments, counts, figures),
        "## Limits",
        limits(counts),
        "## How it was trained",
        training(arguments),
    ]
    return "\n\n".join(sections) + "\n"


def card_data(
    repo_id: str, arguments: Mapping[str, Any], counts: Sequence[str], figures: Mapping[str, Any]
) -> ModelCardData:
    """Return the card's header, with the figures as model-index."""
    is_public_bucket = BUCKET in str(_settings(arguments).get("source"))
    results = [
        EvalResult(
            task_type="image-classification",
            task_name=f"Counting {counts[0]} to {counts[-1]} items",
            dataset_type="amazon-bin-image-dataset" if is_public_bucket else "bin-photos",
            dataset_name=dataset_name(arguments, counts),
            dataset_split="test",
            metric_type=name,
            metric_name=f"{METRICS[name][0]} [95 % interval {row['low']:.4g} to {row['high']:.4g}]",
            metric_value=round(row["value"], 4),
        )
        for name, row in figures["overall"].items()
    ]
    return ModelCardData(
        license="cc-by-nc-sa-3.0",
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=[TAG, "object-counting", "warehouse"],
        base_model=base_model(arguments),
        model_name=repo_id.split("/")[1],
        eval_results=results,
    )


def base_model(arguments: Mapping[str, Any]) -> str | None:
    """Return the Hub id that the training started from, None for a folder or from scratch."""
    name = arguments.get("model_name_or_path") or ""
    is_hub_id = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name) and not Path(name).exists()
    return name if is_hub_id else None


def dataset_name(arguments: Mapping[str, Any], counts: Sequence[str]) -> str:
    """Return what the model was tested on: which photos, split how."""
    photos = f"Bin photos with {counts[0]} to {counts[-1]} items"
    if BUCKET in str(_settings(arguments).get("source")):
        photos = f"Amazon Bin Image Dataset, {counts[0]} to {counts[-1]} items"
    split = {
        "bin_group": ", split by bin",
        "random": ", split at random (leaks)",
        "official": ", official split (leaks)",
    }
    return photos + split.get(str(_settings(arguments).get("split_by")), "")


def introduction(
    arguments: Mapping[str, Any], counts: Sequence[str], figures: Mapping[str, Any]
) -> str:
    """Return what the model does, and its headline figures beside the majority class."""
    matrix = figures["confusion_matrix"]
    most_frequent = max(range(len(matrix)), key=lambda row: sum(matrix[row]))
    share = sum(matrix[most_frequent]) / figures["num_bins"]
    accuracy, rmse = figures["overall"]["accuracy"], figures["overall"]["rmse"]
    origin = f"on from {_start(arguments)}" if _is_finetuned(arguments) else "from nothing"
    return (
        f"Says how many items a bin holds ({counts[0]} to {counts[-1]}), and how sure it is: one "
        f"probability a count. An image classifier, trained {origin}. Of {figures['num_bins']:,} "
        f"test photos it is right for {_percent(accuracy)} (always answering "
        f"{counts[most_frequent]} is right for {share:.1%}), with an RMSE of {_number(rmse)} "
        "items. Brackets hold 95 % intervals (bootstrap over bins, since photos of one bin depend "
        "on one another)."
    )


def usage(repo_id: str) -> str:
    """Return the code that asks the model."""
    return f"""```python
from transformers import pipeline

count = pipeline("image-classification", model="{repo_id}")
count("bin.jpg")  # [{{'label': '3', 'score': 0.41}}, ...]: each label is a number of items
```

A private repository wants `hf auth login` first. The photo may have any size: the image processor
squeezes it to a square, as in training, without a crop that could cut an item away. The smallest
error in items comes from the whole distribution: the median count for the absolute error, the mean
for the squared one."""


def results(figures: Mapping[str, Any]) -> str:
    """Return the tables of the test split, and the plots."""
    overall = [
        "| figure | value | 95 % interval | what it is |",
        "|---|--:|---|---|",
        *(
            f"| {title} | {figures['overall'][name]['value']:.3f} | "
            f"{_interval(figures['overall'][name])} | {text} |"
            for name, (title, text) in METRICS.items()
            if name in figures["overall"]
        ),
    ]
    by_count = [
        "| items | photos | accuracy | RMSE, items |",
        "|--:|--:|---|---|",
        *(
            f"| {row['key']} | {row['num_bins']:,} | {_percent(row['accuracy'])} | "
            f"{_number(row['rmse'])} |"
            for row in figures["by_count"]
        ),
    ]
    plots = [f"![{title}](plots/{name}.png)" for name, title in PLOTS.items()]
    return "\n".join(overall) + "\n\n" + "\n".join(by_count) + "\n\n" + "\n".join(plots[:2])


def calibration(figures: Mapping[str, Any]) -> str:
    """Return how far the probabilities can be trusted."""
    error = figures["expected_calibration_error"]
    levels = figures["reliability"]
    photos = sum(level["num_bins"] for level in levels)
    confidence = sum(level["confidence"] * level["num_bins"] for level in levels) / photos
    accuracy = figures["overall"]["accuracy"]["value"]
    tendency = "more" if confidence > accuracy else "less"
    return (
        f"The expected calibration error is {error:.3f}. The most likely count has a probability "
        f"of {confidence:.1%} on average and is right for {accuracy:.1%} of the photos: the model "
        f"is {tendency} sure than it is right.\n\n![{PLOTS['reliability']}](plots/reliability.png)"
    )


def telling_changes(visits: Mapping[str, Any] | None) -> list[str]:
    """Return how well changes between two visits are told, with a heading; nothing if they are not.

    Args:
        visits: of report.json.
    """
    if visits is None:
        return []
    changes = [
        "| told by | direction | count | RMSE, items | nats | calibration error |",
        "|---|--:|--:|--:|--:|--:|",
        *(_row(way, of, OF_CHANGES) for way, of in visits["changes"].items()),
    ]
    counts = [
        "| counted from | accuracy | RMSE, items | nats |",
        "|---|--:|--:|--:|",
        *(_row(way, of, OF_VISITS) for way, of in visits["visits"].items()),
    ]
    return [
        "## What changed between two visits",
        "Of two photos of one bin, the change head beside the model (`change_head.safetensors`, "
        "`change_head.json`) says how many items were put in or taken out between them; "
        "`scripts/inference.py` and `scripts/audit.py` ask it, `transformers` does not know it. On "
        f"{visits['num_pairs']:,} pairs of test photos in {visits['num_groups']:,} bins: which of "
        "the two holds more (direction), and what one of them holds, given what the other does "
        "(count).",
        "\n".join(changes),
        "Photos with a visit before or after, counted without any record:",
        "\n".join(counts),
        "Few of these pairs, or none, show the same count: what the head says of a bin that nobody "
        "touched was learned from single photos shown twice, and is not measured.",
    ]


def telling_items(items: Mapping[str, Any] | None) -> list[str]:
    """Return how well the items' sizes are told, with a heading; nothing if they are not.

    Args:
        items: of report.json.
    """
    if items is None:
        return []
    rows = [
        "| told of a photo | variance told | within what should hold 90 % |",
        "|---|--:|--:|",
        *(_row(SIZES[name], of, OF_SIZES) for name, of in items["sizes"].items()),
        *(
            [_row("number of distinct items: right", items, ["distinct_accuracy", ""])]
            if "distinct_accuracy" in items
            else []
        ),
    ]
    return [
        "## What the items are",
        "The item heads beside the model (`item_heads.safetensors`, `item_heads.json`) say how "
        "large, how heavy and how many different the items are; `transformers` does not know them. "
        "Volumes and weights as the records have them, by their logarithms: the share of the "
        "variance that the photo tells, and of the test photos within what the model says to hold "
        "90 % of them.",
        "\n".join(rows),
    ]


def _row(way: str, figures: Mapping[str, Mapping[str, float]], names: Sequence[str]) -> str:
    cells = []
    for name in names:
        digits = ".3f" if "rmse" in name or "loss" in name else ".1%"
        value, *ends = [format(n, digits) for n in figures.get(name, {}).values()] or [""]
        cells.append(f"{value} [{', '.join(ends)}]" if ends else value)
    return f"| {way} | {' | '.join(cells)} |"


def finding_wrong_records(audit: Mapping[str, Any] | None) -> list[str]:
    """Return what an audit with the model finds, with a heading; nothing if nobody measured."""
    if audit is None:
        return []
    rows = [
        f"| {name.replace('_', ' ')} | {row['budget']:.0%} | {_percent(row['found'])} | "
        f"{_percent(row['precision'])} | {_number(row['times_random'])} | "
        f"{_number(row['rule_times_random'])} |"
        for name, kind in audit["kinds"].items()
        for row in kind["budgets"]
        if row["budget"] in (0.05, 0.1, 0.2, 0.5)
    ]
    table = [
        "| wrong records | bins checked | found | of those checked, wrong | times random | "
        "rule 'count differs' |",
        "|---|--:|---|---|---|---|",
        *rows,
    ]
    made_wrong = "; ".join(
        f"{name.replace('_', ' ')}: {WRONG_RECORDS.get(name, 'otherwise')}"
        for name in audit["kinds"]
    )
    text = (
        f"With {audit['wrong_share']:.0%} of the test records made wrong ({made_wrong}), and the "
        "bins checked first that are most likely wrong (`scripts/audit.py --evaluate`):"
    )
    notes = [
        f"{name.replace('_', ' ').capitalize()}: the audit takes "
        f"{_percent(kind['estimated_rate'])} of the records for wrong before it sees a photo, and "
        "its probability to be wrong has a calibration error of "
        f"{kind['calibration']['expected_calibration_error']:.1%}."
        for name, kind in audit["kinds"].items()
    ]
    return [
        "## Finding wrong records",
        text,
        "\n".join(table),
        " ".join(notes),
        *those_who_know_less(audit["kinds"], audit["wrong_share"]),
        *what_is_saved(audit["kinds"], audit["wrong_share"]),
    ]


def those_who_know_less(kinds: Mapping[str, Any], wrong_share: float) -> list[str]:
    """Return what others find who judge the same records; nothing where no visits were judged."""
    rows = []
    for name, kind in kinds.items():
        error = kind.get("calibration_error_if_told", {}).get(f"{wrong_share:g}")
        judges = {"audit": {**kind, "calibration_error_if_told": error}, **kind.get("rivals", {})}
        rows += [
            f"| {name.replace('_', ' ')} | {judge} | {_number(found['times_random'])} | "
            f"{_number(figures['area_under_curve'])} | "
            f"{figures['calibration_error_if_told']:.1%} |"
            for judge, figures in judges.items()
            for found in figures["budgets"]
            if len(judges) > 1 and found["budget"] == BUDGET_OF_RIVALS
        ]
    if not rows:
        return []
    table = [
        f"| wrong records | judged by | times random at {BUDGET_OF_RIVALS:.0%} of the checks | "
        "area under the ROC curve | calibration error |",
        "|---|---|---|---|--:|",
        *rows,
    ]
    text = (
        "The same records judged by those who know less, all told that "
        f"{wrong_share:.0%} are wrong. No record here equals that of a visit whose count is known: "
        "in the bucket's photos counts change from each visit to the next, and knowing that is not "
        "seeing it. Of real pairs every wrong record does equal one: there no other record is "
        "known, and that two visits differ still helps. 'By the error model' sees what the audit "
        "sees, and is not told how wrong records come about."
    )
    return [text, "\n".join(table)]


def what_is_saved(kinds: Mapping[str, Any], wrong_share: float) -> list[str]:
    """Return what decisions by cost save, beside what needs no audit."""
    rows = []
    for name, kind in kinds.items():
        for of in kind["savings"]:
            ways = {way["name"]: way for way in of["ways"]}
            best = ways[of["best_rival"]]
            rows.append(
                f"| {name.replace('_', ' ')} | {of['cost_missed_error']:g} : "
                f"{of['cost_manual_check']:g} | {_whole(ways['audit']['saved'])} | "
                f"{ways['audit']['checked']['value']:.0%} | "
                f"{_whole(ways[f'audit, told {wrong_share:.0%}']['saved'])} | "
                f"{of['best_rival']}, {_whole(best['saved'])} | "
                f"{_whole(of['more_than_best_rival'])} |"
            )
    table = [
        "| wrong records | an error : a check | saved | bins checked | if told the true share | "
        "the best of the others | the audit saves more |",
        "|---|---|---|--:|---|---|---|",
        *rows,
    ]
    text = (
        "What an audit with this model saves per 1,000 bins, against leaving all records, in the "
        "unit of a check. The others: check all bins, none, or those where the model counts "
        "something else; and an audit that sees no photo, of these records alone or of the model's "
        "average answer. Where the last column is not above 0, the best of them is the better way."
    )
    return [text, "\n".join(table)]


def data_note(
    arguments: Mapping[str, Any], counts: Sequence[str], figures: Mapping[str, Any]
) -> str:
    """Return where the photos come from, how they were split, and what their licence asks."""
    settings = _settings(arguments)
    source = str(settings.get("source", ""))
    # A path of somebody's machine is nobody else's business.
    origin = f"`{_plain(source)}`" if "://" in source else "a folder laid out like Amazon's bucket"
    leakage = {
        "bin_group": "Consecutive photos often show one bin before and after a pick, with "
        "different counts. All photos of one bin are in one split here, so that no near-copy of a "
        "test photo was trained on. Published figures on this data come from splits that ignore "
        "this.",
        "random": "**The split leaks**: consecutive photos often show one bin before and after a "
        "pick, and this dataset was split photo by photo, so that near-copies of test photos were "
        "trained on. Compare the figures with published ones only.",
        "official": "**The split leaks**: the test split is the validation list of the dataset's "
        "own challenge, which was split photo by photo, while consecutive photos often show one "
        "bin before and after a pick: near-copies of test photos were trained on. Compare the "
        "figures with published ones only.",
    }.get(
        str(settings.get("split_by")),
        "How the photos were split was not recorded: near-copies of test photos may have been "
        "trained on.",
    )
    drawn = "" if BUCKET in source else f" {DRAWN}"
    fingerprint = _plain(arguments.get("dataset_fingerprint"))
    return f"""Tested on {figures["num_bins"]:,} photos of {figures["num_groups"]:,} bins: the test
split of a dataset with {counts[0]} to {counts[-1]} items, which `data_prep/build_dataset.py` built
from {origin} (fingerprint `{fingerprint}`).

{leakage}

The photos of the [Amazon Bin Image Dataset]({REGISTRY}) (bucket `{BUCKET}`) are Amazon's, under
[CC BY-NC-SA 3.0 US](https://creativecommons.org/licenses/by-nc-sa/3.0/us/): non-commercial use,
with attribution, shared alike. This model is shared under the same terms. No photo is in this
repository. What the training started from has a licence of its own.{drawn}"""


def limits(counts: Sequence[str]) -> str:
    """Return what the model must not be used for."""
    return f"""- It answers {counts[0]} to {counts[-1]}, and nothing else: for an empty bin,
  a fuller one and a photo of something else too.
- The labels are the inventory's records, not counts by hand: some are wrong, in every split.
- Items hide behind others, behind tape and in boxes; many photos cannot be counted by anybody.
- One operator's bins, cameras and goods. Other warehouses need photos and figures of their own.
- An answer is a reason to look, not to book: let a person see the bins where it disagrees with the
  inventory, the surest first."""


def training(arguments: Mapping[str, Any]) -> str:
    """Return the command and the versions."""
    flags = ["--dataset_dir", "DATASET", "--output_dir", "RUN"]
    if _is_finetuned(arguments):
        flags += ["--model_name_or_path", _start(arguments)]
    else:
        flags += ["--config_name", _start(arguments)]
    for name in FLAGS:
        value = arguments.get(name)
        if value is True:
            flags.append(f"--{name}")
        elif value is not None and value is not False and value != "":
            flags += [f"--{name}", _plain(value)]
    for name in RECIPE_FLAGS:
        if (value := arguments.get(name)) is not None:
            flags += [f"--{name}", _said(value)]
    for name, default in RARE_FLAGS.items():
        if (value := arguments.get(name, default)) != default and value is not None:
            flags += [f"--{name}", _said(value)]
    flags += ["--do_train", "--do_eval", "--do_predict"]
    command = " \\\n  ".join(_lines(["python scripts/train.py", *_pairs(flags)]))
    versions = arguments.get("versions") or {}
    listed = ", ".join(f"{_plain(name)} {_plain(version)}" for name, version in versions.items())
    processes = arguments.get("world_size") or 1
    kept = "The last epoch was kept."
    if arguments.get("load_best_model_at_end"):
        metric = _plain(arguments.get("metric_for_best_model"))
        kept = f"The checkpoint with the best {metric} on the validation split was kept."
    return (
        f"```bash\n{command}\n```\n\n"
        f"On {_plain(processes)} process{'es' if processes != 1 else ''}, with "
        f"{listed or 'versions that were not recorded'}. {kept}"
    )


def _settings(arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    return arguments.get("dataset_settings") or {}


def _is_finetuned(arguments: Mapping[str, Any]) -> bool:
    return bool(arguments.get("model_name_or_path"))


def _start(arguments: Mapping[str, Any]) -> str:
    """Return the Hub id, or the last part of the path, of what the training started from."""
    name = arguments.get("model_name_or_path") or arguments.get("config_name") or ""
    return _plain(base_model(arguments) or Path(name).name)


def _plain(value: object) -> str:
    """Return a recorded value without what would be markup: the record may come from anybody."""
    return re.sub(r"[^\w ./:+,=-]", "", str(value))[:100]


def _said(value: object) -> str:
    """Return a recorded value as a command line has it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return json.dumps({_plain(name): _number_or_plain(of) for name, of in value.items()})
    return _plain(value)


def _number_or_plain(value: object) -> object:
    return value if isinstance(value, bool | int | float) else _plain(value)


def _pairs(flags: Sequence[str]) -> list[str]:
    """Join each flag with its value."""
    joined: list[str] = []
    for word in flags:
        if word.startswith("--"):
            joined.append(word)
        else:
            joined[-1] += f" {shlex.quote(word)}"
    return joined


def _lines(words: Sequence[str], width: int = 90) -> list[str]:
    """Fill lines with words that stay whole."""
    lines = [words[0]]
    for word in words[1:]:
        if len(lines[-1]) + 1 + len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _interval(row: Mapping[str, float]) -> str:
    return f"[{row['low']:.3f}, {row['high']:.3f}]"


def _percent(row: Mapping[str, float]) -> str:
    return f"{row['value']:.1%} [{row['low']:.1%}, {row['high']:.1%}]"


def _whole(row: Mapping[str, float]) -> str:
    return f"{row['value']:,.0f} [{row['low']:,.0f}, {row['high']:,.0f}]"


def _number(row: Mapping[str, float]) -> str:
    return f"{row['value']:.3f} {_interval(row)}"
