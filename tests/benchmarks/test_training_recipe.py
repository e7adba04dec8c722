import re

import numpy as np
import pyarrow as pa
import pytest

from training.command_line import make_parser, parse_arguments
from training_recipe import (
    CHOSEN,
    EVERY_RECIPE,
    SWITCHES,
    flags_of,
    name_of,
    paired_table,
    settings_beside,
)


def predictions(expected: np.ndarray, counts: np.ndarray, groups: list[str]) -> pa.Table:
    """Return a table of predictions that are sure of one count."""
    columns = {f"probability_{k}": (counts == k).astype(float) for k in (1, 2, 3)}
    return pa.table(
        {"bin_group": groups, "expected_quantity": expected, "count": counts, **columns}
    )


def figures(table: str, row: int) -> list[float]:
    return [float(number) for number in re.findall(r"[-+]?\d+\.\d+", table.splitlines()[2 + row])]


def test_every_switch_is_set_to_on_or_to_off() -> None:
    flags = flags_of(["loss"])
    assert flags[:2] == ["--loss", "soft_labels"]
    assert flags.count("false") == len(SWITCHES) - 1


def test_the_chosen_recipe_is_what_train_does_by_default() -> None:
    required = ["--config_name", "vit_demo", "--dataset_dir", "d", "--do_train"]
    chosen = [*flags_of(CHOSEN), *EVERY_RECIPE]
    by_default, as_chosen = (
        parse_arguments(make_parser(None), flags)[2].to_dict()
        for flags in (required, [*required, *chosen])
    )
    assert by_default == as_chosen


def test_a_setting_has_one_name_however_it_is_written() -> None:
    assert name_of([*SWITCHES]) == "all"
    assert name_of([name for name in SWITCHES if name != "mixup"]) == "all_but_mixup"
    assert name_of(["mixup", "loss"]) == name_of(["loss", "mixup"]) == "loss_mixup"
    assert name_of([]) == "none"


def test_a_setting_is_screened_with_all_that_differ_from_it_in_one_switch() -> None:
    names = [name_of(setting) for setting in settings_beside(["loss", "mixup"])]
    assert names[:2] == ["loss_mixup", "none"]
    assert set(names[2:]) == {
        *("mixup", "loss", "loss_geometry_mixup", "loss_colour_mixup", "loss_mixup_regularize"),
        *("loss_mixup_changes", "loss_mixup_items"),
    }
    assert len({name_of(setting) for setting in settings_beside([*SWITCHES])}) == 9


def test_the_difference_is_that_of_the_means_over_the_seeds() -> None:
    expected = np.array([1, 2, 3, 1, 2, 3, 1, 2, 3, 1] * 20)
    groups = [str(index) for index in range(200)]
    right, all_twos = expected.copy(), np.full(200, 2)
    table = paired_table(
        {
            "chosen": [predictions(expected, counts, groups) for counts in (right, all_twos)],
            "published": [predictions(expected, all_twos, groups)] * 2,
        }
    )
    # All right and 30 % right, against 30 % right twice.
    chosen, *_, published, _, _, difference, low, high = figures(table, 0)
    assert (chosen, published, difference) == (65.0, 30.0, 35.0)
    assert low < 35 < high
    assert figures(table, 1)[-3] == -50.0


def test_photos_of_one_group_count_as_one() -> None:
    generator = np.random.default_rng(0)
    expected = np.repeat(generator.integers(1, 4, size=50), 10)
    counts = np.where(np.repeat(generator.random(50) < 0.5, 10), expected, expected % 3 + 1)
    twos = np.full(500, 2)
    widths = []
    for groups in (np.repeat(np.arange(50), 10), np.arange(500)):
        names = [str(group) for group in groups]
        runs = {"a": [predictions(expected, counts, names)]}
        table = paired_table({**runs, "b": [predictions(expected, twos, names)]})
        widths.append(figures(table, 0)[2] - figures(table, 0)[1])
    assert widths[0] == pytest.approx(np.sqrt(10) * widths[1], rel=0.1)
