"""The flags of train.py: three dataclasses, with the defaults of this task."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import TrainingArguments
from transformers.optimization import get_scheduler
from transformers.trainer_utils import SchedulerType
from transformers.utils import is_torch_tf32_available

from budget.batch_size import shares_of_batch
from recipes.named_flags import recipe_names
from training.device import decoding_workers, device_has_bf16, trains_on_cpu
from training.hub import check_secret_arn
from training.sagemaker_job import in_sagemaker_job
from training.trainer_flags import (
    TRIED_VALUES,
    changed_flags,
    check_numbers,
    check_numbers_within,
    check_precision,
    check_refused,
    untried_flags,
)

# What an evaluation gives, with or without the prefix eval_.
METRIC = re.compile(
    r"(eval_)?(loss|change_loss|(within_one_)?accuracy|mae|mae_mode|rmse|rmse_mode"
    r"|quadratic_weighted_kappa|(accuracy|rmse)_\d+)"
)

# Never on disk, where Trainer's own push to the Hub would find them too. An ARN names an account.
SECRETS = ("hub_token", "hub_token_secret")


def described(default: Any, text: str) -> Any:
    """Return a dataclass field with a default and its help."""
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """Which model to train or evaluate."""

    _argument_group_name = "model"

    recipe: str | None = described(
        None,
        "Flags that belong together, the model among them: those of scripts/recipes/NAME.json, "
        f"where NAME is one of {', '.join(recipe_names())}. Flags that are given here go before.",
    )
    model_name_or_path: str | None = described(
        None,
        "Hub id or folder of any image classifier, such as google/vit-base-patch16-224-in21k, "
        "microsoft/resnet-34, or the model folder of an earlier run.",
    )
    model_revision: str = described("main", "Branch, tag or commit of a Hub model.")
    config_name: str | None = described(
        None,
        "Folder with a config.json, to train from scratch, or the name of one of the folders in "
        "scripts/model_configs: vit_demo (64 pixels, minutes on a laptop) or resnet34.",
    )
    model_dir: str | None = described(
        None, "Where the trained model goes. Default: SM_MODEL_DIR, else OUTPUT_DIR/model."
    )

    def __post_init__(self) -> None:
        if (self.model_name_or_path is None) == (self.config_name is None):
            raise ValueError(
                "Give either --model_name_or_path (a pretrained model) or --config_name (from "
                "scratch)."
            )


@dataclass
class DataArguments:
    """Which photos to train and evaluate on."""

    _argument_group_name = "data"

    dataset_dir: str | None = field(
        default_factory=lambda: os.environ.get("SM_CHANNEL_DATASET"),
        metadata={
            "help": "Dataset folder of data_prep/build_dataset.py. Default: the SageMaker channel "
            "'dataset'."
        },
    )
    max_train_samples: int | None = described(
        None, "Train on this many photos, those of the first bins, for a try or a learning curve."
    )
    max_eval_samples: int | None = described(
        None, "Evaluate on this many photos of validation and of test, for a try."
    )
    dry_run: bool = described(
        False,
        "Check the flags and what they need on this machine, print what they resolve to as JSON, "
        "and exit; neither dataset nor model is looked at.",
    )

    def __post_init__(self) -> None:
        check_numbers(self)


@dataclass
class BinTrainingArguments(TrainingArguments):
    """Trainer's own flags, with defaults for this task."""

    _argument_group_name = "training: the flags of transformers.TrainingArguments"

    output_dir: str | None = described(
        None,
        "Checkpoints, metrics and predictions go here; a run found here goes on. Default: "
        "/opt/ml/checkpoints in a SageMaker job, else runs/latest.",
    )
    num_train_epochs: float = described(
        8.0,
        "8 suits a pretrained ViT on some thousand photos; a network from scratch wants 10 and "
        "more.",
    )
    learning_rate: float = described(
        1e-3,
        "That of the head. 1e-3 suits a small ViT, whose lower layers learn more slowly under "
        "--regularize, and a ResNet34; without --regularize a ViT wants 2e-5 to 1e-4.",
    )
    lr_scheduler_type: str = described("cosine", "How the learning rate falls, once it is there.")
    warmup_steps: float = described(
        0.1, "Steps, or below 1 a share of them, in which the learning rate rises to its value."
    )
    weight_decay: float = described(0.05, "AdamW's, of matrices alone.")
    per_device_train_batch_size: int = described(
        64,
        "64 is what ViT-B/16 was published with here; where memory runs out, halve it and double "
        "--gradient_accumulation_steps, or have --auto_find_batch_size do so.",
    )
    auto_find_batch_size: bool = described(
        False,
        "Where memory runs out in the first steps, begin anew with half of "
        "--per_device_train_batch_size at once, and accumulate gradients for the rest: a step has "
        "as many photos as before. In one process.",
    )
    per_device_eval_batch_size: int = described(64, "Evaluation needs less memory than training.")
    loss: Literal["cross_entropy", "soft_labels", "emd"] = described(
        "cross_entropy",
        "What training minimizes: cross_entropy takes a wrong count for as wrong as any other; "
        "soft_labels gives a share of each label to its neighbours; emd adds the squared earth "
        "mover's distance, in items.",
    )
    neighbour_weight: float = described(
        0.5, "Share of --loss soft_labels or emd that knows of neighbours; alone it costs accuracy."
    )
    class_weights: Literal["balanced", "none"] = described(
        "none", "balanced: all counts weigh the same in the loss, however many bins have them."
    )
    checked_weight: float = described(
        1.0,
        "How much more a bin that a person has checked weighs in the loss than one that has its "
        "record alone; of a dataset that build_dataset.py --marks made.",
    )
    augment_geometry: bool = described(
        True, "Turn, shear, shrink and shift photos inside their frame; flips are always made."
    )
    augment_colour: bool = described(
        False, "Change light and colours of photos, blur some, and erase small patches."
    )
    mixup: bool = described(True, "Mix photos in pairs, and their labels alike.")
    regularize: bool = described(
        True,
        "Average the weights over the steps, skip layers of a ViT at random, and train the lower "
        "layers of a pretrained model at lower rates.",
    )
    average_weights: bool = described(
        True, "With --regularize: evaluate and keep an average over the last tenth of the steps."
    )
    drop_path: float = described(
        0.1,
        "With --regularize: share of photos that skip the last layer of a ViT; the layers before "
        "it are skipped less, in proportion.",
    )
    learn_changes: bool = described(
        True,
        "Learn from two visits of a bin what has changed between them, beside what each photo "
        "shows: a change head beside the model. Nothing where the dataset has no such visits.",
    )
    learn_items: bool = described(
        True,
        "Learn how large, how heavy and how many different the items are, as the records say, "
        "beside how many there are: item heads beside the model. Nothing where the dataset does "
        "not say so.",
    )
    calibrate: bool = described(
        True,
        "Fit a temperature on the validation split when the training has ended, and fold it into "
        "the saved model's classifier: its probabilities mean what they say.",
    )
    eval_strategy: str = described(
        "epoch", "When to evaluate on the validation split: epoch, steps or no."
    )
    save_strategy: str = described(
        "epoch", "When to write a checkpoint; the same as --eval_strategy, to know the best one."
    )
    checkpoint_minutes: float | None = described(
        None,
        "Write a checkpoint also when none was written for this many minutes. Default: 10 in a "
        "SageMaker job, since a spot instance goes without a word; else 0, which is never.",
    )
    max_hours: float | None = described(
        None,
        "End the training at the last evaluation that fits into so many hours, over all starts of "
        "the run; with more of them it goes on. The learning rate falls as without it.",
    )
    early_stopping_patience: int | None = described(
        None,
        "End the training when so many evaluations in a row are no better than the best one, by "
        "--metric_for_best_model.",
    )
    save_total_limit: int | None = described(
        2, "How many of the newest checkpoints to keep; the best one stays too. Below 1: all."
    )
    load_best_model_at_end: bool = described(
        True, "Keep the checkpoint with the best validation metric: small data overfits early."
    )
    metric_for_best_model: str | None = described(
        "loss",
        "What makes a checkpoint the best: loss (the cross entropy, which honest probabilities "
        "need; with that of the changes where they are learned), change_loss, accuracy, rmse, ...",
    )
    hub_private_repo: bool | None = described(
        True, "Whether --push_to_hub makes a private repository; one that is there stays as it is."
    )
    hub_token_secret: str | None = described(
        None,
        "ARN of a secret in AWS Secrets Manager that holds the token for --push_to_hub and nothing "
        "else. It is read as the run starts, and kept in memory only: for jobs, whose flags and "
        "environment everybody may read who may see them.",
    )
    log_memory: bool = described(
        False,
        "Print the memory of process and GPUs before and after the model is loaded, and last.",
    )
    diagnostics: bool = described(
        False,
        "Measure the training as it goes, and judge it: OUTPUT_DIR/diagnostics.html has plots of "
        "losses, gradients, weights and the machine, and rules with their evidence.",
    )
    diagnostics_interval: int = described(
        10, "Steps from one measurement of --diagnostics to the next."
    )
    trace_steps: str | None = described(
        None,
        "With --diagnostics: steps such as 20-22 whose every operator goes into "
        "OUTPUT_DIR/trace.json.gz, for https://ui.perfetto.dev.",
    )
    global_batch_size: int | None = described(
        None,
        "Photos of a step on all devices together. Each device then takes as many at once as "
        "--per_device_train_batch_size allows, and accumulates gradients for the rest. Default: "
        "what the two flags and the number of devices give.",
    )
    bf16: bool | None = field(
        default=None,
        metadata={
            "help": "Train in bfloat16; weights stay in float32. Default: on a GPU or a CPU that "
            "multiplies it itself, unless --fp16.",
            # HfArgumentParser would want a word after a flag that may also be None.
            "nargs": "?",
            "const": True,
        },
    )
    tf32: bool | None = described(
        None,
        "Multiply float32 as TensorFloat32, in evaluations too. Default: on a GPU that has it, "
        "where training is in neither --bf16 nor --fp16.",
    )
    dataloader_num_workers: int = field(
        default_factory=decoding_workers,
        metadata={
            "help": "Processes that decode photos. Default: one a core, at most 8 a GPU; 0 without."
        },
    )
    disable_tqdm: bool | None = described(
        None, "No progress bars. Default: none in a SageMaker job, whose log has no cursor to move."
    )
    run_name: str | None = described(
        None,
        "What --report_to calls the run. Default: the SageMaker job's name, else OUTPUT_DIR's.",
    )
    trackio_space_id: str | None = described(
        None, "Publish what --report_to trackio writes as this Space on the Hub. Default: do not."
    )
    greater_is_better: bool | None = described(
        None, "Whether that metric should grow. Default: an accuracy or kappa should, no other."
    )
    remove_unused_columns: bool = described(
        False, "Has to stay false: the photos are decoded from a column that no model takes."
    )

    def __post_init__(self) -> None:
        check_numbers(self)
        changed = changed_flags(self, TrainingArguments.__dataclass_fields__)
        check_refused(changed)
        self.untried = untried_flags(changed)  # each with its value
        if self.output_dir is None:
            in_job = in_sagemaker_job()
            # What SageMaker keeps in S3 lies beside the model folder: /opt/ml/checkpoints.
            checkpoints = Path(os.environ.get("SM_MODEL_DIR", "")).parent / "checkpoints"
            self.output_dir = str(checkpoints) if in_job else "runs/latest"
        if "$" in self.output_dir:  # a container starts the script without a shell
            raise ValueError(
                f"--output_dir {self.output_dir}: nothing replaces the $ here: write the path out."
            )
        if self.run_name is None:  # a tracker knows by it which run goes on
            self.run_name = os.environ.get("TRAINING_JOB_NAME") or Path(self.output_dir).name
        if self.checkpoint_minutes is None:
            self.checkpoint_minutes = 10.0 if in_sagemaker_job() else 0.0
        if in_sagemaker_job() and self.disable_tqdm is None:
            self.disable_tqdm = True
        metric = self.metric_for_best_model or ""
        if metric and not METRIC.fullmatch(metric):
            raise ValueError(
                f"--metric_for_best_model {metric}: give loss, change_loss, accuracy, "
                "within_one_accuracy, mae, rmse or quadratic_weighted_kappa."
            )
        if metric.endswith("change_loss") and not self.learn_changes:
            raise ValueError(
                f"--metric_for_best_model {metric}: without --learn_changes there is none."
            )
        if not self.do_train:
            # Trainer takes any evaluation strategy as a wish for --do_eval.
            self.eval_strategy = "no"
        if self.eval_strategy == "no":
            self.load_best_model_at_end = False
            for name in ("max_hours", "early_stopping_patience"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"--{name} ends a training at an evaluation: give --do_train with "
                        "--eval_strategy epoch or steps, or leave it out."
                    )
        if self.load_best_model_at_end and self.save_strategy == "epoch":
            self.save_strategy = self.eval_strategy  # the best one is among those that are saved
        if self.greater_is_better is None:
            # Trainer takes every metric but a loss for one that should grow, errors included.
            self.greater_is_better = "accuracy" in metric or "kappa" in metric
        if self.push_to_hub and not self.hub_model_id:
            raise ValueError("--push_to_hub: give --hub_model_id USER/NAME.")
        if self.hub_token_secret is not None:
            if not self.push_to_hub:
                raise ValueError(
                    "--hub_token_secret is for --push_to_hub: add it, or leave it out."
                )
            check_secret_arn(self.hub_token_secret)
        if self.diagnostics and not self.do_train:
            raise ValueError("--diagnostics looks at a training: add --do_train, or leave it out.")
        if self.traced_steps and not self.diagnostics:
            raise ValueError("--trace_steps is for --diagnostics: add it, or leave it out.")
        given: Any = self  # mypy does not know what Trainer's own arguments are
        self.use_cpu = trains_on_cpu(given.use_cpu)
        if self.bf16 is None:
            self.bf16 = not self.fp16 and device_has_bf16(self.use_cpu)
        check_precision("bf16" if self.bf16 else "fp16" if self.fp16 else "no")
        if not self.use_cpu:
            # Beside half precision it would change the evaluation alone, which is exact.
            if self.tf32 is None and is_torch_tf32_available():
                self.tf32 = not (self.bf16 or self.fp16)
            if given.accelerator_config is None:
                self.accelerator_config = {"non_blocking": True}  # the copy of the next batch
        else:
            self.tf32 = None  # says how a GPU multiplies; refused where there is none
            self.dataloader_pin_memory = False
        super().__post_init__()
        check_numbers_within(self)
        check_schedule(given.lr_scheduler_type, given.lr_scheduler_kwargs)
        if self.global_batch_size is not None:
            if given.gradient_accumulation_steps != 1:
                raise ValueError(
                    "--global_batch_size says how often gradients are accumulated: leave out "
                    "--gradient_accumulation_steps."
                )
            self.per_device_train_batch_size, self.gradient_accumulation_steps = shares_of_batch(
                self.global_batch_size,
                self.world_size,
                self.per_device_train_batch_size,
            )

    @property
    def traced_steps(self) -> tuple[int, int] | None:
        """First and last step of --trace_steps. Raises: ValueError: these are no such steps."""
        if self.trace_steps is None:
            return None
        found = re.fullmatch(r"(\d+)-(\d+)", self.trace_steps)
        if not found or not 1 <= int(found[1]) <= int(found[2]):
            raise ValueError(
                f"--trace_steps {self.trace_steps}: give the first and the last step, as in 20-22."
            )
        return int(found[1]), int(found[2])

    @property
    def needed_splits(self) -> list[str]:
        """The splits of the dataset that the flags ask for."""
        needed = {"train": self.do_train, "validation": self.do_eval, "test": self.do_predict}
        return [split for split, is_needed in needed.items() if is_needed]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is secret: Trainer pickles its arguments beside every checkpoint."""
        return {name: value for name, value in vars(self).items() if name not in SECRETS}


def check_schedule(name: SchedulerType, keywords: dict[str, Any] | None) -> None:
    """Check that a learning rate's schedule takes its keywords, and lacks none.

    Raises: ValueError: it does not.
    """
    if keywords is None and name.value in TRIED_VALUES["lr_scheduler_type"]:
        return  # an optimizer imports torch's compiler, which takes half a second
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)])
    try:
        get_scheduler(name, optimizer, 1, 2, scheduler_specific_kwargs=keywords)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"--lr_scheduler_kwargs does not fit --lr_scheduler_type {name.value}: {error}."
        ) from error
