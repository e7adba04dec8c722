"""Fine-tune an image classifier to count items, and say how well it counts.

    python scripts/train.py --dataset_dir data/bins \\
        --model_name_or_path google/vit-base-patch16-224-in21k --learning_rate 3e-4 \\
        --output_dir runs/vit_base \\
        --do_train --do_eval --do_predict

The same command goes on where a killed run stopped. OUTPUT_DIR gets arguments.json,
all_results.json (eval_* on the validation split, test_* on the test split), and
predictions_test.parquet, with check.json (a drawn photo and the answer to it); the model folder
works with pipeline("image-classification").
A JSON file of flags may come first: python scripts/train.py recipe.json --seed 7
"""

import json
import os
import shlex
import sys
from importlib.metadata import version
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import transformers
from datasets import Dataset, DatasetDict

# The Hub client's own: its newest releases have moved from httpx to httpx2.
from huggingface_hub.errors import HTTPError
from transformers import set_seed
from transformers.trainer_utils import PredictionOutput

from arguments import (
    BinTrainingArguments,
    device_has_bf16,
    in_sagemaker_job,
    make_parser,
    parse_arguments,
    resolved_arguments,
)
from bin_dataset import (
    dataset_fingerprint,
    dataset_settings,
    decoded_photos,
    load_bins,
    photo_size,
)
from bin_trainer import BinTrainer, softmax
from calibration import before_and_after
from checkpoints import checkpoint_to_resume
from count_distribution import counts_of_labels, mode_count
from error_model import fit_error_model, write_error_model
from hub_token import read_hub_token
from memory import print_memory
from model_check import write_check
from models import load_image_processor, load_model
from run_folder import (
    CHECK,
    METRICS,
    PREDICTIONS,
    check_run_folder,
    remove_results,
    send_home,
    write_record,
)
from served_code import write_served_code
from trackers import close_trackers, keep_trackers_here, track_whole_run

# Of Amazon's photos, which ask that what is made of them is shared alike.
DATA_LICENCE = "cc-by-nc-sa-3.0"
# Marks the repositories that sagemaker_jobs/push_to_hub.py may write to.
HUB_TAG = "bin-counting"
RECORDED_VERSIONS = ("torch", "transformers", "datasets", "accelerate")


def main(argv: list[str] | None = None) -> None:
    """Train, evaluate and predict, as the flags ask."""
    parser = make_parser(__doc__)
    model_arguments, data_arguments, training_arguments = parse_arguments(
        parser, sys.argv[1:] if argv is None else argv
    )
    record = resolved_arguments(model_arguments, data_arguments, training_arguments)
    if data_arguments.dry_run:
        print(json.dumps(record, indent=2))
        return
    output_dir = Path(str(training_arguments.output_dir))
    model_dir = Path(str(model_arguments.model_dir))
    set_seed(training_arguments.seed)
    asks_for_bf16 = training_arguments.do_train and training_arguments.bf16
    if asks_for_bf16 and not device_has_bf16() and training_arguments.process_index == 0:
        print("This device emulates bf16, slowly: --bf16 false is faster.", file=sys.stderr)
    keep_trackers_here(output_dir, training_arguments.report_to)
    if in_sagemaker_job():
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
    if training_arguments.log_memory:
        print_memory("start")

    try:
        with training_arguments.main_process_first():
            dataset = load_bins(str(data_arguments.dataset_dir), needed_splits(training_arguments))
        label_names = next(iter(dataset.values())).features["label"].names
        image_size = photo_size(dataset)
        record |= {
            "dataset_fingerprint": dataset_fingerprint(dataset),
            "model": model_arguments.model_name_or_path or model_arguments.config_name,
            "world_size": training_arguments.world_size,
            "dataset_settings": dataset_settings(str(data_arguments.dataset_dir)),
            "versions": {name: version(name) for name in RECORDED_VERSIONS},
        }
        check_run_folder(output_dir, record, model_dir)
        resume_from = checkpoint_to_resume(output_dir, training_arguments.resume_from_checkpoint)
        if training_arguments.hub_token_secret:
            training_arguments.hub_token = read_hub_token(training_arguments.hub_token_secret)
        image_processor = load_image_processor(model_arguments, image_size)
        model = load_model(model_arguments, label_names, image_size, training_arguments.do_train)
        if training_arguments.log_memory:
            print_memory("model_loaded")
        trainer = BinTrainer(
            model=model,
            args=training_arguments,
            image_processor=image_processor,
            counts=counts_of_labels(label_names),
            is_pretrained=model_arguments.model_name_or_path is not None,
            train_dataset=photos(dataset, "train", data_arguments.max_train_samples),
            eval_dataset=photos(dataset, "validation", data_arguments.max_eval_samples),
        )
        track_whole_run(trainer)
        # Now, not after hours of training.
        for folder in [output_dir, model_dir] if training_arguments.do_train else [output_dir]:
            folder.mkdir(parents=True, exist_ok=True)
    # RuntimeError, ImportError: a flag asks for a library or a device that is not there. HTTPError:
    # --push_to_hub finds no Hub.
    except (ValueError, OSError, RuntimeError, ImportError, HTTPError) as error:
        parser.error(str(error))

    if training_arguments.should_save:  # one process; with several machines one of each
        write_record(output_dir, record)
    if training_arguments.do_train:
        if resume_from and trainer.is_world_process_zero():
            print(f"Going on from {resume_from}.")
        training = trainer.train(resume_from_checkpoint=resume_from)
        # Checkpoints stay as they are: a run that goes on is calibrated anew, not twice.
        if training_arguments.calibrate:
            trainer.calibrate()
        if trainer.is_world_process_zero():
            model.save_pretrained(model_dir)
            image_processor.save_pretrained(model_dir)
            write_served_code(model_dir)  # what an endpoint runs
            records = dataset["train"].select_columns(["id", "bin_group", "expected_quantity"])[:]
            write_error_model(model_dir, fit_error_model(*records.values()))  # for audit.py
            if trainer.state.global_step > trainer.first_step:
                remove_results(output_dir)
                size = {"train_samples": len(trainer.train_dataset)}
                trainer.save_metrics("train", training.metrics | size)
        report_calibration(trainer)
    if training_arguments.do_eval:
        trainer.save_metrics("eval", trainer.evaluate())
    if training_arguments.do_predict:
        predict_test_split(trainer, dataset["test"], data_arguments.max_eval_samples, label_names)
        if trainer.is_world_process_zero():
            write_check(output_dir / CHECK, trainer, image_size)
    if training_arguments.log_memory:
        print_memory("end")
    close_trackers(trainer)
    if trainer.is_world_process_zero():
        send_home(output_dir)
        print(f"\nResults: {output_dir / METRICS}")
        if training_arguments.do_predict:
            print(f"Next: python metrics/compare_runs.py {shlex.quote(str(output_dir))}")
    if training_arguments.push_to_hub and training_arguments.do_train:
        push_to_hub(trainer)


