"""Time the endpoint's handler against transformers' own pipeline, in one run on one machine.

    python benchmarks/serving_speed.py
    python benchmarks/serving_speed.py --models vit_tiny --rounds 100
    ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 \\
        python benchmarks/serving_speed.py --precisions f32      # as if the CPU had AVX2 alone

From JPEG bytes to JSON, in one process without HTTP: p50 and p99 of one photo, photos a second with
32 in a request. The weights are random, which changes no time. All contenders take turns, so that a
machine that others use slows all of them alike. `pipeline` is used as its documentation has it, in
f32, and in bf16; all have the same threads.

A second table has the first of the forms with pairs of visits among the photos, from JPEG bytes to
probabilities: a pair against a photo, 32 visits of a bin with the 31 changes between them against
the same photos alone, and a photo as pairs need it against one that is counted.
"""

import argparse
import base64
import importlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from tqdm import tqdm
from transformers import AutoConfig, AutoModelForImageClassification, ViTImageProcessor, pipeline

ROOT = Path(__file__).resolve().parent.parent
VIT = {"model_type": "vit", "image_size": 224, "patch_size": 16}
CONFIGS = {
    "vit_tiny": VIT | {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
    "vit_base": VIT,
    "resnet34": json.loads((ROOT / "scripts/model_configs/resnet34/config.json").read_text()),
}
BATCH_SIZE = 32
COUNTS = range(1, 6)
THEIRS, SEEN = "pipeline", "a photo, as pairs need it"
# Times as fast as the pipeline, by the form: p50 of one photo, and photos a second.
GOALS: dict[str, dict[str, tuple[float, float]]] = {
    "int8": {THEIRS: (2.0, 2.5), f"{THEIRS} bf16": (1.6, 2.0)},
    "bf16": {},
    "f32": {THEIRS: (2.5, 2.5)},
}
PAIR_GOAL = 2.2  # times a photo

Answer = Callable[[list[bytes]], Any]


def run(*command: str) -> None:
    """Run one of the project's entries; what it prints goes to standard error."""
    subprocess.run([sys.executable, *command], cwd=ROOT, check=True, stdout=sys.stderr)


def make_dataset(folder: Path) -> None:
    """Draw some bins, which the export is checked on."""
    mirror = str(folder / "mirror")
    run("data_prep/synthetic_bins.py", "--output_dir", mirror, "--num_bins", "60")
    flags = ["--source", mirror, "--output_dir", str(folder / "bins"), "--test_fraction", "0.5"]
    run("data_prep/build_dataset.py", *flags)


def make_model(name: str, folder: Path) -> None:
    """Write a model folder of random weights, as scripts/train.py lays it out."""
    torch.manual_seed(0)
    labels = {label: str(count) for label, count in enumerate(COUNTS)}
    (folder / name).mkdir()
    (folder / name / "config.json").write_text(json.dumps(CONFIGS[name]))
    config = AutoConfig.from_pretrained(
        folder / name, id2label=labels, label2id={text: label for label, text in labels.items()}
    )
    model = AutoModelForImageClassification.from_config(config, dtype=torch.float32)
    # Of random weights any rounding could change the most likely count, and the export be refused.
    head = next(m for m in reversed(list(model.modules())) if isinstance(m, torch.nn.Linear))
    torch.nn.init.constant_(head.bias[2:3], 5.0)
    with torch.no_grad():
        head.weight.mul_(0.1)
    add_change_head(model, folder / name)
    processor = ViTImageProcessor(size={"height": 224, "width": 224}, resample=2)
    processor.save_pretrained(folder / name)


def add_change_head(model: Any, model_dir: Path) -> None:
    """Write a model and a change head of random weights into a model folder."""
    names = ("visits.head", "visits.settings", "side_heads")
    module, settings, side_heads = (importlib.import_module(name) for name in names)
    num_changes = 2 * len(COUNTS) - 1
    module.attach_head(model, num_changes, 224)
    # As with the counts; no change, which is its own mirror.
    torch.nn.init.constant_(model.change_head.classifier.bias[num_changes // 2], 5.0)
    state = model.state_dict()
    model.save_pretrained(model_dir, state_dict=side_heads.without_side_heads(state))
    side_heads.save_side_heads(state, model_dir)
    num_features = model.change_head.num_features
    settings.write_settings(
        model_dir, settings.ChangeSettings(tuple(COUNTS), num_features, 0.5, 0.5)
    )


def decoded(photos: list[bytes], counter: Any) -> list[np.ndarray]:
    """Return photos as the handler decodes them."""
    decode = importlib.import_module("serving.photo_checks").decode_photo
    prepare = counter.preparation
    return [decode(photo, prepare.size, prepare.resample) for photo in photos]


def measure_visits(name: str, model_dir: Path, photo: bytes, rounds: int) -> list[str]:
    """Return the rows of the table of visits."""
    module = importlib.import_module("serving.bin_counter")
    counter = module.BinCounter(model_dir, module.available_cores())
    assert counter.tells_changes
    assert counter.runtime.startswith("openvino")

    def photos_alone(photos: list[bytes]) -> Any:
        return counter.look(decoded(photos, counter))

    def photos_seen(photos: list[bytes]) -> Any:
        return counter.look_for_changes(decoded(photos, counter))

    def visits_of_a_bin(photos: list[bytes]) -> Any:
        seen, views = photos_seen(photos)
        changes = counter.changes(views[:-1], views[1:])
        return seen, counter.visit_model.changes(changes)

    few: dict[str, Answer] = {
        "a pair of visits": visits_of_a_bin,
        "a photo": lambda photos: photos_alone(photos[:1]),
        SEEN: lambda photos: photos_seen(photos[:1]),
    }
    one = measure(few, [photo] * 2, rounds, f"{name}, a pair")
    many = measure(
        {"visits": visits_of_a_bin, "photos": photos_alone},
        [photo] * BATCH_SIZE,
        max(3, rounds // 20),
        f"{name}, {BATCH_SIZE} visits",
    )
    a_photo, visits = one["a photo"], f"{BATCH_SIZE} visits of a bin, with their changes"
    rows = [
        comparison("a pair of visits", "a photo", one["a pair of visits"], a_photo, PAIR_GOAL),
        comparison(visits, f"{BATCH_SIZE} photos", many["visits"], many["photos"]),
        comparison(SEEN, "a photo", one[SEEN], a_photo),
    ]
    return [f"| {name} | {row}" for row in rows]


def comparison(
    name: str, other_name: str, seconds: np.ndarray, other: np.ndarray, goal: float | None = None
) -> str:
    """Return the cells of a comparison: both medians, and that of the ratios within a round."""
    ratio = float(np.median(seconds / other))
    verdict = "" if goal is None else f"at most {goal:g}: {'yes' if ratio <= goal else '**no**'}"
    medians = f"{1e3 * np.median(seconds):.1f} | {1e3 * np.median(other):.1f}"
    return f"{name} | {other_name} | {medians} | {ratio:.3f} | {verdict} |"


def handler(model_dir: Path) -> tuple[Answer, str]:
    """Return the handler with a model, as a function from photos to JSON, and its runtime."""
    module: ModuleType = importlib.import_module("inference")
    endpoint = module.model_fn(str(model_dir))

    def answer(photos: list[bytes]) -> str:
        if len(photos) == 1:
            request = module.input_fn(photos[0], "image/jpeg")
        else:
            instances = [{"image": base64.b64encode(photo).decode()} for photo in photos]
            request = module.input_fn(json.dumps({"instances": instances}), "application/json")
        return module.output_fn(module.predict_fn(request, endpoint), "application/json")

    return answer, endpoint.counter.runtime


def plain_pipeline(model_dir: Path, dtype: torch.dtype) -> Answer:
    """Return transformers' pipeline as a function from photos to JSON."""
    classify = pipeline("image-classification", model=str(model_dir), dtype=dtype)

    def answer(photos: list[bytes]) -> str:
        images = [Image.open(io.BytesIO(photo)) for photo in photos]
        return json.dumps(classify(images, batch_size=len(images)))

    return answer


def measure(
    contenders: dict[str, Answer], photos: list[bytes], rounds: int, label: str
) -> dict[str, np.ndarray]:
    """Return the seconds of each contender, (rounds,), all taking turns."""
    for answer in contenders.values():
        answer(photos)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in tqdm(range(rounds), desc=label):
        for name, answer in contenders.items():
            start = time.perf_counter()
            answer(photos)
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--rounds", type=int, default=200, help="of one photo; a twentieth of 32")
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=("int8", "bf16", "f32"),
        default=["int8", "bf16"],
        help="of the forms; the first is held against all others (default: int8 bf16)",
    )
    arguments = parser.parse_args()
    precisions = arguments.precisions
    ours, goals = f"handler, {precisions[0]}", GOALS[precisions[0]]
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    num_threads = len(os.sched_getaffinity(0))
    torch.set_num_threads(num_threads)

    rows, visit_rows, runtimes = [], [], list[str]()
    # The model folders are written by the modules of scripts/, as it is.
    sys.path.insert(0, str(ROOT / "scripts"))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_dataset(folder)
        photo = next(iter(sorted((folder / "mirror" / "bin-images").iterdir()))).read_bytes()
        size = Image.open(io.BytesIO(photo)).size
        for name in arguments.models:
            make_model(name, folder)
            model_dir = folder / name
            contenders: dict[str, Answer] = {}
            for precision in precisions:
                served = folder / f"{name}_{precision}"
                shutil.copytree(model_dir, served)
                flags = ["--dataset_dir", str(folder / "bins"), "--precision", precision]
                run("scripts/export_model.py", "--model", str(served), *flags)
                contenders[f"handler, {precision}"], runtime = handler(served)
                runtimes.append(runtime)
            contenders[THEIRS] = plain_pipeline(model_dir, torch.float32)
            if precisions != ["f32"]:  # that alone stands for a CPU without bf16
                contenders[f"{THEIRS} bf16"] = plain_pipeline(model_dir, torch.bfloat16)
            one = measure(contenders, [photo], arguments.rounds, f"{name}, one photo")
            rounds = max(3, arguments.rounds // 20)
            many = measure(contenders, [photo] * BATCH_SIZE, rounds, f"{name}, {BATCH_SIZE} photos")
            first_form = folder / f"{name}_{precisions[0]}"
            visit_rows += measure_visits(name, first_form, photo, arguments.rounds)
            for contender in contenders:
                p50, p99 = np.percentile(one[contender], [50, 99])
                rate = BATCH_SIZE / np.median(many[contender])
                p50_ratio = p50 / np.median(one[ours])
                rate_ratio = np.median(many[contender]) / np.median(many[ours])
                comparison = "| | | |"
                if contender != ours:
                    verdict = ""
                    if contender in goals:
                        p50_goal, rate_goal = goals[contender]
                        is_reached = p50_ratio >= p50_goal and rate_ratio >= rate_goal
                        verdict = f"{p50_goal:g} and {rate_goal:g}: "
                        verdict += "reached" if is_reached else "**not reached**"
                    comparison = f"| {p50_ratio:.2f} | {rate_ratio:.2f} | {verdict} |"
                rows.append(
                    f"| {name} | {contender} | {1e3 * p50:.1f} | {1e3 * p99:.1f} | {rate:.1f} "
                    f"{comparison}"
                )
    forms = ", ".join(dict.fromkeys(runtimes))
    print(f"\n{platform.machine()}, {num_threads} threads; exported: {forms}")
    print(f"A JPEG of {size[0]}x{size[1]} pixels and {len(photo):,} bytes\n")
    heads = ["model", "contender", "p50, ms", "p99, ms", f"photos/s at {BATCH_SIZE}"]
    heads += [f"p50, times {precisions[0]}'s", f"{precisions[0]}'s rate, times", "goal"]
    print(f"| {' | '.join(heads)} |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    print("\n".join(rows))
    print("\n| model | with visits | compared with | ms | ms | ratio | goal |")
    print("|---|---|---|---:|---:|---:|---|")
    print("\n".join(visit_rows))


if __name__ == "__main__":
    main()
