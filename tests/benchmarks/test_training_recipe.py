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
    screening_table,
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
    settled = [flag for flag, _, off in SWITCHES.values() if off is not None]
    assert flags[::2] == settled
    assert flags_of(["long"])[-2:] == ["--num_train_epochs", "16"]


def test_the_chosen_recipe_is_what_train_does_by_default() -> None:
    required = ["--config_name", "vit_demo", "--dataset_dir", "d", "--do_train"]
    chosen = [*flags_of(CHOSEN), *EVERY_RECIPE]
    by_default, as_chosen = (
        parse_arguments(make_parser(None), flags)[2].to_dict()
        for flags in (required, [*required, *chosen])
    )
    assert by_default == as_chosen


def test_a_setting_has_one_name_however_it_is_written() -> None:
    assert name_of(CHOSEN) == "default"
    assert name_of([name for name in reversed(CHOSEN) if name != "mixup"]) == "without_mixup"
    assert name_of([*CHOSEN, "loss"]) == name_of(["loss", *CHOSEN]) == "with_loss"
    assert name_of([]) == "plain"
    settings = settings_beside(CHOSEN, [*SWITCHES])
    assert len({name_of(setting) for setting in settings}) == len(SWITCHES) + 1


def test_a_setting_is_screened_with_all_that_differ_from_it_in_one_switch() -> None:
    base = ["geometry", "mixup"]
    assert settings_beside(base, ["mixup", "loss"]) == [
        ["geometry", "mixup"],
        ["geometry"],
        ["loss", "geometry", "mixup"],
    ]


def test_a_switch_is_worth_what_the_same_seeds_differ_by() -> None:
    def run(loss: float, best_epoch: float) -> dict[str, float]:
        figures = {"eval_loss": loss, "eval_accuracy": loss / 4, "eval_rmse": loss}
        return figures | {"best_epoch": best_epoch}

    table = screening_table(
        {"default": [run(1.0, 5), run(1.2, 6)], "with_loss": [run(1.2, 7), run(1.3, 8)]}
    )
    base, other = table.splitlines()[2:]
    assert base.startswith("| default | 5, 6 | 1.100 |  | 27.5 |  | 1.100 |  |")
    assert "| with_loss | 7, 8 | 1.250 | +0.150 [+0.100, +0.200] | 31.2 |" in other


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
