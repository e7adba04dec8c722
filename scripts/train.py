"""Fine-tune an image classifier to count items, and say how well it counts.

    python scripts/train.py --recipe vit --dataset_dir data/bins --output_dir runs/vit

--recipe names flags in scripts/recipes, each with what to expect of them. Without it:

    python scripts/train.py --dataset_dir data/bins --output_dir runs/dino \\
        --model_name_or_path facebook/dino-vits16 --do_train --do_eval --do_predict

The same command goes on where a killed run stopped. OUTPUT_DIR gets arguments.json,
all_results.json (eval_* on the validation split, test_* on the test split), the predictions of
both, predictions_validation.parquet and predictions_test.parquet, and check.json (a drawn photo and
the answer to it); the model folder works with pipeline("image-classification").
A JSON file of flags may come first: python scripts/train.py flags.json --seed 7
"""

import json
import os
import shlex
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

from training.flag_table import answer_early

if __name__ == "__main__":
    answer_early(sys.argv[1:], __doc__)  # the imports below take seconds

import datasets
import torch
import transformers
from accelerate.utils.memory import should_reduce_batch_size
from datasets import Dataset, DatasetDict

# The Hub client's own: its newest releases have moved from httpx to httpx2.
from huggingface_hub.errors import HTTPError
from torch import distributed
from transformers import PreTrainedModel, set_seed
from transformers.trainer_utils import TrainOutput

from budget.batch_size import FIRST_STEPS, BatchTooLargeError, halve_batch, keep_recorded_batch
from count_distribution import counts_of_labels
from diagnostics.machine_usage import print_memory
from items.heads import attach_item_heads, item_heads_of
from serving.served_code import check_served_code, write_served_code
from training.arguments import BinTrainingArguments, DataArguments, ModelArguments
from training.bin_dataset import (
    dataset_fingerprint,
    dataset_settings,
    has_changes,
    has_items,
    items_of,
    load_bins,
    photo_size,
    photos,
    share_checked,
    steps_of,
)
from training.bin_trainer import BinTrainer
from training.checkpoints import (
    UnfitCheckpointError,
    checkpoint_to_resume,
    forget_newer_checkpoints,
)
from training.command_line import (
    command_of,
    make_parser,
    parse_arguments,
    resolved_arguments,
)
from training.device import (
    check_one_device_a_process,
    device_has_bf16,
    first_process_says,
)
from training.hub import push_to_hub, read_hub_token
from training.models import (
    load_change_head,
    load_heads_of_items,
    load_image_processor,
    load_model,
    model_source,
)
from training.results import (
    fit_item_settings,
    fit_visit_model,
    predict_test_split,
    report_calibration,
    write_check,
    write_model,
    write_validation_predictions,
)
from training.run_folder import (
    CHECK,
    METRICS,
    check_run_folder,
    check_writable,
    only_run_in,
    read_record,
    send_home,
    write_record,
)
from training.sagemaker_job import in_sagemaker_job, tell_failure
from training.trackers import (
    check_trackers,
    close_trackers,
    keep_trackers_here,
    track_whole_run,
)
from visits.chain import possible_changes
from visits.error_model import ErrorModel, fit_error_model, write_error_model
from visits.head import attach_head, head_of
from visits.settings import VisitModel

RECORDED_VERSIONS = ("torch", "transformers", "datasets", "accelerate")


