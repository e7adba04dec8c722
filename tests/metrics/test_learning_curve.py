import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

import learning_curve

NUM_BINS = 400
SIZES = {950: 0.55, 1_900: 0.47, 3_800: 0.40}  # training photos, and the share that is wrong


def write_run(folder: Path, num_photos: int, seed: int, wrong: float, **flags: object) -> Path:
    """Write a run that is wrong by one item in a share of its test bins."""
    generator = np.random.default_rng(0)
    expected = generator.integers(1, 5, NUM_BINS)
    is_wrong = np.random.default_rng(seed).random(NUM_BINS) < wrong
    count = expected + is_wrong
    certain = np.eye(5)[count - 1] * 0.6 + 0.08
    folder.mkdir(parents=True)
    columns = {f"probability_{c + 1}": certain[:, c] for c in range(5)}
    table = pa.table(
        {
            "id": [str(number) for number in range(NUM_BINS)],
            "bin_group": [str(number // 2) for number in range(NUM_BINS)],
            **{"expected_quantity": expected, "count": count, **columns},
        }
    )
    pq.write_table(table, folder / "predictions_test.parquet")
    arguments = {"do_train": True, "seed": seed, "learning_rate": 1e-3, "mixup": True, **flags}
    (folder / "arguments.json").write_text(json.dumps(arguments))
    (folder / "all_results.json").write_text(json.dumps({"train_samples": num_photos}))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    return [
        write_run(tmp_path / f"{size}-{seed}", size, seed, wrong)
        for size, wrong in SIZES.items()
        for seed in (1, 2)
    ]


def cell(text: str) -> tuple[float, float, float]:
    value, _, bounds = text.strip().partition(" ")
    low, high = bounds.strip("[]").split(", ")
    return float(value), float(low), float(high)


def test_the_table_has_the_means_of_each_number_and_what_others_would_give(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "curve.png"
    argv = [*map(str, runs), "--num_photos", "20000", "1000000", "--output", str(picture)]
    learning_curve.main(argv)
    said = capsys.readouterr().out
    rows = [line.strip("|").split("|") for line in said.splitlines() if line.startswith("|")]
    measured = {row[0].strip(): row for row in rows}
    assert [int(measured[name][1]) for name in ("950", "1,900", "3,800")] == [2, 2, 2]
    accuracies = [cell(measured[name][2]) for name in ("950", "1,900", "3,800")]
    for (value, low, high), wrong in zip(accuracies, SIZES.values(), strict=True):
        assert low < value < high
        assert value == pytest.approx(100 - 100 * wrong, abs=6)
    for name in ("20,000", "1,000,000"):
        value, low, high = cell(measured[name][1])
        assert low <= value <= high <= 100
        assert value >= accuracies[-1][0]  # more photos never count worse
        _, low, high = cell(measured[name][2])
        assert 0 <= low <= high
    widths = [np.diff(cell(measured[name][1])[1:])[0] for name in ("20,000", "1,000,000")]
    assert widths[0] < widths[1]  # the further, the less sure
    assert "differ in" not in said
    assert "Single runs" not in said
    with Image.open(picture) as image:
        assert image.width > 1_000


def test_means_of_other_runs_vary_as_the_runs_say(tmp_path: Path) -> None:
    """By their standard error; resampling a few runs alone would say too little."""
    evaluation = learning_curve.read_run(write_run(tmp_path / "run", 950, 1, 0.5)).evaluation
    shares = [0.4, 0.5, 0.65]  # of all bins alike: no bin is another's
    runs = [
        learning_curve.Run(
            size,
            {},
            replace(
                evaluation,
                probabilities=np.tile([share, 0, 0, 0, 1 - share], (NUM_BINS, 1)),
                expected=np.ones(NUM_BINS, int),
            ),
        )
        for size in SIZES
        for share in shares
    ]
    curve = learning_curve.curve_of(runs)
    assert curve.drawn[2].std() == pytest.approx(0, abs=1e-9)
    expected = np.std(-np.log(shares), ddof=1) / np.sqrt(len(shares))
    np.testing.assert_allclose(curve.drawn_runs[2].std(axis=0), expected, rtol=0.05)


def test_a_run_that_only_tested_counts_the_photos_of_its_model(
    runs: list[Path], tmp_path: Path
) -> None:
    trained = write_run(tmp_path / "trained", 7_000, 3, 0.35)
    (trained / "model").mkdir()
    tested = write_run(
        tmp_path / "tested", 1, 3, 0.35, do_train=False, model_name_or_path=str(trained / "model")
    )
    (tested / "all_results.json").unlink()
    assert learning_curve.read_run(tested).num_photos == 7_000


def test_runs_of_different_recipes_are_named(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # A flag of which the others' records know nothing came later.
    flags = {"learning_rate": 1.0, "mixup": False, "newer_flag": 1}
    other = write_run(tmp_path / "other", 500, 9, 0.6, **flags)
    learning_curve.main([*map(str, runs), str(other)])
    assert "differ in learning_rate, mixup, too" in capsys.readouterr().out


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as exit_info:
        learning_curve.main(argv)
    assert exit_info.value.code == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    return line


def test_bad_input_is_one_line(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(run) for run in runs]
    assert "2 different numbers of photos" in refusal(names[:4], capsys)
    assert "is missing" in refusal([*names, str(tmp_path / "nowhere")], capsys)
    assert "number of 1 or more" in refusal([*names, "--num_photos", "0"], capsys)

    table = pq.read_table(runs[0] / "predictions_test.parquet")
    pq.write_table(table.slice(1), runs[0] / "predictions_test.parquet")
    assert "different test splits" in refusal(names, capsys)

    pq.write_table(table, runs[0] / "predictions_test.parquet")
    (runs[0] / "all_results.json").write_text("{}")
    assert "how many photos" in refusal(names, capsys)

    alone = {"do_train": False, "model_name_or_path": "google/vit"}
    (runs[0] / "arguments.json").write_text(json.dumps(alone))
    assert "was not trained" in refusal(names, capsys)
