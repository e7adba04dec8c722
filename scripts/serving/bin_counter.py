"""A model folder that answers: photos in, one probability a count out.

Takes the form that export_model.py wrote where it belongs to these weights, else the safetensors.
"""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from count_distribution import counts_of_labels
from items.settings import HEADS_SETTINGS, HEADS_WEIGHTS, read_settings
from one_line_parser import reason_of
from visits.chain import possible_changes
from visits.settings import HEAD_SETTINGS, HEAD_WEIGHTS, read_visit_model

WEIGHTS = "model.safetensors"
EXPORT_FOLDER, EXPORT_RECORD = "openvino", "export.json"
# A graph and its weights each: photos to counts, and two of them to the change between them. Not
# *.bin, OpenVINO's own name: archives that hold a .bin are refused as possible pickles.
EXPORT_MODEL, EXPORT_HEAD = (
    ("model.xml", "model.weights"),
    ("change_head.xml", "change_head.weights"),
)
# Photos that a core takes at once: more, and their activations leave its cache. With many cores
# fewer, so that a full request still fills all of them.
MAX_CHUNK, FULL_BATCH = 4, 32


@dataclass(frozen=True)
class Seen:
    """What a model says of some photos.

    Args:
        probabilities: (num_photos, num_counts), how likely each count is.
        items: (num_photos, ...), of items.answers; None where the model has no item heads.
    """

    probabilities: np.ndarray
    items: np.ndarray | None = None


