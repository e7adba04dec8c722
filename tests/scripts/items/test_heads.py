import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributions, nn
from transformers import AutoModelForImageClassification

from items.evidence import MOST_CONTENTS, Powers, UsualItems
from items.heads import ItemHeads, attach_item_heads, item_heads_of, item_loss, load_item_heads
from items.settings import ItemSettings, read_settings, write_settings
from items.sizes import SIZES
from model_families import drawn_model
from side_heads import save_side_heads, without_side_heads

NAN = float("nan")
PHOTOS = torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
TARGETS = torch.tensor([[5.0, 4.0, 3.0, 1.0, 2], [7.0, 7.0, 7.0, NAN, 1], [NAN, NAN, NAN, 0.5, 3]])


def answers_of(model: nn.Module) -> torch.Tensor:
    heads = item_heads_of(model)
    assert heads is not None
    with torch.no_grad():
        model(pixel_values=PHOTOS)
        return heads()


@pytest.mark.parametrize("family", ["vit", "resnet", "swin", "convnext"])
def test_heads_begin_with_what_is_usual_and_leave_the_models_answers_alone(family: str) -> None:
    model = drawn_model(family)
    with torch.no_grad():
        before = model(pixel_values=PHOTOS).logits
    heads = attach_item_heads(model, 3, 64)
    heads.start_from(TARGETS)
    model.eval()
    nn.init.zeros_(heads.answers.weight)
    nn.init.zeros_(heads.answers.bias)
    answers = answers_of(model)
    assert answers.shape == (3, 2 * len(SIZES) + 3)
    usual = [TARGETS[~TARGETS[:, column].isnan(), column] for column in range(len(SIZES))]
    for column, known in enumerate(usual):
        torch.testing.assert_close(answers[:, column], known.mean().expand(3))
        spread = answers[:, len(SIZES) + column].exp()
        torch.testing.assert_close(spread, known.std().expand(3))
    with torch.no_grad():
        assert torch.equal(model(pixel_values=PHOTOS).logits, before)


def test_a_size_that_all_bins_share_is_no_reason_to_divide_by_nothing() -> None:
    heads = ItemHeads(8, 3)
    targets = torch.tensor([[1.1, NAN, 2.0, 3.0, 1], [1.1, NAN, 2.5, NAN, 1]]).double()
    heads.start_from(targets.repeat(1000, 1))  # sums of so many are rounded
    assert heads.scale.tolist()[:2] == [1.0, 1.0]
    assert heads.center.tolist()[:2] == pytest.approx([1.1, 0])
    assert heads.scale.isfinite().all()


def test_the_loss_is_the_likelihood_of_what_is_known() -> None:
    generator = torch.Generator().manual_seed(0)
    answers = torch.randn(3, 2 * len(SIZES) + 3, generator=generator)
    means, spreads, logits = answers.split([len(SIZES), len(SIZES), 3], dim=1)
    normal = distributions.Normal(means, spreads.exp())
    is_known = ~TARGETS[:, :-1].isnan()
    likely = torch.where(is_known, normal.log_prob(TARGETS[:, :-1].nan_to_num()), 0.0)
    constant = is_known.sum(dim=1) * torch.tensor(2 * torch.pi).log() / 2
    of_distinct = distributions.Categorical(logits=logits).log_prob(TARGETS[:, -1] - 1)
    expected = -(likely.sum(dim=1) + constant + of_distinct) / (len(SIZES) + 1)
    torch.testing.assert_close(item_loss(answers, TARGETS), expected)


def test_what_is_missing_costs_nothing() -> None:
    answers = torch.zeros(2, 2 * len(SIZES) + 3, requires_grad=True)
    # Three distinct items are told at most.
    loss = item_loss(answers, torch.tensor([[NAN, NAN, NAN, NAN, 4.0], [NAN] * 5]))
    loss.sum().backward()
    assert loss.tolist() == [0, 0]
    assert answers.grad is not None
    assert answers.grad.abs().sum() == 0


def test_calibration_widens_spreads_and_divides_logits_and_moves_no_mean() -> None:
    model = drawn_model("vit")
    heads = attach_item_heads(model, 3, 64)
    model.eval()
    means, spreads, logits = answers_of(model).split([len(SIZES), len(SIZES), 3], dim=1)
    factors = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
    heads.calibrate(factors, temperature=2.5)
    wider = torch.cat([means, spreads + factors.log().float(), logits / 2.5], dim=1)
    torch.testing.assert_close(answers_of(model), wider)


