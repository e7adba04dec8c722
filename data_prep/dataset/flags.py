"""The flags of build_dataset.py, and the commands that make its dataset again or train on it."""

import argparse
import csv
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from command_line import (
    EntryParser,
    InputError,
    count_of_items,
    fraction,
    natural_number,
    number_of_processes,
    positive_integer,
    read_json,
)
from dataset.csv_rows import rows_of_csv
from dataset.photos import MAX_PIXELS, MIN_SIDE
from dataset.settings import CATALOG

# The task: bins with 1 to 5 items, as in the published projects on this dataset.
MIN_COUNT, MAX_COUNT = 1, 5
# What decides how the work is done, not what comes out.
HOW = ("num_workers", "resource_config", "finish", "check")


def make_parser(description: str | None) -> EntryParser:
    """Return the parser of build_dataset.py's flags."""
    parser = EntryParser(description)
    parser.add_argument(
        "--source",
        default="s3://aft-vbi-pds",
        help="folder, file:// or s3:// URL laid out like the bucket (default: %(default)s)",
    )
    parser.add_argument(
        "--catalog",
        help="catalog of data_prep/build_catalog.py, a file or s3:// URL (default: built in the "
        "output)",
    )
    parser.add_argument(
        "--output_dir", required=True, help="the dataset: a folder or an s3://BUCKET/PREFIX URL"
    )
    parser.add_argument(
        "--bin_list",
        type=Path,
        help='keep only these bins: JSON such as {"1": ["data/metadata/00152.json"]}; their '
        "neighbours' metadata is read as well, for the groups",
    )
    parser.add_argument(
        "--exclude",
        type=Path,
        metavar="CSV",
        help="leave out the bins of the column id, such as label_errors.csv of scripts/audit.py "
        "--label_errors; all others stay in the splits that they have without it",
    )
    parser.add_argument(
        "--marks",
        type=Path,
        nargs="+",
        action="extend",
        metavar="CSV",
        help="what people found, as the review page of scripts/audit.py exports it: the count of a "
        "bin whose record was wrong, and which records were right; of several marks of a bin the "
        "newest holds",
    )
    parser.add_argument(
        "--max_bins",
        type=positive_integer,
        help="keep at most this many, drawn by --seed in whole bin groups",
    )
    for name, default, extreme in (("min", MIN_COUNT, "fewest"), ("max", MAX_COUNT, "most")):
        parser.add_argument(
            f"--{name}_count",
            type=count_of_items,
            default=default,
            help=f"the {extreme} items of a bin that is kept (default: %(default)s)",
        )
    parser.add_argument(
        "--image_size",
        type=image_edge,
        default=224,
        help="edge of the square photos, pixels (default: %(default)s)",
    )
    parser.add_argument(
        "--validation_fraction",
        type=fraction,
        help="share of the bins, 0 to 1 (default: 0.1, or what --test_fraction leaves)",
    )
    parser.add_argument(
        "--test_fraction",
        type=fraction,
        help="share of the bins, 0 to 1; 1.0 puts every bin in test (default: 0.1)",
    )
    parser.add_argument(
        "--split_by",
        choices=("bin_group", "random", "official"),
        default="bin_group",
        help="random leaks, as published splits do: for comparison only; official is the "
        "challenge's own split, its validation list being the test split (default: %(default)s)",
    )
    for name, file in (("train", "counting_train.json"), ("validation", "counting_val.json")):
        parser.add_argument(
            f"--official_{name}", type=Path, help=f"the challenge's list {file}, [[index, count]]"
        )
    parser.add_argument(
        "--num_workers",
        type=number_of_processes,
        default=os.cpu_count() or 1,
        help="processes that fetch and resize (default: one a core)",
    )
    parser.add_argument("--seed", type=natural_number, default=42, help="default: %(default)s")
    stage = parser.add_mutually_exclusive_group()
    stage.add_argument(
        "--resource_config",
        type=Path,
        help="write only this machine's shards: JSON with hosts and current_host, as SageMaker has "
        "it in /opt/ml/config/resourceconfig.json",
    )
    stage.add_argument(
        "--finish", action="store_true", help="write the card of shards that are all done"
    )
    stage.add_argument(
        "--check",
        action="store_true",
        help="check the flags and the lists that they name, and do nothing else",
    )
    return parser


