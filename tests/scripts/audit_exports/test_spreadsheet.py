import csv
import re
from pathlib import Path

import pytest

from auditing.verdicts import FORMULA
from exported_audits import MARKUP, Audited


@pytest.fixture(scope="module")
def folder(audited: Audited, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audited.export("csv", tmp_path_factory.mktemp("exports") / "csv")


@pytest.fixture(scope="module")
def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "bins.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_table_has_every_bin_with_what_decisions_csv_says_and_its_probabilities(
    rows: list[dict[str, str]], audited: Audited
) -> None:
    with (audited.folder / "decisions.csv").open(newline="", encoding="utf-8") as file:
        decisions = list(csv.DictReader(file))
    assert [{name: row[name] for name in decisions[0]} for row in rows] == decisions
    for row in rows:
        shares = [row[f"probability_{count}"] for count in (1, 2, 3, 4, 5)]
        if row["most_likely_count"]:
            assert sum(map(float, shares)) == pytest.approx(1, abs=1e-5)
            likeliest = max(range(5), key=lambda column: float(shares[column])) + 1
            assert row["most_likely_count"] == str(likeliest)
        else:
            assert shares == [""] * 5


def test_photos_lie_beside_it_as_they_were_under_names_that_lead_nowhere_else(
    rows: list[dict[str, str]], folder: Path, audited: Audited
) -> None:
    with audited.bins.open(newline="") as file:
        given = [audited.photos / row["photo"] for row in csv.DictReader(file)]
    for row, photo in zip(rows, given, strict=True):
        if row["id"] == "no photo":
            assert row["photo"] == ""
            continue
        assert re.fullmatch(r"photos/\d{7}_[A-Za-z0-9._-]{1,80}\.(jpg|png)", row["photo"])
        assert (folder / row["photo"]).read_bytes() == photo.read_bytes()
    names = [row["photo"] for row in rows if row["photo"]]
    assert len(set(names)) == len(names) == len(list((folder / "photos").iterdir())) == 10
    assert {path.relative_to(folder).parts[0] for path in folder.rglob("*")} == {
        "bins.csv",
        "photos",
    }


def test_a_spreadsheet_runs_nothing_of_it(rows: list[dict[str, str]]) -> None:
    for row in rows:
        for name, cell in row.items():
            # A change such as -1 is a number.
            assert name == "more_than_neighbour" or not FORMULA.match(cell)
    assert rows[2]["items"] == f"2 × {MARKUP}; 1 × =1+1"