def test_what_is_saved_is_loaded_again_beside_a_model_that_knows_nothing_of_it(
    tmp_path: Path,
) -> None:
    model = drawn_model("vit")
    heads = attach_item_heads(model, 3, 64)
    heads.start_from(TARGETS)
    model.eval()
    expected = answers_of(model)
    state = model.state_dict()
    model.save_pretrained(tmp_path, state_dict=without_side_heads(state))
    save_side_heads(state, tmp_path)
    settings = ItemSettings(3, spread_factors=(1.0, 1.5, 2.0, 0.5), temperature=1.25)
    write_settings(tmp_path, settings)
    loaded, report = AutoModelForImageClassification.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not any(report.values())
    assert load_item_heads(loaded, tmp_path, 64) == settings
    assert torch.equal(answers_of(loaded.eval()), expected)


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{}", "\0", '{"max_distinct": 3}', '{"sizes": 3, "spread_factors": null}'],
)
def test_damaged_settings_are_one_line(content: str, tmp_path: Path) -> None:
    assert read_settings(tmp_path) is None
    (tmp_path / "item_heads.json").write_text(content)
    with pytest.raises(ValueError, match=r"item_heads.json is damaged .*copy the model folder"):
        read_settings(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [({"sizes": ["length"]}, "its heads tell other sizes"), ({"max_distinct": 0}, "no number")],
)
def test_settings_of_other_heads_are_one_line(
    wrong: dict[str, Any], said: str, tmp_path: Path
) -> None:
    write_settings(tmp_path, ItemSettings(3))
    path = tmp_path / "item_heads.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(ValueError, match=rf"item_heads.json is damaged .*{said}"):
        read_settings(tmp_path)


def test_damaged_heads_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"item_heads.json is missing"):
        load_item_heads(drawn_model("vit"), tmp_path, 64)
    write_settings(tmp_path, ItemSettings(3))
    assert json.loads((tmp_path / "item_heads.json").read_text())["spread_factors"] is None
    for content in (b"", b"{", b"\x08\0\0\0\0\0\0\0{}      "):
        (tmp_path / "item_heads.safetensors").write_bytes(content)
        with pytest.raises(ValueError, match=r"item_heads.safetensors cannot be loaded"):
            load_item_heads(drawn_model("vit"), tmp_path, 64)


USUAL = UsualItems(
    counts=(1, 2),
    means=((4.0, 0.0), (4.5, 0.5)),
    spreads=((1.0, 1.0), (0.9, 0.8)),
    distinct=((1.0,), (1.0,)),
    volumes=(5.0,) * MOST_CONTENTS,
    weights=(0.1,) * MOST_CONTENTS,
)
POWERS = Powers(0.8, 0.7, 0.0, 0.3)


def test_what_is_usual_is_read_again(tmp_path: Path) -> None:
    settings = ItemSettings(1, usual=USUAL, powers=POWERS, num_pairs=9)
    write_settings(tmp_path, settings)
    assert read_settings(tmp_path) == settings


@pytest.mark.parametrize(
    "wrong",
    [
        {"usual": [1]},
        {"usual": "x"},
        {"usual": {}},
        {"usual": {**asdict(USUAL), "means": "abc"}},
        {"usual": {**asdict(USUAL), "counts": [1]}},
        {"usual": {**asdict(USUAL), "volumes": [5.0]}},
        {"usual": {**asdict(USUAL), "spreads": [[1.0, 0.0], [1.0, 1.0]]}},
        {"usual": {**asdict(USUAL), "weights": [float("nan")] * MOST_CONTENTS}},
        {"powers": {**asdict(POWERS), "count": "a"}},
        {"powers": {**asdict(POWERS), "volume": -1}},
        {"powers": 3},
    ],
)
def test_what_is_not_usual_is_one_line(wrong: dict[str, Any], tmp_path: Path) -> None:
    write_settings(tmp_path, ItemSettings(1, usual=USUAL, powers=POWERS))
    path = tmp_path / "item_heads.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | wrong))
    with pytest.raises(ValueError, match=r"item_heads.json is damaged .*copy the model folder"):
        read_settings(tmp_path)
