"""An audit as a folder that FiftyOne opens as one of its own, with all fields of a sample.

    fiftyone.Dataset.from_dir("exports/fiftyone", dataset_type=fiftyone.types.FiftyOneDataset)

It is what Dataset.export of that type writes: the dataset's and the samples' documents in MongoDB's
extended JSON, and data/ with the photos. Sources: fiftyone/utils/data/importers.py
(FiftyOneDatasetImporter), core/odm/dataset.py (SampleFieldDocument), core/fields.py (VectorField).
"""

import base64
import hashlib
import io
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from audit_exports.audited_bins import Audit, AuditedBin

# Whose documents these are: newer versions bring them to their own form, and read all since 0.19.
VERSION = "1.0.0"
SMALLEST = 1e-12  # of a probability, whose logarithm is a number then
FIELDS = "fiftyone.core.fields."
CLASSIFICATION = "fiftyone.core.labels.Classification"
NO_DECISION = "no decision"


def write_fiftyone(audit: Audit, folder: Path) -> int:
    """Write the bins that have a photo; return how many."""
    data = folder / "data"
    data.mkdir()
    num_bins = 0
    with (folder / "samples.json").open("w", encoding="utf-8") as file:
        file.write('{"samples": [')
        for a_bin in audit.bins():
            if a_bin.photo is None:
                continue
            (data / a_bin.photo_name).write_bytes(a_bin.photo)
            file.write(",\n" if num_bins else "\n")
            json.dump(sample_of(a_bin, audit), file)
            num_bins += 1
        file.write("\n]}\n")
    (folder / "metadata.json").write_text(json.dumps(dataset_of(audit), indent=2) + "\n")
    return num_bins


def dataset_of(audit: Audit) -> dict[str, Any]:
    """Return the document of the dataset, which names the fields of its samples."""
    return {
        "version": VERSION,
        "media_type": "image",
        "info": {"model": audit.model},
        "default_classes": [str(count) for count in audit.counts],
        "sample_fields": [
            field("id", "ObjectIdField", db_field="_id"),
            field("filepath", "StringField"),
            field("tags", "ListField", subfield=f"{FIELDS}StringField"),
            field(
                "metadata",
                "EmbeddedDocumentField",
                embedded_doc_type="fiftyone.core.metadata.ImageMetadata",
            ),
            field("_media_type", "StringField"),
            field("_rand", "FloatField"),
            field("_dataset_id", "ObjectIdField"),
            field("created_at", "DateTimeField", read_only=True),
            field("last_modified_at", "DateTimeField", read_only=True),
            classification_field("ground_truth"),
            classification_field("prediction"),
            field("bin_id", "StringField"),
            field("decision", "StringField"),
            field("probability_wrong", "FloatField"),
            field("suggested_count", "IntField"),
            field("expected_saving", "FloatField"),
            field("reason", "StringField"),
            field("items", "ListField", subfield=f"{FIELDS}StringField"),
        ],
    }


def field(name: str, kind: str, **others: Any) -> dict[str, Any]:
    """Return the document of a field."""
    return {"name": name, "ftype": f"{FIELDS}{kind}", "db_field": name, "fields": [], **others}


def classification_field(name: str) -> dict[str, Any]:
    """Return the document of a field that holds a label."""
    return field(
        name,
        "EmbeddedDocumentField",
        embedded_doc_type=CLASSIFICATION,
        fields=[
            field("id", "ObjectIdField", db_field="_id"),
            field("tags", "ListField", subfield=f"{FIELDS}StringField"),
            field("label", "StringField"),
            field("confidence", "FloatField"),
            field("logits", "VectorField"),
        ],
    )


def sample_of(a_bin: AuditedBin, audit: Audit) -> dict[str, Any]:
    """Return the document of a bin with a photo: the record is its ground truth."""
    decision = a_bin.cells["decision"] or NO_DECISION
    suggested = a_bin.number("suggested_count")
    prediction = None
    if a_bin.probabilities:
        likeliest = int(np.argmax(a_bin.probabilities))
        prediction = label_of(a_bin, audit, "prediction", str(audit.counts[likeliest])) | {
            "confidence": a_bin.probabilities[likeliest],
            "logits": vector(np.log(np.maximum(a_bin.probabilities, SMALLEST)).tolist()),
        }
    expected = a_bin.expected
    return {
        "filepath": f"data/{a_bin.photo_name}",
        "tags": [decision],
        "_media_type": "image",
        # By which FiftyOne draws samples at random: spread evenly, and the same each time.
        "_rand": a_bin.row * (5**0.5 - 1) / 2 % 1,
        "ground_truth": None
        if expected is None
        else label_of(a_bin, audit, "ground_truth", str(expected)),
        "prediction": prediction,
        "bin_id": a_bin.id,
        "decision": decision,
        "probability_wrong": a_bin.number("probability_wrong"),
        "suggested_count": None if suggested is None else int(suggested),
        "expected_saving": a_bin.number("expected_saving"),
        "reason": a_bin.cells["reason"],
        "items": a_bin.item_lines,
    }


def label_of(a_bin: AuditedBin, audit: Audit, name: str, label: str) -> dict[str, Any]:
    """Return the document of a label, with an id that no other label has."""
    own = hashlib.sha256(f"{audit.source.fingerprint} {a_bin.row} {name}".encode()).hexdigest()
    return {"_id": {"$oid": own[:24]}, "_cls": "Classification", "tags": [], "label": label}


def vector(values: Sequence[float]) -> dict[str, Any]:
    """Return an array as a VectorField holds it: numpy's own file, compressed."""
    content = io.BytesIO()
    np.save(content, np.asarray(values, dtype=np.float64), allow_pickle=False)
    encoded = base64.b64encode(zlib.compress(content.getvalue())).decode()
    return {"$binary": {"base64": encoded, "subType": "00"}}
