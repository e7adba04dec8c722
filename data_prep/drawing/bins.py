"""Draw fabric bins and what lies in them: the pictures of data_prep/synthetic_bins.py.

Photos of fabric pockets with elastic bands before them, and boxes, books, bottles, cans, tubes and
bags in them that hide one another in part. What is in a bin, and where, is decided elsewhere.
"""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

Colour = tuple[int, int, int]

PHOTO_WIDTHS = (240, 300)  # pixels; half of ABID's median 487x334
PHOTO_HEIGHTS = (170, 210)
CAMERA_SHIFT = 5  # pixels by which two photos of one bin may be off, each way
BIN_WIDTH_INCHES = 13.5  # that the width of a photo shows
FLOOR_SHARE = 0.45  # of the height of the opening is floor: what stands far back stands higher
SHADOW_MARGIN = 5  # pixels of shadow round an item
JPEG_QUALITY = 88

FABRIC = (246, 220, 140)
FLOOR = (192, 176, 148)
HAZE = (170, 152, 124, 30)  # veils the depth of the pocket
WHITE = (238, 232, 224)
INK = (40, 36, 40)


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