class Network(Protocol):
    """What turns photos, uint8 (batch, height, width, 3), into answers, float32."""

    def look(self, photos: np.ndarray) -> Seen:
        """Return what is said of photos."""

    def look_for_changes(self, photos: np.ndarray) -> tuple[Seen, np.ndarray]:
        """Return the same, and a view of each photo, float32 (batch, positions, 2 * WIDTH).

        Only where there is a change head, which compares views.
        """

    def changes(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return float32 (num_pairs, num_change_answers), of the views of two photos each."""


@dataclass(frozen=True)
class Preparation:
    """What the model folder's image processor does to a photo."""

    size: tuple[int, int]  # height, width
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class BinCounter:
    """A loaded model.

    Args:
        model_dir: the model folder of a run.
        num_threads: cores that one answer may use.
        use_export: whether to take the exported form where there is one.

    Raises: ValueError: no model, one that brings code or pickles, or labels that are no counts.
    """

    def __init__(self, model_dir: Path, num_threads: int, use_export: bool = True) -> None:
        self.model_dir = model_dir
        config = _read_json(model_dir / "config.json")
        if "auto_map" in config:
            raise ValueError(f"{model_dir}: the model brings code of its own, which is refused.")
        if not (model_dir / WEIGHTS).is_file():
            raise ValueError(f"{model_dir} holds no {WEIGHTS}; pickled weights are not loaded.")
        labels = {int(label): name for label, name in config.get("id2label", {}).items()}
        self.counts = counts_of_labels([labels[label] for label in sorted(labels)])
        self.name = str(config.get("model_type"))
        self.preparation = read_preparation(model_dir)
        self.visit_model = read_visit_model(model_dir)
        settings = self.visit_model.settings
        if settings is not None and settings.counts != self.counts:
            raise ValueError(
                f"{model_dir / HEAD_SETTINGS} belongs to another model (it counts "
                f"{settings.counts}): copy the model folder again."
            )
        self.item_settings = read_settings(model_dir)
        usual = None if self.item_settings is None else self.item_settings.usual
        if usual is not None and usual.counts != self.counts:
            raise ValueError(
                f"{model_dir / HEADS_SETTINGS} belongs to another model (its records count "
                f"{usual.counts}): copy the model folder again."
            )
        try:
            exported = self._exported_network(num_threads) if use_export else None
            self.network: Network = exported or TorchNetwork(
                model_dir, self.preparation, num_threads
            )
        except (ValueError, ImportError):
            raise
        # The libraries raise nearly anything for files that are damaged.
        except Exception as error:
            raise ValueError(
                f"{model_dir} cannot be loaded ({reason_of(error)}): copy it again."
            ) from error
        self.runtime = f"openvino {exported.precision}" if exported else "torch f32"

    @cached_property
    def version(self) -> str:
        """The first digits of the weights' SHA-256."""
        return sha256_of(self.model_dir / WEIGHTS)[:12]

    @property
    def head_versions(self) -> dict[str, str]:
        """The first digits of the SHA-256 of each side head's weights, by its file's name.

        Raises: OSError: they are missing.
        """
        names = ([HEAD_WEIGHTS] if self.tells_changes else []) + (
            [HEADS_WEIGHTS] if self.tells_items else []
        )
        return {name: sha256_of(self.model_dir / name)[:12] for name in names}

    def _exported_network(self, num_threads: int) -> "OpenVinoNetwork | None":
        folder = self.model_dir / EXPORT_FOLDER
        if not (folder / EXPORT_RECORD).is_file():
            return None
        exported = _read_json(folder / EXPORT_RECORD)
        if exported.get("version") != self.version:
            print(f"{folder} was made from other weights: not used.", file=sys.stderr)
            return None
        if "sha256" not in exported:  # as an earlier version wrote it
            print(
                f"{folder} has no checksums: not used. scripts/export_model.py writes it anew.",
                file=sys.stderr,
            )
            return None
        # One of before there was a head, or of another head, would count and tell nothing else.
        heads = exported.get("heads")
        if heads is None and "head_version" in exported:  # as an earlier version wrote it
            heads = {HEAD_WEIGHTS: exported["head_version"]}
        if (heads or {}) != self.head_versions:
            print(
                f"{folder} was made without this model's heads, or with others, beside its counts: "
                "not used. scripts/export_model.py writes it anew.",
                file=sys.stderr,
            )
            return None
        try:
            core = openvino_core()
        except ImportError:
            print("openvino is not installed: the safetensors answer.", file=sys.stderr)
            return None
        if exported["precision"] == "int8" and not multiplies_int8():
            print(
                f"{folder} is in int8, which this CPU cannot add up exactly (no VNNI): the "
                "safetensors answer. scripts/export_model.py --precision bf16 is for it.",
                file=sys.stderr,
            )
            return None
        files = (EXPORT_MODEL, EXPORT_HEAD) if self.tells_changes else (EXPORT_MODEL,)
        for name in chain(*files):
            if sha256_of(folder / name) != exported["sha256"].get(name):
                raise ValueError(
                    f"{folder / name} is damaged, it does not match its checksum: export the model "
                    "again with scripts/export_model.py, or copy it again."
                )
        graphs = [core.read_model(folder / graph, folder / weights) for graph, weights in files]
        return OpenVinoNetwork(graphs, exported["precision"], num_threads)

    @property
    def tells_changes(self) -> bool:
        """Whether the model has a change head, and `changes` an answer."""
        return self.visit_model.settings is not None

    @property
    def tells_items(self) -> bool:
        """Whether the model has item heads."""
        return self.item_settings is not None

    def look(self, photos: Sequence[np.ndarray]) -> Seen:
        """Return what the model says of photos, in float64; probabilities sum to 1.

        Args:
            photos: uint8 (height, width, 3) each, as decode_photo returns them.
        """
        return _checked(self.network.look(np.stack(photos)))

    def look_for_changes(self, photos: Sequence[np.ndarray]) -> tuple[Seen, np.ndarray]:
        """Return the same, and of each photo a view, which `changes` needs; that costs no more.

        Only where tells_changes.

        Returns: what is said; float32 (num_photos, ...).
        """
        seen, views = self.network.look_for_changes(np.stack(photos))
        return _checked(seen), views

    def changes(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return one probability a change from one visit of a bin to another.

        Args:
            before, after: views, (num_pairs, ...) each.

        Returns: float64 (num_pairs, num_change_answers): what VisitModel.changes takes, where
            probabilities sum to 1; behind them what is said of volumes, as
            items.steps.given_neighbour takes it, if anything is.
        """
        answers = self.network.changes(before, after)
        num_changes = len(possible_changes(self.counts))
        changes = _distributions(answers[:, :num_changes])
        return np.concatenate([changes, _finite(answers[:, num_changes:])], axis=1)

    @property
    def num_change_answers(self) -> int:
        """How many numbers `changes` says of a pair; 0 where there is no change head."""
        settings = self.visit_model.settings
        if settings is None:
            return 0
        return len(possible_changes(self.counts)) + (2 if settings.tells_volumes else 0)


def _checked(seen: Seen) -> Seen:
    """Return what was said as float64, probabilities that sum to 1. Raises: ArithmeticError."""
    items = None if seen.items is None else _finite(seen.items)
    return Seen(_distributions(seen.probabilities), items)


def _distributions(answers: np.ndarray) -> np.ndarray:
    """Return answers as float64 whose rows sum to 1. Raises: ArithmeticError: they are none."""
    wide = _finite(answers)
    return wide / wide.sum(axis=1, keepdims=True)


def _finite(answers: np.ndarray) -> np.ndarray:
    """Return answers as float64. Raises: ArithmeticError: one is no number."""
    wide = np.asarray(answers, dtype=np.float64)
    if not np.isfinite(wide).all():
        raise ArithmeticError("the model's answer is not a number")
    return wide


def sha256_of(path: Path) -> str:
    """Return a file's SHA-256 in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def available_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux; elsewhere nothing confines a process
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def multiplies_int8() -> bool:
    """Say whether the CPU adds up products of eight bits exactly.

    Older ones clip sums of two of them to sixteen bits, and a network answers otherwise.
    """
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:  # not Linux
        return False
    # x86: avx512_vnni, avx_vnni or AMX; ARM: asimddp.
    return bool(flags & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"})


def read_preparation(model_dir: Path) -> Preparation:
    """Return what the image processor of a model folder does.

    scripts/training/models.py writes it: squeeze to a square, scale to 0..1, normalize; anything
    else would show the model other pixels than training did.

    Raises: ValueError: there is none, or it does something else.
    """
    path = model_dir / "preprocessor_config.json"
    config = _read_json(path)
    size = config.get("size", {})
    expected = {"do_resize": True, "do_rescale": True, "do_normalize": True}
    if (
        set(size) != {"height", "width"}
        or any(config.get(name, True) != value for name, value in expected.items())
        or config.get("do_center_crop")
        or abs(config.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9
    ):
        raise ValueError(f"{path} does not prepare photos as scripts/train.py has it written.")
    return Preparation(
        (int(size["height"]), int(size["width"])),
        int(config["resample"]),
        tuple(config["image_mean"]),
        tuple(config["image_std"]),
    )


class OpenVinoNetwork:
    """The form that export_model.py writes: photos in, counts and items out, in one graph.

    A second one compares what the first says of two photos. What only pairs need is compiled when
    the first of them comes, so that answers without one pay nothing for the change head.

    Args:
        graphs: photos to answers, as photos_to_probabilities has them, and where there is a change
            head its graph.
        precision: of the arithmetic on photos.
        num_threads: cores that one answer may use.
    """

    def __init__(self, graphs: Sequence[Any], precision: str, num_threads: int) -> None:
        self.graphs, self.num_threads = graphs, num_threads
        # Behind counts and items is the view for the second graph, if there is one.
        num_told = len(graphs[0].outputs) - (len(graphs) - 1)
        told = _first_answers(graphs[0], num_told)
        self.counting = CompiledGraph(told, precision, num_threads)
        self.precision = self.counting.precision
        self.asked_precision = precision
        self.for_pairs: tuple[CompiledGraph, CompiledGraph] | None = None
        self.lock = threading.Lock()

    def look(self, photos: np.ndarray) -> Seen:
        """Return what is said of photos."""
        return Seen(*self.counting(photos))

    def look_for_changes(self, photos: np.ndarray) -> tuple[Seen, np.ndarray]:
        """Return the same, and a view of each photo. Only where there is a change head."""
        *told, views = self._for_pairs()[0](photos)
        return Seen(*told), views

    def changes(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return float32 (num_pairs, num_change_answers)."""
        return self._for_pairs()[1](before, after)[0]

    def _for_pairs(self) -> "tuple[CompiledGraph, CompiledGraph]":
        """Return what looks at photos, and what compares two of them."""
        with self.lock:
            if self.for_pairs is None:
                looking, comparing = self.graphs
                self.for_pairs = (
                    CompiledGraph(looking, self.asked_precision, self.num_threads),
                    # A fiftieth of a photo's work, which conversions to bf16 make slower.
                    # One pair at once, which costs no more than four.
                    CompiledGraph(comparing, "f32", self.num_threads, max_chunk=1),
                )
            return self.for_pairs


class CompiledGraph:
    """A graph that answers batches of any size.

    Compiled twice, both times for a fixed number of rows, which is faster than for any: one row on
    all cores, and a few rows on each core, none of which waits for another within a layer. A row is
    a photo, or a pair of them.
    """

    def __init__(
        self, graph: Any, precision: str, num_threads: int, max_chunk: int = MAX_CHUNK
    ) -> None:
        # What is not in eight bits, of a graph that is.
        hint = "bf16" if precision == "int8" else precision
        self.num_streams = min(num_threads, FULL_BATCH)
        self.chunk = min(max_chunk, FULL_BATCH // self.num_streams)
        self.one = _compiled(graph, hint, num_rows=1, num_threads=num_threads, num_streams=1)
        self.chunks = _compiled(graph, hint, self.chunk, num_threads, self.num_streams)
        # A CPU without bf16 computes in f32.
        kind = self.one.get_property("INFERENCE_PRECISION_HINT").to_string()
        of_hint = {"bfloat16": "bf16", "float": "f32"}.get(kind, kind)
        self.precision = precision if precision == "int8" else of_hint
        self.local = threading.local()

    def __call__(self, *batches: np.ndarray) -> list[np.ndarray]:
        """Return the graph's answers, float32 (num_rows, ...) each.

        Args:
            batches: one for each of its inputs, (num_rows, ...) of one and the same number.
        """
        # For each thread its own: an inference request holds the buffers of one answer.
        if not hasattr(self.local, "one"):
            self.local.one = self.one.create_infer_request()
            self.local.chunks = [
                self.chunks.create_infer_request() for _ in range(self.num_streams)
            ]
        num_rows, a_round = len(batches[0]), self.chunk * self.num_streams
        answers = [np.empty((num_rows, *port.shape[1:]), np.float32) for port in self.one.outputs]
        num_in_rounds = num_rows // a_round * a_round
        for start in range(0, num_in_rounds, a_round):
            parts = [
                slice(first, first + self.chunk)
                for first in range(start, start + a_round, self.chunk)
            ]
            for request, rows in zip(self.local.chunks, parts, strict=True):
                request.start_async([batch[rows] for batch in batches])
            for request, rows in zip(self.local.chunks, parts, strict=True):
                _await(request, answers, rows)
        # What fills no round is faster one by one than with idle cores.
        for row in range(num_in_rounds, num_rows):
            rows = slice(row, row + 1)
            self.local.one.start_async([batch[rows] for batch in batches])
            _await(self.local.one, answers, rows)
        return answers


def _await(request: Any, answers: list[np.ndarray], rows: slice) -> None:
    """Put what an inference request answers into the rows that it was asked about."""
    request.wait()
    for answer, tensor in zip(answers, request.output_tensors, strict=True):
        answer[rows] = tensor.data


def _first_answers(graph: Any, number: int) -> Any:
    """Return a graph that gives so many of a graph's answers alone, and shares its weights."""
    alone = graph.clone()
    for result in alone.get_results()[number:]:
        alone.remove_result(result)
    return alone


def _compiled(graph: Any, precision: str, num_rows: int, num_threads: int, num_streams: int) -> Any:
    """Return a graph, ready for batches of so many rows, as many at once as there are streams."""
    fixed = graph.clone()
    fixed.reshape({port: [num_rows, *list(port.partial_shape)[1:]] for port in fixed.inputs})
    settings = {
        # Without it the device chooses a precision by itself.
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": num_threads,
        "NUM_STREAMS": num_streams,
        # Workers of a server know nothing of one another: all would pin themselves to core 0.
        "ENABLE_CPU_PINNING": False,
    }
    return openvino_core().compile_model(fixed, "CPU", settings)


@cache
def openvino_core() -> Any:
    """Return the library's core, one for the life of the process.

    Each core gives the thread a stack for its signal handlers and puts back, as it goes, the one
    that it found. Of two the first that goes takes away what the other puts back: the next signal,
    Ctrl-C or a child that ends, would kill the process without a word (OpenVINO 2026.4, Linux).

    Raises: ImportError: it is not installed.
    """
    return import_openvino().Core()


def import_openvino() -> Any:
    """Return the library, without the usage reports that it sends to its makers when imported.

    Raises: ImportError: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class TorchNetwork:
    """The safetensors in transformers, in full precision."""

    def __init__(self, model_dir: Path, preparation: Preparation, num_threads: int) -> None:
        import torch

        torch.set_num_threads(num_threads)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.module = photos_to_probabilities(model_dir, preparation).to(self.device)

    def look(self, photos: np.ndarray) -> Seen:
        """Return what is said of photos."""
        return Seen(*self._asked(self.module, photos)[: self.module.num_told])

    def look_for_changes(self, photos: np.ndarray) -> tuple[Seen, np.ndarray]:
        """Return the same, and a view of each photo. Only where there is a change head."""
        *told, views = self._asked(self.module, photos)
        return Seen(*told), views

    def changes(self, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return float32 (num_pairs, num_change_answers)."""
        return self._asked(self.module.changes, before, after)[0]

    def _asked(self, module: Any, *arrays: np.ndarray) -> list[np.ndarray]:
        import torch

        with torch.inference_mode():
            answers = module(*(torch.from_numpy(array).to(self.device) for array in arrays))
            return [answer.cpu().numpy() for answer in answers]


def photos_to_probabilities(model_dir: Path, preparation: Preparation) -> Any:
    """Return a torch module: uint8 (batch, height, width, 3) to a tuple of answers.

    These are probabilities, float32 (batch, num_counts), where there are item heads their answers,
    and where there is a change head what it needs of each photo, float32 (batch, positions, 2 *
    WIDTH). `changes` turns two of the last into its answers, in a tuple, too: probabilities, and
    what it says of volumes. `num_told` is how many answers there are without it. `model` is the
    classifier, and `pixel_values` what it is given of photos.

    Raises: ValueError: the folder's weights are not the model's.
    """
    import torch
    from transformers import AutoModelForImageClassification

    model, loading = AutoModelForImageClassification.from_pretrained(
        model_dir,
        local_files_only=True,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
    )
    if absent := sorted({*loading["missing_keys"], *map(str, loading["mismatched_keys"])}):
        raise ValueError(f"{model_dir}: weights are missing, such as {absent[0]}.")
    has_head = (model_dir / HEAD_SETTINGS).is_file()
    if has_head:
        from visits.head import load_head

        load_head(model, model_dir, preparation.size[0])
    has_items = (model_dir / HEADS_SETTINGS).is_file()
    if has_items:
        from items.heads import load_item_heads

        load_item_heads(model, model_dir, preparation.size[0])

    class Changes(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = model.change_head

        def forward(self, before: torch.Tensor, after: torch.Tensor) -> tuple[torch.Tensor, ...]:
            answers = self.head(before, after)
            changes = torch.softmax(answers[:, : self.head.num_changes], dim=-1)
            return (torch.cat([changes, answers[:, self.head.num_changes :]], dim=-1),)

    class PhotosToProbabilities(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.changes = Changes() if has_head else None
            self.num_told = 2 if has_items else 1
            # The arithmetic of training (augmentation.py): bytes, scaled mean and deviation.
            channels = (1, -1, 1, 1)
            self.register_buffer("offset", torch.tensor(preparation.mean).mul(255).view(channels))
            self.register_buffer("scale", torch.tensor(preparation.std).mul(255).view(channels))

        def pixel_values(self, photos: torch.Tensor) -> torch.Tensor:
            return (photos.permute(0, 3, 1, 2).float() - self.offset) / self.scale

        def forward(self, photos: torch.Tensor) -> tuple[torch.Tensor, ...]:
            logits = self.model(pixel_values=self.pixel_values(photos)).logits
            items = (self.model.item_heads(),) if has_items else ()
            views = (self.model.change_head.projected(),) if has_head else ()
            return (torch.softmax(logits, dim=-1), *items, *views)

    return PhotosToProbabilities().eval()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}): name the model folder of a run, such as "
            "runs/vit_base/model."
        ) from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no object.")
    return content
