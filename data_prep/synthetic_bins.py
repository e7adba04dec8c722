"""Draw a mirror of the Amazon bin image bucket, for the tests and the offline demo.

    python data_prep/synthetic_bins.py --output_dir data/mirror --num_bins 6000 --seed 0

writes `bin-images/<id>.jpg` and `metadata/<id>.json`, ids '00001', '00002', ..., in the layout and
the JSON of the real bucket, with drawn photos of invented products: nothing here is Amazon's.
A photo is about half the size of a real one (240-300 wide, 170-210 high), to keep drawing quick.

As in the real data, consecutive ids are often one bin before and after a pick or a stow: the same
fabric, bands and remaining items, another count. Such a run shares an ASIN from photo to photo;
different runs share none. The same seed and num_bins give the same bytes for any num_workers.

Expect 34-40 s of processor time and 83 MB for 6,000 bins. The photos are easier than the real ones:
the ViT of `make demo`, with 0.8 million weights, counts 76 % of its 528 test bins right, where
always saying 3 gets 27 %. Such a score says that everything works and nothing about real bins.
"""

import json
import math
import os
import shlex
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tqdm import tqdm

from command_line import (
    EntryParser,
    InputError,
    natural_number,
    number_of_processes,
    positive_integer,
    say,
)
from drawing.bins import (
    FLOOR_SHARE,
    INK,
    KINDS,
    WHITE,
    Colour,
    Item,
    Product,
    Scene,
    draw_scene,
    shade,
    take_photo,
)
from worker_pool import worker_pool

COUNT_WEIGHTS = (0.02, 0.12, 0.20, 0.24, 0.18, 0.12, 0.06, 0.04, 0.02)  # of 0, 1, ..., 8 items
SAME_BIN_SHARE = 0.39  # of consecutive ids of the real bucket share an ASIN (3,928 of 9,994)
MAX_PICK_OR_STOW = 3  # items moved between two photos of one bin
COPY_SHARE = 0.35  # of items have the ASIN of an item that is already in the bin
MAX_HIDDEN_SHARE = 0.25  # of an item behind other items: more, and nobody could count it
PLACEMENT_TRIES = 40
# Products of one bin differ in colour, and none has the yellow of the fabric.
PRODUCT_COLOURS: tuple[Colour, ...] = (
    (190, 40, 45), (30, 75, 165), (240, 236, 230), (25, 125, 70), (48, 46, 54), (120, 50, 140),
    (70, 170, 215), (225, 95, 30), (105, 62, 42), (225, 110, 160), (20, 130, 135), (120, 22, 50),
    (150, 190, 60), (130, 138, 150),
)  # fmt: skip

BRANDS = (
    "Norvello", "Tamarack Lane", "Quillby", "Osterhaus", "Pinefold", "Zanderly", "Marrowick",
    "Blue Heronry", "Kestwick & Sons", "Ullo", "Fenmarch", "Dapplewood",
)  # fmt: skip
VARIANTS = (
    "Small", "Twin Pack", "Classic", "Deluxe", "Refill", "Travel Size", "Unscented", "Mark II",
    "Family Size", "Slim", "Extra Strong", "Packaging May Vary",
)  # fmt: skip
# Names come from strangers: commas, quotes, other scripts and markup must survive every step.
STRANGE_ENDINGS = (
    ', 3" Wide, Set of 2', " <b>NEW</b>", " – Crème Brûlée Édition", ' "The Original"',
    " 日本語パッケージ", " & More; 50% Off", " <script>alert('hi')</script>",
    ", Größe M, O'Brien's",
)  # fmt: skip


class BinRun(NamedTuple):
    """Photos of one bin with consecutive ids: the number of the first, and the count in each."""

    first_number: int
    counts: tuple[int, ...]


class DrawnBin(NamedTuple):
    """One object pair of the bucket."""

    bin_id: str
    jpeg: bytes
    metadata: dict[str, Any]


# ---- Plan: which ids show the same bin, and how many items


def plan_runs(num_bins: int, seed: int) -> list[BinRun]:
    """Return the runs that together hold the ids 1 to num_bins, in order.

    Within a run each count is at least 1 and differs from the one before; an empty bin is a run of
    its own, since it shares no ASIN with its neighbours.

    Args:
        num_bins: at least 1.
        seed: 0 or more.
    """
    rng = np.random.default_rng(seed)
    weights = np.array(COUNT_WEIGHTS)
    counts = np.arange(len(weights))
    runs: list[list[int]] = []
    for _ in range(num_bins):
        if runs and runs[-1][-1] > 0 and rng.random() < SAME_BIN_SHARE:
            moved = np.abs(counts - runs[-1][-1])
            allowed = (counts > 0) & (moved > 0) & (moved <= MAX_PICK_OR_STOW)
            next_weights = weights * allowed
            runs[-1].append(int(rng.choice(counts, p=next_weights / next_weights.sum())))
        else:
            runs.append([int(rng.choice(counts, p=weights / weights.sum()))])
    first_numbers = np.cumsum([1] + [len(run) for run in runs])
    return [BinRun(int(first), tuple(run)) for first, run in zip(first_numbers, runs, strict=False)]


