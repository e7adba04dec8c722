"""Put the endpoint's handler into a model folder, where SageMaker looks for it.

train.py and export_model.py do so by themselves. deploy.py does it again with this checkout's, by
`python -m serving.served_code MODEL_FOLDER` in scripts/.
"""

import json
import re
import shutil
from pathlib import Path

from one_line_parser import OneLineErrorsParser

CODE_FOLDER = "code"
SCRIPTS = Path(__file__).parent.parent
# inference.py and all that it imports.
SERVED = (
    *("inference.py", "count_distribution.py", "one_line_parser.py"),
    *("serving/bin_counter.py", "serving/bin_requests.py", "serving/local_server.py"),
    *("serving/photo_checks.py", "serving/request_errors.py", "serving/s3_photos.py"),
    "serving/url_fetch.py",
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
        (code / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(SCRIPTS / name, code / name)
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
