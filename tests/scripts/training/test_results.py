import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from training.evaluation import softmax
from training.results import check_photo


def test_the_photo_is_the_same_every_time() -> None:
    photo = check_photo(32)
    assert photo.shape == (32, 32, 3)
    assert photo.tobytes() == check_photo(32).tobytes()
    assert photo.std() > 20


def test_a_run_keeps_what_its_model_answers_to_a_drawn_photo(run_dir: Path) -> None:
    check = json.loads((run_dir / "check.json").read_text())
    photo = Image.open(io.BytesIO(base64.b64decode(check["photo_png_base64"])))
    assert photo.size == (32, 32)
    probabilities = softmax(np.array([check["logits"]]))[0]
    answers = pipeline("image-classification", model=str(run_dir / "model"))(photo)
    for answer in answers:
        assert answer["score"] == pytest.approx(probabilities[int(answer["label"]) - 1], abs=1e-5)
