"""Draw a mirror of the Amazon bin image bucket, for the tests and the offline demo.

    python data_prep/synthetic_bins.py --output_dir data/mirror --num_bins 6000 --seed 0

writes `bin-images/<id>.jpg` and `metadata/<id>.json`, ids '00001', '00002', ..., in the layout and
the JSON of the real bucket, with drawn photos of invented products: nothing here is Amazon's.
A photo is about half the size of a real one (240-300 wide, 170-210 high), to keep drawing quick.

As in the real data, consecutive ids are often one bin before and after a pick or a stow: the same
fabric, bands and remaining items, another count. Such a run shares an ASIN from photo to photo;
different runs share none. The same seed and num_bins give the same bytes for any num_workers.

Expect 34-40 s of processor time and 83 MB for 6,000 bins. The photos are easier than the real ones:
a ViT with 0.8 million weights, trained from scratch on the 4,209 of them that hold 1-5 items (64x64
pixels, 9 epochs, 98 s on 2 cores), counts 80 % of held-out bins right, where always saying 3 gets
29 %; runs were kept whole. Such a score says that the pipeline works and nothing about real bins.
"""

import argparse
import io
import json
import math
import multiprocessing
import os
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple, NoReturn

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont
from tqdm import tqdm

Colour = tuple[int, int, int]

COUNT_WEIGHTS = (0.02, 0.12, 0.20, 0.24, 0.18, 0.12, 0.06, 0.04, 0.02)  # of 0, 1, ..., 8 items
SAME_BIN_SHARE = 0.39  # of consecutive ids of the real bucket share an ASIN (3,928 of 9,994)
MAX_PICK_OR_STOW = 3  # items moved between two photos of one bin
COPY_SHARE = 0.35  # of items have the ASIN of an item that is already in the bin

PHOTO_WIDTHS = (240, 300)  # pixels; half of ABID's median 487x334
PHOTO_HEIGHTS = (170, 210)
CAMERA_SHIFT = 5  # pixels by which two photos of one bin may be off, each way
BIN_WIDTH_INCHES = 13.5  # that the width of a photo shows
FLOOR_SHARE = 0.45  # of the height of the opening is floor: what stands far back stands higher
MAX_HIDDEN_SHARE = 0.25  # of an item behind other items: more, and nobody could count it
PLACEMENT_TRIES = 40
SHADOW_MARGIN = 5  # pixels of shadow round an item
JPEG_QUALITY = 88

FABRIC = (246, 220, 140)
FLOOR = (192, 176, 148)
HAZE = (170, 152, 124, 30)  # veils the depth of the pocket
WHITE = (238, 232, 224)
INK = (40, 36, 40)
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


class Kind(NamedTuple):
    """How the products of one kind are called and how large they are, in inches."""

    nouns: tuple[str, ...]
    widths: tuple[float, float]
    heights: tuple[float, float]
    draw: Callable[[ImageDraw.ImageDraw, float, float, Colour, Colour], None]


@dataclass(frozen=True)
class Product:
    """An invented product: all items of one ASIN look alike. Sizes in inches, weight in pounds."""

    asin: str
    name: str
    normalized_name: str | None
    kind: Kind
    colour: Colour
    accent: Colour
    width: float
    height: float
    length: float
    weight: float | None
    has_dimensions: bool


@dataclass(frozen=True)
class Item:
    """One item in a bin, in pixels of the scene: its middle, its foot and its size as drawn."""

    product: Product
    centre_x: float
    base_y: float
    width: float
    height: float
    tilt: float  # degrees


class BinRun(NamedTuple):
    """Photos of one bin with consecutive ids: the number of the first, and the count in each."""

    first_number: int
    counts: tuple[int, ...]


class DrawnBin(NamedTuple):
    """One object pair of the bucket."""

    bin_id: str
    jpeg: bytes
    metadata: dict[str, Any]


class Scene(NamedTuple):
    """What the photos of a run share. Images are larger than a photo by CAMERA_SHIFT all round."""

    background: Image.Image  # RGB, behind the items
    front: Image.Image  # RGBA, the lips of the pocket and the bands, before the items
    photo_size: tuple[int, int]
    left: float  # the opening of the pocket, pixels
    top: float
    right: float
    bottom: float

    @property
    def pixels_per_inch(self) -> float:
        return self.photo_size[0] / BIN_WIDTH_INCHES