def main(argv: list[str] | None = None) -> None:
    """Train, evaluate and predict, as the flags ask."""
    parser = make_parser(__doc__)
    argv = sys.argv[1:] if argv is None else argv
    model_arguments, data_arguments, arguments = parse_arguments(parser, argv)
    output_dir = Path(str(arguments.output_dir))
    try:
        check_machine(model_arguments, arguments)
        if arguments.auto_find_batch_size:
            keep_recorded_batch(arguments, read_record(output_dir))
    except (ValueError, ImportError) as error:
        parser.error(str(error))
    record = resolved_arguments(model_arguments, data_arguments, arguments)
    if data_arguments.dry_run:
        print(json.dumps(record, indent=2))
        return
    model_dir = Path(str(model_arguments.model_dir))
    prepare_process(arguments, output_dir)

    with ExitStack() as held:
        try:
            with arguments.main_process_first():
                dataset = load_bins(str(data_arguments.dataset_dir), arguments.needed_splits)
            image_size = photo_size(dataset)
            record |= facts_of_run(model_arguments, data_arguments, arguments, dataset)
            record["command"] = command_of(argv)
            first_process_says(lambda: held.enter_context(only_run_in(output_dir)))
            resume_from = first_process_says(
                lambda: what_to_go_on_from(output_dir, model_dir, record, arguments)
            )
            if arguments.hub_token_secret:
                arguments.hub_token = read_hub_token(arguments.hub_token_secret)
            load = partial(
                load_trainer, model_arguments, data_arguments, arguments, dataset, image_size
            )
            trainer = load()
        # RuntimeError, ImportError: a flag asks for a library or a device that is not there.
        # HTTPError: --push_to_hub finds no Hub.
        except (ValueError, OSError, RuntimeError, ImportError, HTTPError) as error:
            parser.error(str(error))
        try:
            if trainer.is_world_process_zero():
                write_record(output_dir, record)
            if arguments.do_train:
                while (training := train(trainer, resume_from)) is None:
                    del trainer  # the next one needs its memory
                    record |= halve_batch(arguments)
                    write_record(output_dir, record)
                    forget_newer_checkpoints(output_dir, None)
                    set_seed(arguments.seed)  # as if the batch had been given so
                    trainer = load()
                finish_training(trainer, training, dataset["train"], model_dir)
            evaluate(trainer, dataset, data_arguments.max_eval_samples, image_size)
            if trainer.is_world_process_zero():
                send_home(output_dir)
        except BrokenPipeError:  # `| head` has seen enough
            raise
        except (UnfitCheckpointError, BatchTooLargeError) as error:
            parser.error(str(error))
        except OSError as error:
            stop(error)
    if trainer.is_world_process_zero():
        print(f"\nResults: {output_dir / METRICS}")
        if arguments.do_predict:
            print(f"Next: python metrics/compare_runs.py {shlex.quote(str(output_dir))}")
    if arguments.push_to_hub and arguments.do_train:
        push_to_hub(trainer)
    if distributed.is_initialized():
        # Python would take the process group apart while gloo's threads still give back what they
        # hold, and now and then waits for them forever, or they abort (torch 2.13).
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def check_machine(model_arguments: ModelArguments, arguments: BinTrainingArguments) -> None:
    """Check what flags need of the machine that they are given on.

    A launcher, whose job has other devices and packages, leaves it out: training.command_line.

    Raises: ValueError, ImportError: something is not there.
    """
    check_one_device_a_process(arguments.n_gpu)
    if arguments.auto_find_batch_size and arguments.world_size > 1:
        raise ValueError(
            f"--auto_find_batch_size is for one process, of which there are {arguments.world_size}:"
            " give --global_batch_size, and a --per_device_train_batch_size that one of them found."
        )
    check_trackers(arguments.report_to)
    BinTrainer.get_optimizer_cls_and_kwargs(arguments)
    if model_arguments.config_name:
        model_source(model_arguments)


def prepare_process(arguments: BinTrainingArguments, output_dir: Path) -> None:
    """Seed the process, and settle where trackers write and what is printed."""
    set_seed(arguments.seed)
    asks_for_bf16 = arguments.do_train and arguments.bf16
    if asks_for_bf16 and not device_has_bf16(arguments.use_cpu) and arguments.process_index == 0:
        print("This device emulates bf16, slowly: --bf16 false is faster.", file=sys.stderr)
    keep_trackers_here(output_dir, arguments.report_to)
    if in_sagemaker_job():
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
    if arguments.log_memory:
        print_memory("start")


def facts_of_run(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    arguments: BinTrainingArguments,
    dataset: DatasetDict,
) -> dict[str, Any]:
    """Return what a run is beside its flags: its dataset, model, processes and versions."""
    return {
        "dataset_fingerprint": dataset_fingerprint(dataset),
        "model": model_arguments.model_name_or_path or model_arguments.config_name,
        "world_size": arguments.world_size,
        "dataset_settings": dataset_settings(str(data_arguments.dataset_dir)),
        "versions": {name: version(name) for name in RECORDED_VERSIONS},
        "untried_flags": arguments.untried or None,
    }


