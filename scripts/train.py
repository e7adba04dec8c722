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
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import transformers
from datasets import Dataset, DatasetDict

# The Hub client's own: its newest releases have moved from httpx to httpx2.
from huggingface_hub.errors import HTTPError
from transformers import set_seed

from auditing.error_model import fit_error_model, write_error_model
from count_distribution import counts_of_labels
from diagnostics.machine_usage import print_memory
from serving.served_code import write_served_code
from training.arguments import BinTrainingArguments, DataArguments, ModelArguments
from training.bin_dataset import (
    dataset_fingerprint,
    dataset_settings,
    load_bins,
    photo_size,
    photos,
)
from training.bin_trainer import BinTrainer
from training.checkpoints import checkpoint_to_resume
from training.command_line import make_parser, parse_arguments, resolved_arguments
from training.device import device_has_bf16, in_sagemaker_job
from training.hub import push_to_hub, read_hub_token
from training.models import load_image_processor, load_model
from training.results import predict_test_split, report_calibration, write_check
from training.run_folder import (
    CHECK,
    METRICS,
    check_run_folder,
    remove_results,
    send_home,
    write_record,
)
from training.trackers import close_trackers, keep_trackers_here, track_whole_run

RECORDED_VERSIONS = ("torch", "transformers", "datasets", "accelerate")


def main(argv: list[str] | None = None) -> None:
    """Train, evaluate and predict, as the flags ask."""
    parser = make_parser(__doc__)
    model_arguments, data_arguments, arguments = parse_arguments(
        parser, sys.argv[1:] if argv is None else argv
    )
    record = resolved_arguments(model_arguments, data_arguments, arguments)
    if data_arguments.dry_run:
        print(json.dumps(record, indent=2))
        return
    output_dir = Path(str(arguments.output_dir))
    model_dir = Path(str(model_arguments.model_dir))
    prepare_process(arguments, output_dir)

    try:
        with arguments.main_process_first():
            dataset = load_bins(str(data_arguments.dataset_dir), arguments.needed_splits)
        image_size = photo_size(dataset)
        record |= facts_of_run(model_arguments, data_arguments, arguments, dataset)
        check_run_folder(output_dir, record, model_dir)
        resume_from = checkpoint_to_resume(output_dir, arguments.resume_from_checkpoint)
        if arguments.hub_token_secret:
            arguments.hub_token = read_hub_token(arguments.hub_token_secret)
        trainer = load_trainer(model_arguments, data_arguments, arguments, dataset, image_size)
        # Now, not after hours of training.
        for folder in [output_dir, model_dir] if arguments.do_train else [output_dir]:
            folder.mkdir(parents=True, exist_ok=True)
    # RuntimeError, ImportError: a flag asks for a library or a device that is not there. HTTPError:
    # --push_to_hub finds no Hub.
    except (ValueError, OSError, RuntimeError, ImportError, HTTPError) as error:
        parser.error(str(error))

    if arguments.should_save:  # one process; with several machines one of each
        write_record(output_dir, record)
    if arguments.do_train:
        train(trainer, resume_from, dataset["train"], model_dir)
    if arguments.do_eval:
        trainer.save_metrics("eval", trainer.evaluate())
    if arguments.do_predict:
        predict_test_split(trainer, dataset["test"], data_arguments.max_eval_samples)
        if trainer.is_world_process_zero():
            write_check(output_dir / CHECK, trainer, image_size)
    if arguments.log_memory:
        print_memory("end")
    close_trackers(trainer)
    if trainer.is_world_process_zero():
        send_home(output_dir)
        print(f"\nResults: {output_dir / METRICS}")
        if arguments.do_predict:
            print(f"Next: python metrics/compare_runs.py {shlex.quote(str(output_dir))}")
    if arguments.push_to_hub and arguments.do_train:
        push_to_hub(trainer)


def prepare_process(arguments: BinTrainingArguments, output_dir: Path) -> None:
    """Seed the process, and settle where trackers write and what is printed."""
    set_seed(arguments.seed)
    asks_for_bf16 = arguments.do_train and arguments.bf16
    if asks_for_bf16 and not device_has_bf16() and arguments.process_index == 0:
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
    }


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
    image_processor = load_image_processor(model_arguments, image_size)
    model = load_model(model_arguments, label_names, image_size, arguments.do_train)
    if arguments.log_memory:
        print_memory("model_loaded")
    trainer = BinTrainer(
        model=model,
        args=arguments,
        image_processor=image_processor,
        counts=counts_of_labels(label_names),
        is_pretrained=model_arguments.model_name_or_path is not None,
        train_dataset=photos(dataset, "train", data_arguments.max_train_samples),
        eval_dataset=photos(dataset, "validation", data_arguments.max_eval_samples),
    )
    track_whole_run(trainer)
    return trainer


def train(trainer: BinTrainer, resume_from: str | None, bins: Dataset, model_dir: Path) -> None:
    """Train, calibrate, and write the model folder with all that serves and audits need.

    Args:
        resume_from: the checkpoint to go on from; None starts at the beginning.
        bins: the training split, whose records say how far off wrong ones are.
    """
    if resume_from and trainer.is_world_process_zero():
        print(f"Going on from {resume_from}.")
    training = trainer.train(resume_from_checkpoint=resume_from)
    # Checkpoints stay as they are: a run that goes on is calibrated anew, not twice.
    if trainer.args.calibrate:
        trainer.calibrate()
    if trainer.is_world_process_zero():
        trainer.model.save_pretrained(model_dir)
        trainer.image_processor.save_pretrained(model_dir)
        write_served_code(model_dir)  # what an endpoint runs
        records = bins.select_columns(["id", "bin_group", "expected_quantity"])[:]
        write_error_model(model_dir, fit_error_model(*records.values()))  # for audit.py
        if trainer.state.global_step > trainer.first_step:
            remove_results(Path(str(trainer.args.output_dir)))
            size = {"train_samples": len(trainer.train_dataset)}
            trainer.save_metrics("train", training.metrics | size)
    report_calibration(trainer)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from the last checkpoint.", file=sys.stderr)
        sys.exit(130)