# ---- Plan: which ids show the same bin, and how many items


def plan_runs(num_bins: int, seed: int) -> list[BinRun]:
    """Return the runs that together hold the ids 1 to num_bins, in order.

    Within a run each count is at least 1 and differs from the one before; an empty bin is a run of
    its own, since it shares no ASIN with its neighbours.

    Raises:
        ValueError: num_bins is below 1, or seed is negative.
    """
    if num_bins < 1:
        raise ValueError(f"num_bins is {num_bins}: ask for at least 1 bin")
    if seed < 0:
        raise ValueError(f"seed is {seed}: choose one that is 0 or more")
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


# ---- Products: how each kind is drawn, what it is called


def shade(colour: Colour, factor: float) -> Colour:
    """Return the colour, darker for a factor below 1 and lighter for one above it."""
    red, green, blue = (min(255, int(channel * factor)) for channel in colour)
    return red, green, blue


def draw_cylinder(
    draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], colour: Colour, upright: bool
) -> None:
    """Fill the box with strips that darken towards two sides, as the light on a round body does."""
    left, top, right, bottom = box
    num_strips = 12
    for strip in range(num_strips):
        start, end = strip / num_strips, (strip + 1) / num_strips
        fill = shade(colour, 0.55 + 0.6 * math.sin(math.pi * (0.1 + 0.85 * start)) ** 1.5)
        if upright:
            width = right - left
            draw.rectangle((left + start * width, top, left + end * width, bottom), fill=fill)
        else:
            height = bottom - top
            draw.rectangle((left, top + start * height, right, top + end * height), fill=fill)


def draw_print(
    draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], paper: Colour, ink: Colour
) -> None:
    """Draw a label: a sheet of paper with lines of what could be text."""
    left, top, right, bottom = box
    draw.rectangle(box, fill=paper)
    height = bottom - top
    for line, length in enumerate((0.85, 0.6, 0.75)):
        line_y = top + height * (0.2 + 0.27 * line)
        text = (left + 4, line_y, left + 4 + (right - left - 8) * length, line_y + height * 0.1)
        if text[2] > text[0]:
            draw.rectangle(text, fill=ink)


def draw_box(
    draw: ImageDraw.ImageDraw, width: float, height: float, colour: Colour, accent: Colour
) -> None:
    top, side = height * 0.14, width * 0.14
    edge = shade(colour, 0.45)
    front = (0, top, width - side, height)
    draw.polygon([(0, top), (side, 0), (width, 0), (width - side, top)], shade(colour, 1.25), edge)
    draw.polygon(
        [(width - side, top), (width, 0), (width, height - top), (width - side, height)],
        shade(colour, 0.6),
        edge,
    )
    draw.rectangle(front, fill=colour, outline=edge, width=2)
    draw_print(draw, (width * 0.12, height * 0.3, width * 0.6, height * 0.55), accent, colour)
    barcode = (width * 0.45, height * 0.72, width * 0.8, height * 0.92)
    draw.rectangle(barcode, fill=WHITE)
    for bar in range(6):
        bar_x = barcode[0] + 3 + bar * (barcode[2] - barcode[0]) / 6.5
        draw.line((bar_x, barcode[1] + 2, bar_x, barcode[3] - 2), fill=INK, width=1 + bar % 3)


def draw_book(
    draw: ImageDraw.ImageDraw, width: float, height: float, colour: Colour, accent: Colour
) -> None:
    draw.rectangle((0, 0, width, height), fill=colour, outline=shade(colour, 0.45), width=2)
    draw.rectangle((2, 2, width * 0.14, height - 2), fill=shade(colour, 0.65))
    draw.rectangle((width * 0.93, 3, width - 1, height - 3), fill=WHITE)
    draw_print(draw, (width * 0.25, height * 0.1, width * 0.85, height * 0.34), colour, accent)
    middle = (width * 0.54, height * 0.62)
    radius = width * 0.2
    draw.ellipse(
        (middle[0] - radius, middle[1] - radius, middle[0] + radius, middle[1] + radius),
        fill=accent,
    )
    draw.rectangle((width * 0.3, height * 0.88, width * 0.8, height * 0.92), fill=accent)


