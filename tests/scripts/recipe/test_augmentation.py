from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ViTImageProcessor

from recipe.augmentation import (
    APART,
    mixed,
    mixing_shares,
    normalize,
    random_colour,
    random_flip,
    random_geometry,
    random_moves,
)


def photos(num_photos: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_photos, 3, 8, 6), dtype=torch.uint8, generator=generator)


def single(num_photos: int) -> torch.Tensor:
    """Return runs of one photo each."""
    return torch.arange(num_photos)


def test_about_half_of_the_photos_are_mirrored_and_the_others_left_alone() -> None:
    torch.manual_seed(0)
    original = photos(400)
    flipped = random_flip(original, single(400))
    mirrored = (flipped == original.flip(-1)).flatten(1).all(dim=1)
    untouched = (flipped == original).flatten(1).all(dim=1)
    assert bool((mirrored ^ untouched).all())
    assert 150 < int(mirrored.sum()) < 250


def test_bytes_are_normalized_as_the_image_processor_does_it() -> None:
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    processor = ViTImageProcessor(do_resize=False, image_mean=mean, image_std=std)
    batch = photos(4)
    as_images = [Image.fromarray(photo.permute(1, 2, 0).numpy()) for photo in batch]
    expected = processor(as_images, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(normalize(batch, mean, std).numpy(), expected, atol=1e-5)


def test_no_move_takes_a_corner_out_of_the_frame() -> None:
    torch.manual_seed(0)
    moves = random_moves(single(2000))
    # The moves lead from frame to photo; their inverses say where the photo's corners go.
    forward = torch.linalg.inv(moves[:, :, :2])
    corners = torch.tensor([[-1.0, -1, 1, 1], [-1, 1, -1, 1]])
    places = forward @ (corners - moves[:, :, 2:])
    assert float(places.abs().max()) <= 1 + 1e-5
    # And they are moves: most photos are turned, and some are shrunk by a tenth.
    assert float(moves[:, 1, 0].abs().median()) > 0.01
    assert float(torch.linalg.det(forward).min()) < 0.81


def test_a_spot_in_each_corner_survives_every_move() -> None:
    torch.manual_seed(0)
    pixel_values = torch.zeros(300, 3, 64, 64)
    for rows in (slice(0, 6), slice(58, 64)):
        for columns in (slice(0, 6), slice(58, 64)):
            pixel_values[:, :, rows, columns] = 1.0
    moved = random_geometry(pixel_values, single(300))
    area = moved.mean(dim=(1, 2, 3)) / pixel_values.mean(dim=(1, 2, 3))
    assert float(area.min()) > 0.5  # the smallest is shrunk to 0.8 of its edges, and turned
    quarters = moved.unfold(2, 32, 32).unfold(3, 32, 32).sum(dim=(1, 4, 5))
    assert float(quarters.min()) > 3 * 36 * 0.4


def test_colour_changes_every_photo_within_bounds_and_erases_little() -> None:
    torch.manual_seed(0)
    pixel_values = torch.rand(200, 3, 64, 64) - 0.5
    changed = random_colour(pixel_values)
    difference = (changed - pixel_values).abs()
    assert float(difference.mean(dim=(1, 2, 3)).min()) > 0.005
    assert float(difference.max()) < 1.5
    erased = (changed == 0).all(dim=1).float().mean(dim=(1, 2))
    assert float(erased.mean()) > 0
    assert float(erased.max()) < 0.03
    assert torch.isfinite(changed).all()


def test_mixed_photos_have_targets_mixed_alike() -> None:
    torch.manual_seed(0)
    targets = torch.eye(5).repeat(20, 1)
    # Photos that show their label: what is in the picture must be what the target says.
    pixel_values = torch.arange(5.0).repeat(20)[:, None, None, None].expand(-1, 3, 4, 4)
    partner, share = single(100).roll(1), mixing_shares(single(100))
    mixed_targets = mixed(targets, partner, share)
    torch.testing.assert_close(mixed_targets.sum(dim=1), torch.ones(100))
    shown = mixed(pixel_values, partner, share)[:, 0, 0, 0]
    torch.testing.assert_close(mixed_targets @ torch.arange(5.0), shown)
    assert 0.3 < float((mixed_targets.amax(dim=1) < 0.99).float().mean()) < 0.95


def test_photos_of_a_run_are_flipped_turned_and_mixed_alike_or_nearly_so() -> None:
    torch.manual_seed(0)
    run = torch.arange(50).repeat_interleave(2)
    original = photos(50).repeat_interleave(2, dim=0)
    flipped = random_flip(original, run)
    assert torch.equal(flipped[::2], flipped[1::2])
    assert not torch.equal(flipped, original)
    moves = random_moves(run)
    assert torch.equal(moves[::2], moves[1::2])
    moves = random_moves(run, torch.full((100,), APART))
    apart = (moves[::2] - moves[1::2]).abs().mean()
    assert 0 < float(apart) < 0.1 * float((moves[:-2] - moves[2:]).abs().mean())
    assert torch.equal(mixing_shares(run)[::2], mixing_shares(run)[1::2]) is False  # drawn anew
    share = mixing_shares(run)
    assert torch.equal(share[::2], share[1::2])


def flip(pixel_values: torch.Tensor) -> torch.Tensor:
    return random_flip(pixel_values, single(len(pixel_values)))


def move(pixel_values: torch.Tensor) -> torch.Tensor:
    return random_geometry(pixel_values, single(len(pixel_values)))


@pytest.mark.parametrize("change", [flip, move, random_colour])
def test_the_same_random_state_gives_the_same_photos(
    change: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    original = normalize(photos(8), [0.5] * 3, [0.5] * 3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first, second = change(original), change(original)
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert torch.equal(change(original), first)
