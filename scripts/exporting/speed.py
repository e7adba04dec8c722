"""How fast forms of one model answer on this machine."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from serving.bin_counter import FULL_BATCH, Network, import_openvino

NUM_PHOTOS, NUM_BATCHES = 60, 6  # of each form


@dataclass(frozen=True)
class Speed:
    """How fast a form is: milliseconds of one photo (median), photos a second of full requests."""

    milliseconds: float
    photos_a_second: float


def speeds(networks: Mapping[str, Network], photos: np.ndarray) -> dict[str, Speed]:
    """Return how fast each form answers; they take turns, so that all meet the same machine.

    Args:
        photos: uint8 (num_photos, height, width, 3), asked about again and again.
    """
    batch = np.resize(photos, (FULL_BATCH, *photos.shape[1:]))
    of_one = {name: [_seconds(network, batch[:1])][:0] for name, network in networks.items()}
    of_batch = {name: [_seconds(network, batch)][:0] for name, network in networks.items()}
    for turn in range(NUM_PHOTOS):
        for name, network in networks.items():
            of_one[name].append(_seconds(network, batch[turn % FULL_BATCH][None]))
    for _ in range(NUM_BATCHES):
        for name, network in networks.items():
            of_batch[name].append(_seconds(network, batch))
    return {
        name: Speed(
            1000 * float(np.median(of_one[name])), FULL_BATCH / float(np.median(of_batch[name]))
        )
        for name in networks
    }


def name_of_cpu() -> str:
    """Return what OpenVINO knows this machine's CPU by."""
    return str(import_openvino().Core().get_property("CPU", "FULL_DEVICE_NAME"))


def _seconds(network: Network, photos: np.ndarray) -> float:
    start = time.perf_counter()
    network.look(photos)
    return time.perf_counter() - start
