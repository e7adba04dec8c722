"""An audit as the arrays that cleanlab takes: labels and probabilities, and which bin each row is.

    labels, pred_probs = numpy.load("labels.npy"), numpy.load("pred_probs.npy")
    cleanlab.filter.find_label_issues(labels, pred_probs)

The label is the record, and the probabilities are what the photo alone says: what other visits and
the record's items say knows the record already. Cleanlab takes photos for such that the model was
not trained on, as those of a test split are.
"""

import csv
from pathlib import Path

import numpy as np

from audit_exports.audited_bins import Audit
from auditing.verdicts import harmless


def write_cleanlab(audit: Audit, folder: Path) -> int:
    """Write the bins with a photo and a record among the model's counts; return how many.

    labels.npy: int64 (num_bins,), columns of pred_probs.npy: float64 (num_bins, num_counts), of
    which counts.npy, int64 (num_counts,), says the items; ids.csv has a line a bin, in their order.
    """
    labels: list[int] = []
    probabilities: list[tuple[float, ...]] = []
    with (folder / "ids.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(["id", "expected_quantity"])
        for a_bin in audit.bins(with_photos=False):
            if a_bin.probabilities and a_bin.expected in audit.counts:
                labels.append(audit.counts.index(a_bin.expected))
                probabilities.append(a_bin.probabilities)
                writer.writerow([harmless(a_bin.id), a_bin.expected])
    np.save(folder / "labels.npy", np.array(labels, dtype=np.int64))
    shape = (len(labels), len(audit.counts))
    np.save(folder / "pred_probs.npy", np.array(probabilities, dtype=np.float64).reshape(shape))
    np.save(folder / "counts.npy", np.array(audit.counts, dtype=np.int64))
    return len(labels)
