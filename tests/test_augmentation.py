import numpy as np
import torch
from PIL import Image
from transformers import ViTImageProcessor

from augmentation import normalize, random_flip


def photos(num_photos: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (num_photos, 3, 8, 6), dtype=torch.uint8, generator=generator)


def test_about_half_of_the_photos_are_mirrored_and_the_others_left_alone() -> None:
    torch.manual_seed(0)
    original = photos(400)
    flipped = random_flip(original)
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