def draw_bottle(
    draw: ImageDraw.ImageDraw, width: float, height: float, colour: Colour, accent: Colour
) -> None:
    draw_cylinder(draw, (width * 0.28, 0, width * 0.72, height * 0.13), accent, upright=True)
    neck = (width * 0.34, height * 0.13, width * 0.66, height * 0.24)
    draw_cylinder(draw, neck, shade(colour, 0.8), upright=True)
    draw.ellipse((0, height * 0.18, width, height * 0.42), fill=shade(colour, 0.9))
    draw_cylinder(draw, (0, height * 0.3, width, height * 0.97), colour, upright=True)
    draw.ellipse((0, height * 0.92, width, height), fill=shade(colour, 0.6))
    draw_print(draw, (width * 0.12, height * 0.46, width * 0.88, height * 0.78), accent, colour)


def draw_can(
    draw: ImageDraw.ImageDraw, width: float, height: float, colour: Colour, accent: Colour
) -> None:
    draw.ellipse((0, height * 0.85, width, height), fill=shade(colour, 0.6))
    draw_cylinder(draw, (0, height * 0.1, width, height * 0.92), colour, upright=True)
    draw.rectangle((0, height * 0.4, width, height * 0.68), fill=accent)
    draw.rectangle((width * 0.2, height * 0.5, width * 0.75, height * 0.58), fill=colour)
    lid = (0, 0, width, height * 0.2)
    draw.ellipse(lid, fill=shade(WHITE, 0.85), outline=shade(colour, 0.45), width=2)


def draw_tube(
    draw: ImageDraw.ImageDraw, width: float, height: float, colour: Colour, accent: Colour
) -> None:
    draw_cylinder(draw, (0, 0, width * 0.84, height), colour, upright=False)
    cap = (width * 0.84, height * 0.12, width, height * 0.88)
    draw_cylinder(draw, cap, accent, upright=False)
    draw_print(draw, (width * 0.12, height * 0.22, width * 0.62, height * 0.72), accent, colour)


def draw_bag(
    draw: ImageDraw.ImageDraw, width: float, height: float, colour: Colour, accent: Colour
) -> None:
    outline = [
        (0.08, 0.0), (0.92, 0.03), (0.88, 0.14), (0.99, 0.4), (1.0, 0.8), (0.9, 1.0),
        (0.12, 0.99), (0.0, 0.82), (0.02, 0.4), (0.12, 0.14),
    ]  # fmt: skip
    draw.polygon(
        [(across * width, down * height) for across, down in outline],
        fill=colour,
        outline=shade(colour, 0.45),
        width=2,
    )
    seal = (width * 0.1, height * 0.03, width * 0.9, height * 0.12)
    draw.rectangle(seal, fill=shade(colour, 0.7))
    for start, end in (
        ((0.14, 0.2), (0.07, 0.7)),
        ((0.85, 0.2), (0.93, 0.6)),
        ((0.2, 0.9), (0.6, 0.94)),
    ):
        crease = (start[0] * width, start[1] * height, end[0] * width, end[1] * height)
        draw.line(crease, fill=shade(colour, 1.5), width=4)
    draw.ellipse((width * 0.2, height * 0.3, width * 0.8, height * 0.68), fill=accent)
    draw.rectangle((width * 0.33, height * 0.44, width * 0.67, height * 0.52), fill=colour)


KINDS = (
    Kind(("Desk Lamp Kit", "LED Bulbs", "Oil Filter", "Puzzle"), (2.9, 4.0), (2.8, 4.0), draw_box),
    Kind(
        ("The Lantern Year: A Novel", "Bread Atlas", "Algebra Notes"),
        (2.4, 3.0),
        (3.4, 4.4),
        draw_book,
    ),
    Kind(("Shampoo", "Bubble Bath", "Olive Oil"), (1.9, 2.4), (3.8, 4.8), draw_bottle),
    Kind(("Tea Tin", "Tennis Balls", "Wood Wax"), (2.3, 2.8), (2.9, 3.7), draw_can),
    Kind(("Hand Cream", "Toothpaste", "Sealant"), (3.6, 4.6), (1.8, 2.2), draw_tube),
    Kind(("Dog Treats", "Coffee Beans", "Cotton Socks"), (2.8, 3.6), (3.2, 4.2), draw_bag),
)


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