def image_edge(text: str) -> int:
    """Parse the edge of the photos. Raises: argparse.ArgumentTypeError: no photo has it."""
    edge = positive_integer(text)
    if edge < MIN_SIDE:
        raise argparse.ArgumentTypeError(f"{text} is less than {MIN_SIDE} pixels")
    if edge**2 > MAX_PIXELS:
        raise argparse.ArgumentTypeError(f"{text} makes photos of over 25 megapixels")
    return edge


def check_flags(arguments: argparse.Namespace) -> None:
    """Raise InputError where flags do not go together."""
    if arguments.min_count > arguments.max_count:
        raise InputError(f"--min_count {arguments.min_count} exceeds --max_count: swap them.")
    lists = (arguments.official_train, arguments.official_validation)
    if arguments.split_by == "official":
        if None in lists:
            raise InputError(
                "--split_by official needs --official_train and --official_validation."
            )
        for path in lists:
            if not path.is_file():
                raise InputError(f"{path}: there is no such list of the official split.")
        if arguments.test_fraction is not None:
            raise InputError("--test_fraction: the official validation list is the test split.")
    elif lists != (None, None):
        raise InputError("--official_train and --official_validation need --split_by official.")


def read_rank(path: Path | None) -> tuple[int, int]:
    """Return this machine's place among the hosts, and how many there are; alone without a file.

    Raises: InputError: the file is no resource config.
    """
    if path is None:
        return 0, 1
    try:
        config = read_json(path.read_bytes())
        hosts = config["hosts"]
        if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
            raise TypeError("hosts is no list of names")
        if len(set(hosts)) < len(hosts):
            raise ValueError("hosts has a name twice")
        return sorted(hosts).index(config["current_host"]), len(hosts)
    except OSError as error:
        raise InputError(f"--resource_config {path}: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f'--resource_config {path}: expected {{"current_host": "algo-1", "hosts": ["algo-1", '
            f"...]}} ({error})."
        ) from error


def read_excluded(path: Path) -> list[str]:
    """Return the ids of a csv's column id, sorted.

    Raises: InputError: the file is no such csv; it says the line.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return sorted({row["id"] for row in rows_of_csv(file, ("id",))})
    except OSError as error:
        raise InputError(f"--exclude {path}: {error.strerror}.") from error
    except (csv.Error, ValueError) as error:
        raise InputError(f"--exclude {path}: not a csv of ids: {error}.") from error


def is_own_catalog(arguments: argparse.Namespace) -> bool:
    """Say whether --catalog names the one that lies in the output."""

    def place(location: str) -> str:
        return location if "://" in location else os.path.realpath(location)

    own = f"{arguments.output_dir.rstrip('/')}/{CATALOG}"
    return arguments.catalog is not None and place(arguments.catalog) == place(own)


def build_command(arguments: argparse.Namespace) -> str:
    """Return the command that makes this dataset, wherever the work is done."""
    parser = make_parser(None)
    flags = [
        part
        for name, value in vars(arguments).items()
        if name not in HOW and value != parser.get_default(name)
        for part in (f"--{name}", *map(str, value if isinstance(value, list) else [value]))
    ]
    return f"python data_prep/build_dataset.py {shlex.join(flags)}"


def next_command(dataset_dir: str, image_size: int, splits: Sequence[str]) -> str:
    """Return the command that trains on this dataset, or evaluates where it has a test split."""
    name = Path(dataset_dir).name
    folder = f"data/{name}" if "://" in dataset_dir else dataset_dir
    flags = ["--dataset_dir", folder]
    if "train" in splits:
        # The Hub's ViTs take 224 pixels; a ResNet takes any size.
        recipe = {64: "demo", 224: "vit"}.get(image_size, "resnet34")
        flags = ["--recipe", recipe, *flags, "--output_dir", f"runs/{name}_{recipe}"]
        if "validation" not in splits:
            flags += ["--do_eval", "false", "--eval_strategy", "no"]
        if "test" not in splits:
            flags += ["--do_predict", "false"]
    else:
        flags += ["--model_name_or_path", "MODEL_FOLDER", "--output_dir", "runs/evaluation"]
        does = {"validation": "--do_eval", "test": "--do_predict"}
        flags += [does[split] for split in splits]
    copy = (
        ""
        if folder == dataset_dir
        else f"{shlex.join(['aws', 's3', 'sync', dataset_dir, folder])} && "
    )
    return f"{copy}python scripts/train.py {shlex.join(flags)}"