def push_to_hub(trainer: BinTrainer) -> None:
    """Push as Trainer does: its run folder but for checkpoints, with a card of its own."""
    try:
        trainer.push_to_hub(license=DATA_LICENCE, tags=[HUB_TAG])
    except (OSError, RuntimeError, HTTPError) as error:
        reason = " ".join(str(error).split())
        print(
            f"The model was not pushed ({reason}); sagemaker_jobs/push_to_hub.py can push it.",
            file=sys.stderr,
        )
        # A job that fails leaves no model in S3.
        if not in_sagemaker_job():
            sys.exit(1)


def needed_splits(arguments: BinTrainingArguments) -> list[str]:
    """Return the splits that the flags ask for."""
    needed = {
        "train": arguments.do_train,
        "validation": arguments.do_eval,
        "test": arguments.do_predict,
    }
    return [split for split, is_needed in needed.items() if is_needed]


def photos(dataset: DatasetDict, split: str, max_samples: int | None) -> Dataset | None:
    """Return a split as uint8 batches, None where the dataset has no such split."""
    return decoded_photos(dataset[split], max_samples) if split in dataset else None


def predict_test_split(
    trainer: BinTrainer, test: Dataset, max_samples: int | None, label_names: list[str]
) -> None:
    """Write the test figures and predictions_test.parquet into the run folder."""
    prediction = trainer.predict(decoded_photos(test, max_samples))
    trainer.log(prediction.metrics)
    trainer.save_metrics("test", prediction.metrics)
    if trainer.calibration:
        temperature = trainer.calibration["calibration_temperature"]
        before = prediction.predictions * temperature
        trainer.calibration |= before_and_after("test", before, prediction.label_ids, temperature)
        report_calibration(trainer)
    if trainer.is_world_process_zero():
        num_bins = min(len(test), max_samples or len(test))
        table = prediction_table(test.select(range(num_bins)), prediction, label_names)
        path = Path(str(trainer.args.output_dir)) / PREDICTIONS
        pq.write_table(table, f"{path}.part")
        os.replace(f"{path}.part", path)


def report_calibration(trainer: BinTrainer) -> None:
    """Print what the temperature changed, and add it to the results."""
    if trainer.calibration and trainer.is_world_process_zero():
        trainer.save_metrics("calibration", trainer.calibration)
        values = (
            f"{name.removeprefix('calibration_')}={value:.4g}"
            for name, value in trainer.calibration.items()
        )
        print("calibration", *values, flush=True)


def prediction_table(
    bins: Dataset, prediction: PredictionOutput, label_names: list[str]
) -> pa.Table:
    """Return one row a bin: what the inventory expects, what the model counts, how sure it is.

    Args:
        bins: (num_bins,) rows, those that were predicted, in order.
        prediction: logits, float (num_bins, num_counts), and labels, int (num_bins,).
    """
    # Several processes shared the work: a row in the wrong place would give a bin another's count.
    assert np.array_equal(prediction.label_ids, bins["label"]), "predictions out of order"
    probabilities = softmax(prediction.predictions)
    return pa.table(
        {
            **bins.select_columns(["id", "bin_group", "expected_quantity"])[:],
            "count": mode_count(probabilities, counts_of_labels(label_names)),
            **{
                f"probability_{name}": probabilities[:, label]
                for label, name in enumerate(label_names)
            },
        }
    )


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from the last checkpoint.", file=sys.stderr)
        sys.exit(130)