def draw_product(product: Product, pixels_per_inch: float) -> Image.Image:
    """Return the product as RGBA with its soft shadow, SHADOW_MARGIN wider on each side."""
    width, height = product.width * pixels_per_inch, product.height * pixels_per_inch
    # Twice the size, then halved: ImageDraw itself draws jagged edges.
    size = (round(2 * width) + 1, round(2 * height) + 1)
    body = Image.new("RGBA", size)
    product.kind.draw(ImageDraw.Draw(body), 2 * width, 2 * height, product.colour, product.accent)
    body = body.reduce(2)
    padded = (body.width + 2 * SHADOW_MARGIN, body.height + 2 * SHADOW_MARGIN)
    shadow = Image.new("L", padded)
    shadow.paste(body.getchannel("A"), (SHADOW_MARGIN + 1, SHADOW_MARGIN + 1))
    shadow = shadow.filter(ImageFilter.BoxBlur(3)).point(lambda alpha: alpha * 0.75)
    sprite = Image.new("RGBA", padded, (22, 16, 12, 0))
    sprite.putalpha(shadow)
    sprite.alpha_composite(body, (SHADOW_MARGIN, SHADOW_MARGIN))
    return sprite


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


# ---- Pictures


@lru_cache(maxsize=1)
def noise_tile() -> Image.Image:
    """Return sensor noise about mid grey, RGB, large enough to cut any photo from any corner."""
    noise = np.random.default_rng(0).normal(128, 5, size=(400, 600, 3))
    return Image.fromarray(noise.astype(np.uint8))


def soft_noise(
    rng: np.random.Generator, cells: tuple[int, int], size: tuple[int, int], low: int
) -> Image.Image:
    """Return RGB in grey from low to 255 that varies smoothly over cells (across, down)."""
    grey = rng.integers(low, 256, size=(cells[1], cells[0]), dtype=np.uint8)
    return Image.fromarray(grey).resize(size, Image.Resampling.BICUBIC).convert("RGB")


def draw_bin_label(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: int, y: int) -> None:
    """Draw the plate with the bin's address and its code, as on the lip of a real pocket."""
    plates = ((178, 62, 58), (60, 66, 100), (210, 140, 70), (88, 92, 96), (120, 160, 190))
    plate = plates[int(rng.integers(len(plates)))]
    draw.rounded_rectangle((x, y, x + 62, y + 17), 3, fill=plate)
    draw.rectangle((x + 4, y + 2, x + 32, y + 15), fill=WHITE)
    address = f"{rng.integers(1, 5)}{'ABCDEFGHI'[int(rng.integers(9))]}"
    draw.text((x + 7, y + 3), address, fill=INK, font=ImageFont.load_default())
    draw.polygon([(x + 24, y + 9), (x + 27, y + 4), (x + 30, y + 9)], fill=INK)
    draw.rectangle((x + 38, y + 1, x + 54, y + 16), fill=WHITE)
    for row, column in np.argwhere(rng.random((7, 7)) < 0.5).tolist():
        corner = (x + 39 + 2 * column, y + 2 + 2 * row)
        draw.rectangle((*corner, corner[0] + 1, corner[1] + 1), fill=INK)


def draw_bands(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, scene_box: tuple[int, int, int, int]
) -> None:
    """Draw 1-3 elastic bands across the opening: many pale threads, with the items seen between."""
    left, top, right, bottom = scene_box
    for _ in range(int(rng.integers(1, 4))):
        band_height = rng.uniform(12, 34)
        start = rng.uniform(top + 4, bottom - band_height - 8)
        slope, sag = rng.uniform(-5, 5), rng.uniform(-2, 3)
        spacing = rng.uniform(2.4, 3.4)
        across = np.linspace(0, 1, 7)
        curve = slope * across + sag * 4 * across * (1 - across)
        band_x = left + across * (right - left)
        edge = list(zip(band_x, start + curve, strict=True))
        other = list(zip(band_x[::-1], (start + band_height + curve)[::-1], strict=True))
        draw.polygon(edge + other, fill=(214, 204, 190, 55))
        for thread in np.arange(0, band_height, spacing):
            points = list(zip(band_x, start + thread + curve, strict=True))
            draw.line(points, fill=(226, 218, 206, int(rng.integers(100, 150))), width=1)


