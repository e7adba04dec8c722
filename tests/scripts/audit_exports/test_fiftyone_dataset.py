import base64
import io
import json
import os
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest

from exported_audits import MARKUP, Audited, program

# What a person types, with FiftyOne's own code; its database may be a stand-in.
LOADED = """
import json, sys
import fiftyone
dataset = fiftyone.Dataset.from_dir(sys.argv[1], dataset_type=fiftyone.types.FiftyOneDataset)
dataset.compute_metadata()
print(json.dumps({
    "classes": dataset.default_classes,
    "tags": dataset.count_values("tags"),
    "labels": dataset.count_values("ground_truth.label"),
    "samples": [
        {
            "bin_id": sample.bin_id,
            "width": sample.metadata and sample.metadata.width,
            "record": sample.ground_truth and sample.ground_truth.label,
            "prediction": sample.prediction and sample.prediction.label,
            "confidence": sample.prediction and sample.prediction.confidence,
            "logits": sample.prediction and sample.prediction.logits.tolist(),
            "probability_wrong": sample.probability_wrong,
            "decision": sample.decision,
            "items": sample["items"],
        }
        for sample in dataset
    ],
}))
"""


@pytest.fixture(scope="module")
def folder(audited: Audited, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return audited.export("fiftyone", tmp_path_factory.mktemp("exports") / "fiftyone")


def test_samples_hold_record_prediction_and_decision(folder: Path, audited: Audited) -> None:
    samples = json.loads((folder / "samples.json").read_text())["samples"]
    assert [sample["bin_id"] for sample in samples][:3] == ["plain", "../../evil", "=1+1"]
    assert len(samples) == 10  # one bin has no photo
    of_dataset = json.loads((folder / "metadata.json").read_text())
    fields = {field["name"] for field in of_dataset["sample_fields"]}
    for sample in samples:
        assert sample.keys() <= fields
        assert (folder / sample["filepath"]).resolve().parent == folder / "data"
        assert sample["tags"] == [sample["decision"]]
        if (prediction := sample["prediction"]) is None:
            continue
        content = zlib.decompress(base64.b64decode(prediction["logits"]["$binary"]["base64"]))
        shares = np.exp(np.load(io.BytesIO(content)))
        assert shares.sum() == pytest.approx(1)
        assert prediction["confidence"] == pytest.approx(shares.max())
        assert of_dataset["default_classes"][shares.argmax()] == prediction["label"]
    by_id = {sample["bin_id"]: sample for sample in samples}
    assert by_id["no number"]["ground_truth"] is None
    assert by_id["cut"]["prediction"] is None
    assert by_id["cut"]["decision"] == "no decision"
    labels = [sample[name] for sample in samples for name in ("ground_truth", "prediction")]
    ids = [label["_id"]["$oid"] for label in labels if label]
    assert len(set(ids)) == len(ids)


def test_fiftyone_opens_the_folder(folder: Path, tmp_path: Path) -> None:
    loading = LOADED
    if "FIFTYONE_DATABASE_URI" not in os.environ:
        loading = "import stand_ins.mongo_database" + loading
    loaded = subprocess.run(
        [program("python"), "-c", loading, folder],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert loaded.returncode == 0, loaded.stderr
    found = json.loads(loaded.stdout.splitlines()[-1])
    assert found["classes"] == ["1", "2", "3", "4", "5"]
    assert sum(found["tags"].values()) == 10
    assert found["tags"]["no decision"] == 2
    assert found["labels"]["12"] == 1
    by_id = {sample["bin_id"]: sample for sample in found["samples"]}
    assert by_id["=1+1"]["items"] == [f"2 × {MARKUP}", "1 × =1+1"]
    assert (by_id["=1+1"]["record"], by_id["no number"]["record"]) == ("3", None)
    for name in ("plain", "png", "many"):
        sample = by_id[name]
        assert sample["width"] > 0
        shares = np.exp(sample["logits"])
        assert shares.max() == pytest.approx(sample["confidence"])
        assert sample["prediction"] == found["classes"][shares.argmax()]
    assert 0 < by_id["plain"]["probability_wrong"] < 1
    assert by_id["many"]["decision"] == "check by hand"
