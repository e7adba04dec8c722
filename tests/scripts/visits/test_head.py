import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForImageClassification

from model_families import drawn_model
from side_heads import save_side_heads, without_side_heads
from visits.chain import ChainWeights
from visits.head import (
    WIDTH,
    ChangeHead,
    attach_head,
    head_of,
    load_head,
)
from visits.settings import ChangeSettings, read_settings, write_settings

SETTINGS = ChangeSettings(
    counts=(1, 2, 3),
    num_features=32,
    learned_rate=0.2,
    unchanged_rate=0.01,
    weights=ChainWeights(0.4, 0.6, 0.5),
)


def photos(num_photos: int, image_size: int) -> torch.Tensor:
    return torch.randn(
        num_photos, 3, image_size, image_size, generator=torch.Generator().manual_seed(1)
    )


def answers(model: Any, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of the counts, and of the changes from photo to photo."""
    head = head_of(model)
    assert head is not None
    with torch.no_grad():
        logits = model(pixel_values=pixel_values).logits
        projected = head.projected()
        return logits, head(projected[:-1], projected[1:])


@pytest.mark.parametrize("family", ["vit", "resnet", "swin", "convnext"])
def test_a_head_sees_places_and_leaves_the_models_answers_alone(family: str) -> None:
    model = drawn_model(family)
    size = getattr(model.config, "image_size", 64)
    pixel_values = photos(3, size)
    with torch.no_grad():
        before = model(pixel_values=pixel_values).logits
    names = set(model.state_dict())
    attach_head(model, 5, size)
    model.eval()
    logits, changes = answers(model, pixel_values)
    assert torch.equal(logits, before)
    assert changes.shape == (2, 5)
    assert set(without_side_heads(model.state_dict())) == names
    # Moved to another place, the same features are another photo to it, if the network sees places.
    assert not torch.allclose(*changes)


def test_the_answer_backwards_is_the_mirror_of_the_answer_ahead() -> None:
    torch.manual_seed(0)
    head = ChangeHead(16, 9).eval()
    before, after = torch.randn(2, 4, 10, 512)
    assert torch.equal(head(before, after), head(after, before).flip(-1))
    same = head(before, before)
    assert torch.equal(same, same.flip(-1))


def test_a_temperature_divides_all_answers() -> None:
    head = ChangeHead(16, 9).eval()
    before, after = torch.randn(2, 4, 10, 512)
    undivided = head(before, after)
    head.divide_logits(2.5)
    torch.testing.assert_close(head(before, after), undivided / 2.5)


def test_a_copy_of_a_model_looks_through_its_own_eyes() -> None:
    model = drawn_model("vit")
    attach_head(model, 5, 64)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(1.1)
    pixel_values = photos(3, 64)
    own, others = answers(model.eval(), pixel_values)[1], answers(copied.eval(), pixel_values)[1]
    assert not torch.allclose(own, others)
    assert torch.equal(own, answers(model, pixel_values)[1])
    assert not head_of(model).seen  # type: ignore[union-attr]  # nothing is held


def test_what_is_saved_is_loaded_again_beside_a_model_that_knows_nothing_of_it(
    tmp_path: Path,
) -> None:
    model = drawn_model("vit")
    attach_head(model, 5, 64)
    model.eval()
    pixel_values = photos(3, 64)
    expected = answers(model, pixel_values)
    model.save_pretrained(tmp_path, state_dict=without_side_heads(model.state_dict()))
    save_side_heads(model.state_dict(), tmp_path)
    write_settings(tmp_path, SETTINGS)
    assert read_settings(tmp_path) == SETTINGS
    loaded, report = AutoModelForImageClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values())
    assert load_head(loaded, tmp_path, 64) == SETTINGS
    for got, wanted in zip(answers(loaded.eval(), pixel_values), expected, strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"counts": 3}', "\0", '{"weights": {"a": 1}}']
)
def test_damaged_settings_are_one_line(content: str, tmp_path: Path) -> None:
    assert read_settings(tmp_path) is None
    (tmp_path / "change_head.json").write_text(content)
    with pytest.raises(ValueError, match=r"change_head.json is damaged .*copy the model folder"):
        read_settings(tmp_path)


def test_a_damaged_head_is_one_line(tmp_path: Path) -> None:
    model = drawn_model("vit")
    with pytest.raises(ValueError, match=r"change_head.json is missing"):
        load_head(model, tmp_path, 64)
    write_settings(tmp_path, SETTINGS)
    for content in (b"", b"{", b"\x08\0\0\0\0\0\0\0{}      "):
        (tmp_path / "change_head.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"change_head.safetensors cannot be loaded"):
            load_head(drawn_model("vit"), tmp_path, 64)
    content_of = json.loads((tmp_path / "change_head.json").read_text())
    assert content_of["weights"] == {"photo": 0.4, "change": 0.6, "usual": 0.5}


def test_a_heat_map_says_where_two_photos_differ() -> None:
    torch.manual_seed(0)
    head = ChangeHead(num_features=8, num_changes=5).eval()
    generator = torch.Generator().manual_seed(1)
    before = torch.randn(3, 16, 2 * WIDTH, generator=generator)
    after = before.clone()
    after[:, 5] += 0.01 * torch.randn(3, 2 * WIDTH, generator=generator)
    changes = (-2, -1, 0, 1, 2)
    maps = head.heat_maps(before, after, changes)
    assert maps.shape == (3, 16)
    assert (maps[:, 5] != 0).all()
    assert not maps[:, torch.arange(16) != 5].any()
    torch.testing.assert_close(head.heat_maps(after, before, changes), -maps)
    # Of so little a difference the map is all that the answer leans by.
    with torch.no_grad():
        lean = head(before, after) @ torch.tensor(changes).float()
    torch.testing.assert_close(maps.sum(dim=1), lean, rtol=0.02, atol=1e-5)
