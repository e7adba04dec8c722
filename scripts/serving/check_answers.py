"""Print what the heads beside a model say of the photos of a run's check.json, as JSON.

Who takes a model folder from elsewhere compares it with what check.json holds, by
`python -m serving.check_answers MODEL_FOLDER CHECK_JSON` in scripts/. push_to_hub.py does so.
"""

import base64
import json
from pathlib import Path

import numpy as np

from one_line_parser import OneLineErrorsParser, reason_of
from serving.bin_counter import BinCounter
from serving.photo_checks import decode_photo
from visits.chain import possible_changes


def check_answers(
    model_dir: Path, photo_png: bytes, earlier_png: bytes | None
) -> dict[str, list[float]]:
    """Return the answers of the heads to a photo, and to the change from another one to it.

    They are those of the safetensors: nothing that was exported is asked.

    Returns: change_probabilities, (num_changes,), and volume_change, (2,), where there is another
        photo; item_answers where there are item heads.
    Raises: ValueError: no model, or one without a change head. RequestError: no such photo.
    """
    counter = BinCounter(model_dir, num_threads=1, use_export=False)
    preparation = counter.preparation

    def decoded(png: bytes) -> np.ndarray:
        return decode_photo(png, preparation.size, preparation.resample)

    photo = decoded(photo_png)
    items = counter.look([photo]).items
    answers = {} if items is None else {"item_answers": items[0].tolist()}
    if earlier_png is None:
        return answers
    if not counter.tells_changes:
        raise ValueError(f"{model_dir} has no change head: copy the model folder again.")
    _, views = counter.look_for_changes([decoded(earlier_png), photo])
    said = counter.changes(views[:1], views[1:])[0].tolist()
    num_changes = len(possible_changes(counter.counts))
    answers["change_probabilities"] = said[:num_changes]
    return answers | ({"volume_change": said[num_changes:]} if said[num_changes:] else {})


def main(argv: list[str] | None = None) -> None:
    """Print the answers to the photos of a check."""
    parser = OneLineErrorsParser(__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL_FOLDER", help="model folder of a run")
    parser.add_argument("check", type=Path, metavar="CHECK_JSON", help="with a photo, or two")
    arguments = parser.parse_args(argv)
    try:
        check = json.loads(arguments.check.read_text())
        photo, earlier = check["photo_png_base64"], check.get("earlier_photo_png_base64")
        earlier_png = None if earlier is None else base64.b64decode(earlier)
        answers = check_answers(arguments.model, base64.b64decode(photo), earlier_png)
        print(json.dumps(answers))
    except Exception as error:  # files of strangers: the libraries raise nearly anything
        parser.error(reason_of(error))


if __name__ == "__main__":
    main()