def what_to_go_on_from(
    output_dir: Path, model_dir: Path, record: dict[str, Any], arguments: BinTrainingArguments
) -> str | None:
    """Return the checkpoint that a training goes on from, None where it starts at the beginning.

    Raises: ValueError: a folder holds another run or is not to be written to, or the checkpoint
        that was asked for is none.
    """
    check_run_folder(output_dir, record, model_dir)
    if not arguments.do_train:
        return None
    check_writable(model_dir, "--model_dir")
    check_served_code(model_dir)
    return checkpoint_to_resume(
        output_dir, arguments.resume_from_checkpoint, arguments.load_best_model_at_end
    )


def load_trainer(
    model_arguments: ModelArguments,
    data_arguments: DataArguments,
    arguments: BinTrainingArguments,
    dataset: DatasetDict,
    image_size: int,
) -> BinTrainer:
    """Return the trainer, with model and photos.

    Args:
        image_size: edge of the photos, pixels.

    Raises:
        ValueError, OSError: the model does not fit, or there is none.
        RuntimeError, ImportError: a device or a library is not there.
    """
    label_names = next(iter(dataset.values())).features["label"].names
    counts = counts_of_labels(label_names)
    image_processor = load_image_processor(model_arguments, image_size, arguments.do_train)
    model = load_model(model_arguments, label_names, image_size, arguments.do_train)
    train_photos = photos(dataset, "train", data_arguments.max_train_samples)
    if arguments.checked_weight != 1 and train_photos is not None and arguments.do_train:
        check_marks(train_photos, arguments.checked_weight)
    visit_model, item_settings = VisitModel(ErrorModel()), None
    eval_photos = photos(dataset, "validation", data_arguments.max_eval_samples)
    if arguments.do_train:
        if arguments.learn_items and train_photos is not None:
            make_item_heads(model, counts, image_size, train_photos)
        if arguments.learn_changes and len(steps_of(train_photos)):
            make_change_head(model, counts, image_size)
        check_judged_by(arguments, model, eval_photos)
    else:
        visit_model = load_change_head(model, model_arguments, image_size)
        item_settings = load_heads_of_items(model, model_arguments, image_size)
    if arguments.log_memory:
        print_memory("model_loaded")
    trainer = BinTrainer(
        model=model,
        args=arguments,
        image_processor=image_processor,
        counts=counts,
        is_pretrained=model_arguments.model_name_or_path is not None,
        train_dataset=train_photos,
        eval_dataset=eval_photos,
    )
    trainer.visit_model = visit_model
    if item_settings is not None:
        trainer.item_settings = item_settings
    track_whole_run(trainer)
    return trainer


def check_marks(train_photos: Dataset, checked_weight: float) -> None:
    """Check that there are checked bins to be weighed. Raises: ValueError: there are none."""
    if share_checked(train_photos) == 0:
        raise ValueError(
            f"--checked_weight {checked_weight:g}: nobody has checked a training bin of this "
            "dataset; build it with data_prep/build_dataset.py --marks, or leave the flag out."
        )


def make_change_head(model: PreTrainedModel, counts: Sequence[int], image_size: int) -> None:
    """Give a model a new change head, or say why it has none.

    It tells volumes where item heads do.
    """
    tells_volumes = item_heads_of(model) is not None
    try:
        attach_head(model, len(possible_changes(counts)), image_size, tells_volumes)
    except ValueError as error:
        print(f"Changes are not learned: {error}.", file=sys.stderr)


def make_item_heads(
    model: PreTrainedModel, counts: Sequence[int], image_size: int, train_photos: Dataset
) -> None:
    """Give a model new item heads, which start from what is usual, or say why it has none."""
    try:
        if not has_items(train_photos):
            raise ValueError("the dataset was built before records were read for sizes")
        heads = attach_item_heads(model, max(counts), image_size)
    except ValueError as error:
        print(f"Items are not learned: {error}.", file=sys.stderr)
        return
    heads.start_from(torch.from_numpy(items_of(train_photos)))


