"""Which of Trainer's own flags this project knows, which it refuses, and the bounds of each number.

transformers has 110 flags, and each release brings some and takes some away. Those that are named
here were tried; any other one is named as a run starts.
"""

import json
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

# The weights depend on these: a run that goes on has to have them unchanged.
DECIDE_WEIGHTS = (
    *("seed", "data_seed", "per_device_train_batch_size", "gradient_accumulation_steps"),
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay"),
    *("max_grad_norm", "optim", "adam_beta1", "adam_beta2", "adam_epsilon", "bf16"),
    *("label_smoothing_factor", "dataloader_drop_last", "metric_for_best_model"),
)
# These may change while a run goes on: how far, what is looked at and kept, and how it is carried
# out. Of the first two rows depends when the training ends, which of its weights are kept, and what
# is drawn: an evaluation draws a number where the training draws its own.
MAY_CHANGE = (
    *("num_train_epochs", "max_steps", "load_best_model_at_end", "greater_is_better"),
    *("eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "save_strategy"),
    *("output_dir", "do_train", "do_eval", "do_predict", "resume_from_checkpoint", "run_name"),
    *("eval_accumulation_steps", "per_device_eval_batch_size", "auto_find_batch_size"),
    *("save_steps", "save_total_limit", "report_to", "project"),
    *("logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter"),
    *("log_level", "log_level_replica", "log_on_each_node", "disable_tqdm"),
    *("dataloader_num_workers", "dataloader_prefetch_factor", "dataloader_pin_memory"),
    *("gradient_checkpointing", "full_determinism", "use_cpu", "ddp_timeout", "local_rank"),
    *("push_to_hub", "hub_model_id", "hub_token", "hub_private_repo", "hub_strategy"),
)
# Of these not every value was tried.
TRIED_VALUES: dict[str, tuple[str, ...]] = {
    "optim": ("adamw_torch_fused", "adamw_torch", "sgd"),
    "lr_scheduler_type": ("cosine", "linear", "constant", "cosine_with_restarts", "polynomial"),
    "save_strategy": ("epoch", "steps", "no"),
    "report_to": ("none", "tensorboard", "trackio"),
    "hub_strategy": ("every_save", "end"),
}
# A promise of this project would break: what has to be at its default, and why.
_WHOLE_MODEL = "each process trains the whole model here, which is averaged over the steps"
_ALL_ANSWERS = "metrics are in items, of the answers to all photos at once"
_FULL_PRECISION = "evaluation and the saved model are in full precision"
REFUSED = {
    "save_only_model": "a run could not go on from such a checkpoint as if it had not stopped",
    "save_on_each_node": "the first machine writes, and the others get what they need from it",
    "ignore_data_skip": "a run that goes on would train on photos that it has seen, not on others",
    "dataloader_persistent_workers": "a run that goes on would end with other weights",
    "remove_unused_columns": "the photos are decoded from a column that no model takes",
    "bf16_full_eval": _FULL_PRECISION,
    "fp16_full_eval": _FULL_PRECISION,
    "prediction_loss_only": _ALL_ANSWERS,
    "batch_eval_metrics": _ALL_ANSWERS,
    "eval_do_concat_batches": _ALL_ANSWERS,
    "fsdp": _WHOLE_MODEL,
    "fsdp_config": _WHOLE_MODEL,
    "deepspeed": _WHOLE_MODEL,
    "parallelism_config": _WHOLE_MODEL,
}
# What `accelerate launch` asks for through the environment, behind the back of all flags.
REFUSED_OF_ACCELERATE = {
    "ACCELERATE_USE_FSDP": _WHOLE_MODEL,
    "ACCELERATE_USE_DEEPSPEED": _WHOLE_MODEL,
    "ACCELERATE_USE_MEGATRON_LM": _WHOLE_MODEL,
    "ACCELERATE_USE_PARALLELISM_CONFIG": _WHOLE_MODEL,
    "ACCELERATE_DYNAMO_BACKEND": "give --torch_compile in its place",
}
OFF: tuple[Any, ...] = (None, False, "", "no", "false", "0", "off", [])

# Each number of train.py's flags, Trainer's included, by what it may be; none may be nan or inf.
BOUNDS: tuple[tuple[str, Callable[[float], bool], tuple[str, ...]], ...] = (
    (
        "a number above 0",
        lambda value: value > 0,
        (
            *("num_train_epochs", "adam_epsilon", "logging_steps", "eval_steps", "save_steps"),
            *("checked_weight", "max_hours"),
        ),
    ),
    (
        "1 or more",
        lambda value: value >= 1,
        (
            *("max_train_samples", "max_eval_samples", "global_batch_size", "diagnostics_interval"),
            *("per_device_train_batch_size", "per_device_eval_batch_size"),
            *("gradient_accumulation_steps", "eval_accumulation_steps", "torch_empty_cache_steps"),
            *("dataloader_prefetch_factor", "ddp_bucket_cap_mb", "ddp_timeout"),
            "early_stopping_patience",
        ),
    ),
    (
        "0 or more",
        lambda value: value >= 0,
        (
            *("learning_rate", "warmup_steps", "weight_decay", "max_grad_norm", "eval_delay"),
            *("dataloader_num_workers", "neftune_noise_alpha", "checkpoint_minutes"),
        ),
    ),
    ("a share, 0 to 1", lambda value: 0 <= value <= 1, ("neighbour_weight", "warmup_ratio")),
    (
        "0 or more, and less than 1",
        lambda value: 0 <= value < 1,
        ("adam_beta1", "adam_beta2", "label_smoothing_factor", "drop_path"),
    ),
    (  # numpy's generator takes no other
        "a whole number from 0 to 4294967295",
        lambda value: 0 <= value < 2**32,
        ("seed", "data_seed"),
    ),
    ("1 or more, or -1 for no limit", lambda value: value == -1 or value >= 1, ("max_steps",)),
    # Below 1 it means all of them; below 0, that no launcher gave a rank.
    ("a whole number", lambda value: True, ("save_total_limit", "local_rank")),
)


def check_numbers(arguments: object) -> None:
    """Check that each number is finite and within its bounds.

    Args:
        arguments: a dataclass of flags.

    Raises: ValueError: one is not.
    """
    for name, value in vars(arguments).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for words, is_within, names in BOUNDS:
            if name in names and not (math.isfinite(value) and is_within(value)):
                raise ValueError(f"--{name} {value}: give {words}.")
        if not math.isfinite(value):  # of a flag that came with a later release
            raise ValueError(f"--{name} {value}: give a number.")


def check_numbers_within(arguments: object) -> None:
    """Check that each number in a flag that is a JSON object is finite.

    Args:
        arguments: a dataclass of flags, after Trainer has read the objects.

    Raises: ValueError: one is not.
    """
    for name, value in vars(arguments).items():
        if isinstance(value, dict) and not all(map(math.isfinite, _floats_in(value))):
            raise ValueError(f"--{name} {json.dumps(value, default=str)}: give a finite number.")


def _floats_in(value: Any) -> Iterator[float]:
    if isinstance(value, float):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _floats_in(part)


def changed_flags(arguments: object, of_trainer: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of Trainer's own flags that are not at their default, by name.

    Args:
        arguments: a dataclass of flags, before Trainer has resolved them.
        of_trainer: the names of its flags.
    """
    given = vars(arguments)
    return {
        field.name: given[field.name]
        for field in fields(arguments)  # type: ignore[arg-type]
        if field.name in of_trainer and not is_same(given[field.name], _default(field))
    }


def _default(field: Field) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def is_same(value: Any, default: Any) -> bool:
    """Say whether two values mean the same: the parser turns some of "" and "no" into False."""
    return value == default or (value in OFF and default in OFF)


def check_refused(changed: Iterable[str]) -> None:
    """Check that nothing is asked for, by a flag or through accelerate, that would break a promise.

    Raises: ValueError: something is.
    """
    for name in changed:
        if name in REFUSED:
            raise ValueError(f"--{name}: leave it out: {REFUSED[name]}.")
    for variable, reason in REFUSED_OF_ACCELERATE.items():
        value = os.environ.get(variable, "")
        if value.lower() not in OFF:
            raise ValueError(f"accelerate's {variable} is {value}: unset it: {reason}.")


def check_precision(precision: str) -> None:
    """Check that `accelerate launch --mixed_precision` asks for nothing else than the flags.

    Args:
        precision: that of the flags: bf16, fp16, or no for fp32.

    Raises: ValueError: the training would be in another precision than its record says.
    """
    of_accelerate = os.environ.get("ACCELERATE_MIXED_PRECISION", "").lower()
    if of_accelerate not in (*OFF, precision):
        raise ValueError(
            f"accelerate's ACCELERATE_MIXED_PRECISION is {of_accelerate}, the flags of train.py "
            f"stand for {'fp32' if precision == 'no' else precision}: unset it, or add "
            f"--{of_accelerate} true."
        )


def untried_flags(changed: Mapping[str, Any]) -> list[str]:
    """Return the flags, each with its value, that this project has not tried."""
    return [
        f"--{name} {value}"
        for name, value in changed.items()
        if name not in DECIDE_WEIGHTS + MAY_CHANGE
        or not _words(value) <= set(TRIED_VALUES.get(name, _words(value)))
    ]


def _words(value: Any) -> set[str]:
    """Return a flag's value, or values, as words."""
    return {str(getattr(v, "value", v)) for v in (value if isinstance(value, list) else [value])}