def make_asin(product_number: int) -> str:
    """Return ten characters that look like an ASIN, different for each number below 36 ** 8."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    # A multiplier without a factor of 36 permutes the numbers: neighbours do not look alike, and
    # no two products of a mirror can meet.
    code = (product_number * 1_000_003_000_001 + 7) % 36**8
    return "B0" + "".join(digits[code // 36**place % 36] for place in range(8))


def invent_product(rng: np.random.Generator, product_number: int, colour: Colour) -> Product:
    """Return a product of a random kind, whose ASIN is that of the number alone."""
    kind = KINDS[int(rng.integers(len(KINDS)))]
    brand, noun, variant = (
        words[int(rng.integers(len(words)))] for words in (BRANDS, kind.nouns, VARIANTS)
    )
    name = f"{brand} {noun} {variant}"
    if rng.random() < 0.15:
        name += STRANGE_ENDINGS[int(rng.integers(len(STRANGE_ENDINGS)))]
    is_pale = sum(colour) > 480
    return Product(
        asin=make_asin(product_number),
        name=name,
        normalized_name=None if rng.random() < 0.03 else name,
        kind=kind,
        colour=shade(colour, rng.uniform(0.9, 1.1)),
        accent=INK if is_pale else WHITE,
        width=rng.uniform(*kind.widths),
        height=rng.uniform(*kind.heights),
        length=rng.uniform(1.0, 6.0),
        weight=None if rng.random() < 0.03 else rng.uniform(0.1, 3.0),
        has_dimensions=bool(rng.random() >= 0.02),
    )


# ---- Items: what is in the bin of each photo, and where


def overlap_area(first: Item, second: Item) -> float:
    """Return the pixels that the upright boxes round two items have in common."""
    across = (first.width + second.width) / 2 - abs(first.centre_x - second.centre_x)
    down = min(first.base_y, second.base_y) - max(
        first.base_y - first.height, second.base_y - second.height
    )
    return max(0.0, across) * max(0.0, down)


def worst_hidden_share(items: list[Item]) -> float:
    """Return the largest share of an item that items with a nearer foot may hide."""
    return max(
        sum(overlap_area(item, other) for other in items if other.base_y > item.base_y)
        / (item.width * item.height)
        for item in items
    )


def place_item(rng: np.random.Generator, product: Product, items: list[Item], scene: Scene) -> Item:
    """Return the product at a random place of the floor, where little of any item is hidden."""
    width = product.width * scene.pixels_per_inch
    height = product.height * scene.pixels_per_inch
    lowest_base = max(
        scene.top + height + 2, scene.bottom - FLOOR_SHARE * (scene.bottom - scene.top) + 3
    )
    best, best_share = None, math.inf
    for _ in range(PLACEMENT_TRIES):
        candidate = Item(
            product=product,
            centre_x=rng.uniform(scene.left + width / 2, scene.right - width / 2),
            base_y=rng.uniform(lowest_base, scene.bottom + 1),
            width=width,
            height=height,
            tilt=rng.normal(0, 3.5),
        )
        share = worst_hidden_share([*items, candidate])
        if share < best_share:
            best, best_share = candidate, share
        if best_share <= MAX_HIDDEN_SHARE:
            break
    assert best is not None
    return best


def stow_and_pick(rng: np.random.Generator, run: BinRun, scene: Scene) -> Iterator[list[Item]]:
    """Yield the items of each photo of a run; those that stay keep their place but for a nudge."""
    colours = rng.permutation(len(PRODUCT_COLOURS))
    items: list[Item] = []
    num_products = 0
    for count in run.counts:
        while len(items) > count:
            items.pop(int(rng.integers(len(items))))
        items = [
            replace(
                item,
                centre_x=item.centre_x + rng.uniform(-1.5, 1.5),
                tilt=item.tilt + rng.uniform(-1, 1),
            )
            for item in items
        ]
        while len(items) < count:
            if items and rng.random() < COPY_SHARE:
                product = items[int(rng.integers(len(items)))].product
            else:
                colour = PRODUCT_COLOURS[colours[num_products % len(colours)]]
                # A photo adds at most 8 products, so that 8 numbers an id keep runs apart.
                product_number = 8 * run.first_number + num_products
                product = invent_product(rng, product_number, colour)
                num_products += 1
            items.append(place_item(rng, product, items, scene))
        yield items


# ---- Metadata


def describe_bin(items: list[Item]) -> dict[str, Any]:
    """Return the metadata of a bin in the schema of the bucket."""
    quantities = Counter(item.product.asin for item in items)
    products = {item.product.asin: item.product for item in items}
    return {
        "BIN_FCSKU_DATA": {
            asin: describe_product(product, quantities[asin]) for asin, product in products.items()
        },
        "EXPECTED_QUANTITY": len(items),
    }


def describe_product(product: Product, quantity: int) -> dict[str, Any]:
    """Return one entry of BIN_FCSKU_DATA: an unknown measure is null, an unknown name left out."""
    entry: dict[str, Any] = {"asin": product.asin, "name": product.name, "quantity": quantity}
    if product.normalized_name is not None:
        entry["normalizedName"] = product.normalized_name
    for side in ("height", "length", "width"):
        inches = getattr(product, side)
        entry[side] = {"unit": "IN", "value": inches} if product.has_dimensions else None
    pounds = product.weight
    entry["weight"] = None if pounds is None else {"unit": "pounds", "value": pounds}
    return entry


# ---- The mirror


def draw_run(run: BinRun, seed: int) -> list[DrawnBin]:
    """Return the photos and the metadata of one run, which depend on the run and the seed alone."""
    rng = np.random.default_rng([seed, run.first_number])
    scene = draw_scene(rng)
    sprites: dict[str, Image.Image] = {}
    return [
        DrawnBin(f"{number:05d}", take_photo(rng, scene, items, sprites), describe_bin(items))
        for number, items in enumerate(stow_and_pick(rng, run, scene), start=run.first_number)
    ]


def draw_runs(runs: list[BinRun], seed: int, num_workers: int) -> Iterator[list[DrawnBin]]:
    """Yield draw_run of each run, in order, drawn by num_workers processes."""
    if num_workers == 1:
        yield from map(partial(draw_run, seed=seed), runs)
        return
    with worker_pool(num_workers) as pool:
        yield from pool.map(partial(draw_run, seed=seed), runs, chunksize=16)


@contextmanager
def finished_or_absent(output_dir: Path) -> Iterator[Path]:
    """Give a sibling folder to fill, and rename it to output_dir when all went well.

    A killed run leaves only the sibling, which the next run removes.

    Raises:
        InputError: output_dir is not an empty or an absent folder.
    """
    output_dir = output_dir.resolve()
    if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        raise InputError(
            f"{output_dir} already holds files: delete it, or choose another --output_dir."
        )
    unfinished_dir = output_dir.with_name(f".{output_dir.name}.unfinished")
    shutil.rmtree(unfinished_dir, ignore_errors=True)
    unfinished_dir.mkdir(parents=True)
    try:
        yield unfinished_dir
        unfinished_dir.replace(output_dir)
    finally:
        shutil.rmtree(unfinished_dir, ignore_errors=True)


def draw_mirror(output_dir: Path, num_bins: int, seed: int, num_workers: int = 1) -> Counter[int]:
    """Draw the bins 1 to num_bins into bin-images/ and metadata/ of output_dir.

    Args:
        output_dir: a folder that is absent or empty; it appears only when all bins are drawn.
        num_workers: processes that draw; the files do not depend on it.

    Returns:
        Count -> number of bins that hold so many items.

    Raises:
        InputError: output_dir already holds files.
    """
    runs = plan_runs(num_bins, seed)
    with finished_or_absent(output_dir) as unfinished_dir:
        image_dir, metadata_dir = unfinished_dir / "bin-images", unfinished_dir / "metadata"
        image_dir.mkdir()
        metadata_dir.mkdir()
        with tqdm(total=num_bins, desc="drawing", unit="bin") as progress:
            for bins in draw_runs(runs, seed, num_workers):
                for drawn in bins:
                    (image_dir / f"{drawn.bin_id}.jpg").write_bytes(drawn.jpeg)
                    text = json.dumps(drawn.metadata, indent=4, sort_keys=True)
                    (metadata_dir / f"{drawn.bin_id}.json").write_text(text, encoding="utf-8")
                progress.update(len(bins))
    return Counter(count for run in runs for count in run.counts)


def main(argv: list[str] | None = None) -> None:
    """Draw the mirror that the command line asks for, and print the command to run next."""
    parser = EntryParser(__doc__)
    parser.add_argument("--output_dir", type=Path, required=True, help="absent or empty folder")
    parser.add_argument(
        "--num_bins", type=positive_integer, default=6000, help="photos (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=natural_number, default=0, help="another seed, other bins (default: 0)"
    )
    parser.add_argument(
        "--num_workers",
        type=number_of_processes,
        default=os.cpu_count() or 1,
        help="processes that draw (default: one a core)",
    )
    arguments = parser.parse_args(argv)
    try:
        bins_of_count = draw_mirror(**vars(arguments))
    except InputError as error:
        parser.error(str(error))
    except KeyboardInterrupt:
        parser.exit(130, f"\n{parser.prog}: stopped; nothing is left behind.\n")
    listed = ", ".join(f"{bins_of_count[count]:,} of {count}" for count in sorted(bins_of_count))
    source = shlex.quote(str(arguments.output_dir))
    say(
        f"Drew {arguments.num_bins:,} bins in {arguments.output_dir}; by items: {listed}.",
        f"Next: python data_prep/build_dataset.py --source {source} --output_dir data/drawn_bins "
        "--image_size 64",
    )


if __name__ == "__main__":
    main()
