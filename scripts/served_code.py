"""Put the endpoint's handler into a model folder, where SageMaker looks for it.

    python scripts/served_code.py MODEL_FOLDER

train.py and export_model.py do so by themselves; deploy.py does it again with this checkout's.
"""

import json
import re
import shutil
from pathlib import Path

from one_line_parser import OneLineErrorsParser

CODE_FOLDER = "code"
# inference.py and all that it imports.
SERVED = (
    *("inference.py", "bin_counter.py", "bin_requests.py", "count_distribution.py"),
    *("local_server.py", "one_line_parser.py", "photo_checks.py", "request_errors.py"),
    *("s3_photos.py", "url_fetch.py"),
)
_HEAD = """# What the inference container lacks; the toolkit installs it as the server starts.
# Never torch, transformers, Pillow or numpy, which the container holds.
"""


def write_served_code(model_dir: Path, *requirements: str) -> None:
    """Write code/ of a model folder, in place of what an earlier version left.

    Args:
        requirements: pinned packages that the handler needs for this model.
    """
    code = model_dir / CODE_FOLDER
    shutil.rmtree(code, ignore_errors=True)
    code.mkdir(parents=True)
    for name in SERVED:
        shutil.copyfile(Path(__file__).parent / name, code / name)
    lines = "".join(f"{requirement}\n" for requirement in requirements)
    (code / "requirements.txt").write_text(_HEAD + lines)


def needed_by_export(model_dir: Path) -> list[str]:
    """Return the pinned packages that an exported model needs: none where nothing was exported.

    Raises: ValueError: its record names no version, but something else that pip would act on.
    """
    record = model_dir / "openvino" / "export.json"
    if not record.is_file():
        return []
    version = str(json.loads(record.read_text()).get("openvino"))
    if not re.fullmatch(r"\d+(\.\d+)*", version):
        raise ValueError(f"{record} names no version of openvino: export the model again.")
    return [f"openvino=={version}"]


def main(argv: list[str] | None = None) -> None:
    """Write code/ into a model folder."""
    parser = OneLineErrorsParser(__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL_FOLDER", help="model folder of a run")
    model_dir = parser.parse_args(argv).model
    try:
        if not (model_dir / "config.json").is_file():
            raise ValueError(f"{model_dir} is no model folder: it has no config.json.")
        write_served_code(model_dir, *needed_by_export(model_dir))
    except (ValueError, OSError, AttributeError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