def check_judged_by(
    arguments: BinTrainingArguments, model: PreTrainedModel, eval_photos: Dataset | None
) -> None:
    """Check that an evaluation gives the changes that the best epoch is to be judged by.

    Raises: ValueError: it does not.
    """
    if not str(arguments.metric_for_best_model).endswith("change_loss"):
        return
    if head_of(model) is None:
        reason = "no two training photos show one bin that this model can compare"
    elif eval_photos is not None and not has_changes(eval_photos):
        reason = "no two validation photos show a bin that has changed"
    else:
        return
    raise ValueError(f"--metric_for_best_model change_loss: {reason}; give loss.")


def train(trainer: BinTrainer, resume_from: str | None) -> TrainOutput | None:
    """Train; return None where --auto_find_batch_size asks for another try, with half the batch.

    Args:
        resume_from: the checkpoint to go on from; None starts at the beginning.

    Raises: BatchTooLargeError: memory ran out, and nothing asks for that.
    """
    if trainer.is_world_process_zero() and resume_from:
        print(f"Going on from {resume_from}.")
    at_once = trainer.args.per_device_train_batch_size
    if trainer.args.auto_find_batch_size:
        times = trainer.args.gradient_accumulation_steps
        print(f"batch per_device_train_batch_size={at_once} gradient_accumulation_steps={times}")
    try:
        return trainer.train(resume_from_checkpoint=resume_from)
    except RuntimeError as error:
        if not should_reduce_batch_size(error):
            raise
        step = trainer.state.global_step + 1
        if trainer.args.auto_find_batch_size and resume_from is None and step <= FIRST_STEPS:
            close_trackers(trainer)
            return None
        raise BatchTooLargeError(
            f"step {step}: memory does not hold a training on {at_once} photos at once: add "
            "--auto_find_batch_size, in another --output_dir where there are checkpoints in this "
            "one; or go on where there is more memory."
        ) from error


def finish_training(
    trainer: BinTrainer, training: TrainOutput, bins: Dataset, model_dir: Path
) -> None:
    """Calibrate, and write the model folder with all that serves and audits need.

    Args:
        bins: the training split, whose records say how far off wrong ones are.
    """
    # Checkpoints stay as they are: a run that goes on is calibrated anew, not twice.
    validation = trainer.calibrate() if trainer.args.calibrate else None
    records = bins.select_columns(["id", "bin_group", "expected_quantity"])[:]
    error_model = fit_error_model(*records.values())
    trainer.visit_model = fit_visit_model(trainer, error_model, validation)
    trainer.item_settings = fit_item_settings(trainer, error_model, validation)
    if trainer.is_world_process_zero():
        write_model(trainer, model_dir)
        write_served_code(model_dir)  # what an endpoint runs
        write_error_model(model_dir, error_model)  # for audit.py
        if trainer.state.global_step > trainer.first_step:
            size = {"train_samples": len(trainer.train_dataset)}
            trainer.save_metrics("train", training.metrics | size)
    report_calibration(trainer)


def evaluate(
    trainer: BinTrainer, dataset: DatasetDict, max_samples: int | None, image_size: int
) -> None:
    """Evaluate and predict, as the flags ask."""
    if trainer.args.do_eval:
        trainer.save_metrics("eval", trainer.evaluate())
        write_validation_predictions(trainer, dataset["validation"], max_samples)
    if trainer.args.do_predict:
        predict_test_split(trainer, dataset["test"], max_samples, trainer.visit_model)
        if trainer.is_world_process_zero():
            write_check(Path(str(trainer.args.output_dir)) / CHECK, trainer, image_size)
    if trainer.args.log_memory:
        print_memory("end")
    close_trackers(trainer)


def stop(error: OSError) -> NoReturn:
    """Exit with code 1, after one line that says what could not be read or written."""
    # A job's toolkit reports as the reason of a failure what follows the name of an exception.
    kind = "OSError" if in_sagemaker_job() else "train.py: error"
    reason = (
        f"{kind}: {' '.join(str(error).split()).rstrip('.')}. The same command goes on from the "
        "last checkpoint."
    )
    tell_failure(reason)
    print(reason, file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from the last checkpoint.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        tell_failure(f"{type(error).__name__}: {error}")
        raise
