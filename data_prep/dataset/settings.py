"""What the bytes of a dataset depend on, and the output that belongs to such settings."""

import argparse
import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import obstore
import PIL
import pyarrow as pa
import simplejpeg
from obstore.store import LocalStore, ObjectStore
from PIL import features

from catalog.reading import CHART_NAME
from command_line import InputError, read_json
from dataset.marks import Mark
from object_store import create_object, object_sizes, read_object, write_object
from whole_files import PARTIAL, remove_leftovers

SETTINGS = "settings.json"
CATALOG = "catalog.parquet"
# How --max_bins draws: an output of an earlier version, which cut the last group, is another's.
DRAWING = "whole bin groups"
# What a row says of its items: shards of an earlier version do not, and are not gone on with.
ITEM_SIZES = "volumes and weights"


def dataset_settings(
    arguments: argparse.Namespace,
    fractions: Mapping[str, float],
    listed: Sequence[str] | None,
    excluded: Sequence[str],
    marks: Mapping[str, Sequence[Mark]],
    catalog: bytes | None,
) -> dict[str, object]:
    """Return what the dataset is made of; files that were named stand as digests.

    Args:
        fractions: split -> its share of the bins.
        listed: the ids of --bin_list; excluded: those of --exclude.
        marks: of --marks, by bin.
        catalog: the content of --catalog, None where the output's own is used.
    """
    named = ("source", "min_count", "max_count", "max_bins", "image_size", "split_by", "seed")
    official = [arguments.official_train, arguments.official_validation]
    return {
        **{name: getattr(arguments, name) for name in named},
        "drawn": DRAWING if arguments.max_bins else None,
        "item_sizes": ITEM_SIZES,
        "test_fraction": fractions.get("test", 0.0),
        "validation_fraction": fractions.get("validation", 0.0),
        "bin_list": listed and _digest("\n".join(listed).encode()),
        "exclude": _digest("\n".join(excluded).encode()) if excluded else None,
        "marks": _digest(repr(sorted(marks.items())).encode()) if marks else None,
        "catalog": catalog and _digest(catalog),
        "official_lists": [_digest(path.read_bytes()) for path in official if path] or None,
    }


def program_versions() -> dict[str, str]:
    """Return the versions of what the bytes of a photo and of a shard come from."""
    return {
        "python": platform.python_version(),
        "Pillow": PIL.__version__,
        "simplejpeg": simplejpeg.__version__,
        "libjpeg-turbo": features.version("libjpeg_turbo") or "absent",
        "pyarrow": pa.__version__,
        "numpy": np.__version__,
        "obstore": obstore.__version__,
    }


def claim_output(
    store: ObjectStore,
    location: str,
    settings: Mapping[str, object],
    own_catalog: bool,
    alone: bool,
) -> dict[str, object]:
    """Make the output this dataset's, or check that it is; return its settings.json.

    An output without any shard may be claimed anew: nothing in it took long but the catalog, which
    stays where it is still the right one.

    Args:
        own_catalog: --catalog is the one in the output.
        alone: no other machine works on it, and none did: it may be claimed anew.

    Raises: InputError: it holds something else, or a dataset of other settings.
    """
    if isinstance(store, LocalStore) and store.prefix is not None:
        remove_leftovers(Path(store.prefix))
    claim = {**settings, "versions": program_versions()}
    content = (json.dumps(claim, indent=2) + "\n").encode()
    # Listed before the settings are read: another machine writes those before anything else, so
    # whoever lists a file of its reads them too.
    level = store.list_with_delimiter()
    recorded = recorded_settings(store, location)
    if recorded is None:
        known = {CATALOG, CHART_NAME, f"{CATALOG}.parts"} if own_catalog else set()
        names = {*level["common_prefixes"], *(entry["path"] for entry in level["objects"])}
        if any(name not in known and not name.endswith(PARTIAL) for name in names):
            raise InputError(f"--output_dir {location} is in use: choose another or empty it.")
        if create_object(store, SETTINGS, content):
            return claim
        recorded = recorded_settings(store, location) or {}  # another machine was faster
    differing = [name for name in settings if recorded.get(name) != settings[name]]
    if not differing:
        return recorded
    if not alone or object_sizes(store, "statistics"):
        raise InputError(
            f"--output_dir {location} holds a dataset of other settings ("
            + ", ".join(f"{n} {recorded.get(n)!r}, now {settings[n]!r}" for n in differing)
            + "): choose another folder, or remove this one."
        )
    stale = list(object_sizes(store, "data"))  # of shards that were not finished
    if not own_catalog and any(
        name in differing for name in ("source", "catalog", "bin_list", "item_sizes")
    ):
        stale += [path for path in object_sizes(store) if path.startswith(CATALOG)]
    obstore.delete(store, stale)
    write_object(store, SETTINGS, content)
    return claim


def recorded_settings(store: ObjectStore, location: str) -> dict[str, object] | None:
    """Return what settings.json says, None where there is none.

    Raises: InputError: it is damaged.
    """
    content = read_object(store, SETTINGS)
    if content is None:
        return None
    try:
        recorded = read_json(content)
        if not isinstance(recorded, dict):
            raise ValueError("no object")
    except ValueError as error:
        raise InputError(
            f"{location}/{SETTINGS} cannot be read ({error}): choose another --output_dir."
        ) from error
    return recorded


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