def draw_scene(rng: np.random.Generator) -> Scene:
    """Return an empty pocket of fabric with its lips, seams, folds, labels and bands."""
    photo_size = (int(rng.integers(*PHOTO_WIDTHS)), int(rng.integers(*PHOTO_HEIGHTS)))
    width, height = (side + 2 * CAMERA_SHIFT for side in photo_size)
    left, right = int(width * rng.uniform(0.03, 0.08)), int(width * rng.uniform(0.92, 0.97))
    top, bottom = int(height * rng.uniform(0.09, 0.13)), int(height * rng.uniform(0.88, 0.92))
    fabric = shade(FABRIC, rng.uniform(0.88, 1.05))

    background = Image.new("RGB", (width, height), shade(fabric, 0.82))
    draw = ImageDraw.Draw(background)
    horizon = int(bottom - FLOOR_SHARE * (bottom - top))
    inset = int(width * 0.05)
    draw.polygon(
        [(left, bottom), (left + inset, horizon), (right - inset, horizon), (right, bottom)], FLOOR
    )
    for wall, inner in ((left, left + inset), (right, right - inset)):
        draw.polygon(
            [(wall, top), (inner, top), (inner, horizon), (wall, bottom)], shade(fabric, 0.66)
        )
        draw.line((inner, top, inner, horizon), fill=shade(fabric, 0.5), width=2)
    draw.line((left + inset, horizon, right - inset, horizon), fill=shade(fabric, 0.55), width=2)
    for _ in range(int(rng.integers(2, 5))):
        fold = rng.uniform(left + inset, right - inset)
        lean = rng.uniform(-12, 12)
        draw.line((fold, top, fold + lean, horizon), fill=shade(fabric, 0.7), width=2)
        draw.line((fold + 3, top, fold + 3 + lean, horizon), fill=shade(fabric, 0.93), width=3)
    background = background.filter(ImageFilter.BoxBlur(2))
    # Long upright patches look like the hang of the fabric, and darken the depth of the pocket.
    background = ImageChops.multiply(background, soft_noise(rng, (14, 3), (width, height), 215))

    front = Image.new("RGBA", (width, height), HAZE)
    draw = ImageDraw.Draw(front)
    draw_bands(draw, rng, (0, top, width, bottom))
    bulge = rng.uniform(0, 6)
    bottom_lip = [
        (width * step / 8, bottom + bulge * math.sin(math.pi * step / 8)) for step in range(9)
    ]
    draw.polygon([*bottom_lip, (width, height), (0, height)], fill=fabric)
    draw.line(bottom_lip, fill=shade(fabric, 0.72), width=2)
    draw.rectangle((0, 0, width, top), fill=shade(fabric, 0.97))
    draw.line((0, top, width, top), fill=shade(fabric, 0.62), width=2)
    for stitch in range(0, width, 6):
        draw.line((stitch, top - 4, stitch + 3, top - 4), fill=shade(fabric, 0.8))
        draw.line((stitch, bottom + 9, stitch + 3, bottom + 9), fill=shade(fabric, 0.8))
    for seam in (left - 3, right + 3):
        draw.line((seam, 0, seam, height), fill=shade(fabric, 0.9), width=4)
    draw_bin_label(draw, rng, int(rng.uniform(0.3, 0.55) * width), bottom + 6)
    draw_bin_label(draw, rng, int(rng.uniform(0.3, 0.55) * width), top - 22)
    return Scene(background, front, photo_size, left, top, right, bottom)


