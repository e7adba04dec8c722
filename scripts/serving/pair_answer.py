"""Print what a model folder says of two photos of one bin: a probability for each change, as JSON.

Who takes a model folder from elsewhere compares it with what the run's check.json holds, by
`python -m serving.pair_answer MODEL_FOLDER CHECK_JSON` in scripts/. push_to_hub.py does so.
"""

import base64
import json
from pathlib import Path

from one_line_parser import OneLineErrorsParser, reason_of
from serving.bin_counter import BinCounter
from serving.photo_checks import decode_photo


def pair_answer(model_dir: Path, earlier_png: bytes, later_png: bytes) -> list[float]:
    """Return the probabilities of the changes from one photo to another, (num_changes,).

    They are those of the safetensors: nothing that was exported is asked.

    Raises: ValueError: no model, or one without a change head. RequestError: no such photo.
    """
    counter = BinCounter(model_dir, num_threads=1, use_export=False)
    if not counter.tells_changes:
        raise ValueError(f"{model_dir} has no change head: copy the model folder again.")
    preparation = counter.preparation
    photos = [
        decode_photo(png, preparation.size, preparation.resample)
        for png in (earlier_png, later_png)
    ]
    _, views = counter.look_for_changes(photos)
    return counter.changes(views[:1], views[1:])[0].tolist()


def main(argv: list[str] | None = None) -> None:
    """Print the answer to the photos of a check."""
    parser = OneLineErrorsParser(__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL_FOLDER", help="model folder of a run")
    parser.add_argument("check", type=Path, metavar="CHECK_JSON", help="with two photos")
    arguments = parser.parse_args(argv)
    try:
        check = json.loads(arguments.check.read_text())
        pngs = [check[name] for name in ("earlier_photo_png_base64", "photo_png_base64")]
        print(json.dumps(pair_answer(arguments.model, *map(base64.b64decode, pngs))))
    except Exception as error:  # files of strangers: the libraries raise nearly anything
        parser.error(reason_of(error))


if __name__ == "__main__":
    main()
