import csv
import io
import json
from pathlib import Path

import pytest
from PIL import Image

import audit
from exported_audits import MARKUP, Audited


@pytest.fixture(scope="session")
def audited(run_dir: Path, bucket: Path, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    """Return an audit of eleven bins, of which one has no photo, and two have no count."""
    folder = tmp_path_factory.mktemp("audited")
    photos = sorted((bucket / "bin-images").iterdir())
    png = io.BytesIO()
    Image.open(photos[0]).save(png, format="PNG")
    (folder / "photo.png").write_bytes(png.getvalue())
    (folder / "cut.jpg").write_bytes(photos[1].read_bytes()[:500])
    items = json.dumps([{"name": MARKUP, "quantity": 2}, {"name": "=1+1", "quantity": 1}])
    rows = [
        ("plain", photos[0], "1", ""),
        ("../../evil", photos[1], "2", ""),
        ("=1+1", photos[2], "3", items),
        ("x" * 300, photos[3], "4", ""),
        ("same", photos[4], "5", ""),
        ("same", photos[5], "1", ""),
        ("png", folder / "photo.png", "2", ""),
        ("no photo", "nowhere.jpg", "2", ""),
        ("no number", photos[6], "two", ""),
        ("many", photos[7], "12", ""),
        ("cut", folder / "cut.jpg", "3", ""),
    ]
    with (folder / "bins.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "photo", "expected_quantity", "items"), *rows])
    made = Audited(folder / "audit", folder / "bins.csv", folder)
    flags = ["--model", run_dir / "model", "--bins", made.bins, "--photos", made.photos]
    with pytest.raises(SystemExit) as exit_info:
        audit.main([str(flag) for flag in [*flags, "--output_dir", made.folder]])
    assert exit_info.value.code == 1  # some have no decision
    return made
