from pathlib import Path

import pytest
import torch

from items.heads import attach_item_heads
from model_families import drawn_model
from side_heads import (
    position_features,
    read_side_heads,
    save_side_heads,
    side_heads,
    without_side_heads,
)
from visits.head import attach_head


def test_tokens_that_stand_for_no_place_are_left_out() -> None:
    tokens = torch.arange(11.0)[None, :, None].expand(1, 11, 4)
    assert position_features(tokens)[0, :, 0].tolist() == list(range(2, 11))
    feature_map = torch.arange(12.0).reshape(1, 2, 2, 3)
    assert position_features(feature_map).shape == (1, 6, 2)
    assert position_features(feature_map)[0, 1].tolist() == [1, 7]
    with pytest.raises(ValueError, match="has no positions"):
        position_features(torch.zeros(1, 4))


def test_each_head_lies_in_a_file_of_its_own(tmp_path: Path) -> None:
    model = drawn_model("vit")
    names = set(model.state_dict())
    assert side_heads(model) == {}
    save_side_heads(model.state_dict(), tmp_path)
    assert not list(tmp_path.iterdir())
    attach_head(model, 5, 64)
    attach_item_heads(model, 3, 64)
    state = model.state_dict()
    assert set(without_side_heads(state)) == names
    save_side_heads(state, tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files == {"change_head.safetensors", "item_heads.safetensors"}
    read = read_side_heads(model, tmp_path)
    assert set(read) == set(state) - names
    assert all(torch.equal(read[name], state[name]) for name in read)