def take_photo(
    rng: np.random.Generator, scene: Scene, items: list[Item], sprites: dict[str, Image.Image]
) -> bytes:
    """Return a JPEG of the scene with the items, seen from a slightly different camera each time.

    Args:
        sprites: ASIN -> picture of the product, filled as products are first seen.
    """
    photo = scene.background.copy()
    for item in sorted(items, key=lambda item: item.base_y):  # The nearest item is drawn last.
        asin = item.product.asin
        if asin not in sprites:
            sprites[asin] = draw_product(item.product, scene.pixels_per_inch)
        sprite = sprites[asin].rotate(item.tilt, Image.Resampling.BILINEAR, expand=True)
        middle_y = item.base_y - item.height / 2
        corner = (round(item.centre_x - sprite.width / 2), round(middle_y - sprite.height / 2))
        photo.paste(sprite, corner, sprite)
    photo.paste(scene.front, (0, 0), scene.front)

    shift_x, shift_y = rng.integers(0, 2 * CAMERA_SHIFT + 1, size=2).tolist()
    width, height = scene.photo_size
    photo = photo.crop((shift_x, shift_y, shift_x + width, shift_y + height))
    photo = photo.filter(ImageFilter.BoxBlur(rng.uniform(0.2, 0.7)))
    photo = ImageChops.multiply(photo, soft_noise(rng, (4, 3), scene.photo_size, 190))
    noise_x, noise_y = rng.integers(0, 180, size=2).tolist()
    noise = noise_tile().crop((noise_x, noise_y, noise_x + width, noise_y + height))
    photo = ImageChops.add(photo, noise, offset=-128)
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


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


def leave_with_parent() -> None:
    """Make a worker process end when the process that started it is gone, even if killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait_for_parent() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait_for_parent, daemon=True).start()


def draw_runs(runs: list[BinRun], seed: int, num_workers: int) -> Iterator[list[DrawnBin]]:
    """Yield draw_run of each run, in order, drawn by num_workers processes."""
    if num_workers == 1:
        yield from map(partial(draw_run, seed=seed), runs)
        return
    with ProcessPoolExecutor(
        num_workers, multiprocessing.get_context("spawn"), initializer=leave_with_parent
    ) as executor:
        yield from executor.map(partial(draw_run, seed=seed), runs, chunksize=16)


@contextmanager
def finished_or_absent(output_dir: Path) -> Iterator[Path]:
    """Give a sibling folder to fill, and rename it to output_dir when all went well.

    A killed run leaves only the sibling, which the next run removes.

    Raises:
        FileExistsError: output_dir is not an empty or an absent folder.
    """
    output_dir = output_dir.resolve()
    if output_dir.exists() and not (output_dir.is_dir() and not any(output_dir.iterdir())):
        raise FileExistsError(
            f"{output_dir} already holds files: delete it, or choose another --output_dir"
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
        ValueError: num_bins or num_workers is below 1, or seed is negative.
        FileExistsError: output_dir already holds files.
    """
    if num_workers < 1:
        raise ValueError(f"num_workers is {num_workers}: ask for at least 1 process")
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


class OneLineParser(argparse.ArgumentParser):
    """A parser whose errors are one line: the usage would hide what to do."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: error: {message}\n")


def main(argv: list[str] | None = None) -> None:
    """Draw the mirror that the command line asks for, and print the command to run next."""
    parser = OneLineParser(
        prog="synthetic_bins.py",
        description="Draw a mirror of the Amazon bin image bucket.",
        allow_abbrev=False,
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="absent or empty folder")
    parser.add_argument("--num_bins", type=int, default=6000, help="photos to draw (6000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other bins (0)")
    parser.add_argument(
        "--num_workers", type=int, default=os.cpu_count() or 1, help="processes (all processors)"
    )
    arguments = parser.parse_args(argv)
    try:
        num_bins_of_count = draw_mirror(**vars(arguments))
    except (ValueError, OSError) as error:
        parser.error(str(error))
    counts = ", ".join(
        f"{count}: {num_bins_of_count[count]}" for count in sorted(num_bins_of_count)
    )
    print(
        f"Drew {arguments.num_bins} bins in {arguments.output_dir}; bins of each count: {counts}."
    )
    source = shlex.quote(str(arguments.output_dir))
    print(f"Next: python data_prep/build_dataset.py --source {source} --output_dir data/demo")


if __name__ == "__main__":
    main()
