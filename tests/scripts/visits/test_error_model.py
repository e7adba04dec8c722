import json
from pathlib import Path

import numpy as np
import pytest

import audit
from paths import real_path
from visits.error_model import (
    ErrorModel,
    fit_error_model,
    read_error_model,
    write_error_model,
)
from visits.training_records import training_error_model

COUNTS = (1, 2, 3, 4, 5)


def test_a_pair_counts_for_both_directions() -> None:
    fitted = fit_error_model(["1", "2", "3", "4"], ["1", "1", "1", "1"], [3, 2, 3, 5])
    assert fitted == ErrorModel({(2, 3): 2, (3, 5): 1})
    assert fitted.num_pairs == 3


def test_without_pairs_an_error_of_one_more_item_is_half_as_frequent() -> None:
    table = ErrorModel().record_probabilities(COUNTS)
    assert table[2] == pytest.approx(np.array([1, 2, 0, 2, 1]) / 6)
    assert table[0] == pytest.approx(np.array([0, 8, 4, 2, 1]) / 15)


def test_many_pairs_outweigh_what_was_believed_before() -> None:
    pairs = {(1, 2): 30_000, (1, 5): 10_000}
    table = ErrorModel(pairs).record_probabilities(COUNTS)
    assert table[0] == pytest.approx([0, 0.75, 0, 0, 0.25], abs=1e-3)
    assert np.all(table[~np.eye(5, dtype=bool)] > 0)  # nothing is impossible


@pytest.mark.parametrize("counts", [(1, 2), (0, 1, 2, 3, 4, 5), (3, 7, 20), tuple(range(89))])
def test_rows_are_distributions_over_other_counts(counts: tuple[int, ...]) -> None:
    table = ErrorModel({(1, 2): 7, (2, 3): 1}).record_probabilities(counts)
    assert table.sum(axis=1) == pytest.approx(np.ones(len(counts)))
    assert not np.diag(table).any()


def test_with_one_count_there_is_no_wrong_record() -> None:
    assert ErrorModel().record_probabilities((4,)).tolist() == [[0.0]]


def test_a_model_folder_keeps_its_error_model(tmp_path: Path) -> None:
    assert read_error_model(tmp_path) is None
    fitted = ErrorModel({(1, 2): 3, (2, 5): 1})
    write_error_model(tmp_path, fitted)
    assert read_error_model(tmp_path) == fitted
    assert [path.name for path in tmp_path.iterdir()] == ["error_model.json"]


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"pairs": [[1, 2]]}', '{"pairs": [[2, 1, 3]]}']
    + [
        "[" * 100_000,
        '{"pairs": [[1, 2,\0\0\0\0\0\0\0',
        '{"pairs": [[1, 2, -3]]}',
        '{"pairs": [["1", "2", 3]]}',
        '{"pairs": [[1, 2, 0.5]]}',
    ],
)
def test_a_damaged_file_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "error_model.json").write_text(content)
    with pytest.raises(ValueError, match=r"error_model\.json is damaged"):
        read_error_model(tmp_path)


def test_a_damaged_file_says_what_the_damage_is(tmp_path: Path) -> None:
    for content, reason in (("{}", "KeyError: 'pairs'"), ('{"pairs": [[', "Expecting value")):
        (tmp_path / "error_model.json").write_text(content)
        with pytest.raises(ValueError, match=rf"is damaged \({reason}.*--fit_error_model"):
            read_error_model(tmp_path)


def test_the_entry_adds_it_to_a_finished_model(
    dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text("{}")
    audit.main(["--fit_error_model", str(dataset_dir), "--model", str(tmp_path)])
    written = read_error_model(tmp_path)
    assert written is not None
    assert written == training_error_model(dataset_dir)
    assert written.num_pairs > 10
    assert f"{written.num_pairs:,} pairs" in capsys.readouterr().out


def test_training_leaves_it_in_the_model_folder(run_dir: Path, dataset_dir: Path) -> None:
    assert read_error_model(run_dir / "model") == training_error_model(dataset_dir)


def test_what_is_no_model_or_no_dataset_is_refused_in_one_line(
    dataset_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for dataset, reason in ((dataset_dir, "holds no model"), (tmp_path, "not a finished dataset")):
        with pytest.raises(SystemExit) as exit_info:
            audit.main(["--fit_error_model", str(dataset), "--model", str(tmp_path)])
        assert exit_info.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert reason in line
        (tmp_path / "config.json").write_text("{}")


@pytest.mark.slow
def test_most_real_picks_and_stows_are_of_one_item(tmp_path: Path) -> None:
    lists = []
    for path in sorted(real_path("abid/metadata").glob("*.json"))[:2000]:
        record = json.loads(path.read_text())
        lists.append((path.stem, record["EXPECTED_QUANTITY"], set(record["BIN_FCSKU_DATA"])))
    ids: list[str] = []
    groups: list[str] = []
    counts: list[int] = []
    for (bin_id, count, items), (_, _, previous) in zip(lists[1:], lists, strict=False):
        groups.append(groups[-1] if groups and items & previous else bin_id)
        ids.append(bin_id)
        counts.append(count)
    fitted = fit_error_model(ids, groups, counts)
    by_one = sum(number for (low, high), number in fitted.pairs.items() if high - low == 1)
    assert fitted.num_pairs > 500
    assert by_one / fitted.num_pairs > 0.7


@pytest.mark.parametrize("flags", [[], ["--model", "m", "--bins", "b"]])
def test_fitting_takes_the_model_and_nothing_else(
    flags: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        audit.main(["--fit_error_model", "data/bins", *flags])
    assert exit_info.value.code == 2
    assert "takes --model FOLDER, and nothing else" in capsys.readouterr().err
