"""The error model of a dataset folder: apart from the others, since an endpoint has no pyarrow."""

from pathlib import Path

from dataset_folder import open_dataset
from visits.error_model import ErrorModel, fit_error_model


def training_error_model(dataset_dir: Path) -> ErrorModel:
    """Return the error model of a dataset folder's training split.

    Raises: ValueError: no such dataset, or one without a training split.
    """
    dataset = open_dataset(dataset_dir)
    if "train" not in dataset.shards:
        raise ValueError(f"{dataset_dir} has no training split (data/train-*.parquet).")
    columns = ["id", "bin_group", "expected_quantity"]
    table = dataset.table("train", columns)
    return fit_error_model(*(table[name].to_pylist() for name in columns))
