"""Put the endpoint's handler into a model folder, where SageMaker looks for it.

train.py and export_model.py do so by themselves. deploy.py does it again with this checkout's, by
`python -m serving.served_code MODEL_FOLDER` in scripts/.
"""

import json
import re
import shutil
from pathlib import Path

from one_line_parser import OneLineErrorsParser
from output_files import whole_file

CODE_FOLDER = "code"
REQUIREMENTS = "requirements.txt"
WRITTEN = "written_files.json"  # names of the files that come from here: all else is somebody's own
SCRIPTS = Path(__file__).parent.parent
# inference.py and all that it imports.
SERVED = (
    *("inference.py", "count_distribution.py", "one_line_parser.py", "output_files.py"),
    *("serving/bin_counter.py", "serving/bin_requests.py", "serving/local_server.py"),
    *("serving/photo_checks.py", "serving/request_errors.py", "serving/s3_photos.py"),
    *("serving/url_fetch.py", "visits/settings.py", "visits/chain.py", "visits/error_model.py"),
    *("serving/visit_answers.py", "visits/neighbours.py", "visits/head.py"),
    *("side_heads.py", "likeliest_weights.py", "items/settings.py", "items/evidence.py"),
    *("items/sizes.py", "items/heads.py", "items/measured.py", "items/answers.py"),
    *("items/measures.py", "items/steps.py", "serving/record_answers.py"),
)
SIMPLEJPEG = "simplejpeg==1.9.0"  # scripts/requirements.txt has the same
_HEAD = """# What the inference container lacks; the toolkit installs it as the server starts.
# Never torch, transformers, Pillow or numpy, which the container holds.
"""


def check_served_code(model_dir: Path) -> None:
    """Check that code/ of a model folder has nothing of others where the handler goes.

    Raises: ValueError: it has, and they are named.
    """
    code = model_dir / CODE_FOLDER
    if foreign := sorted({*SERVED, REQUIREMENTS, WRITTEN} & _files_in(code) - _written_by_us(code)):
        raise ValueError(
            f"{code} holds files that are not this project's ({', '.join(foreign)}): choose "
            "another model folder, or move them away."
        )


def write_served_code(model_dir: Path, *requirements: str) -> None:
    """Write code/ of a model folder, in place of what an earlier version left; all else stays.

    Args:
        requirements: pinned packages that the handler needs for this model.

    Raises: ValueError: what is there is not of an earlier version.
    """
    check_served_code(model_dir)
    code = model_dir / CODE_FOLDER
    files = {*SERVED, REQUIREMENTS, WRITTEN}
    written = _written_by_us(code) | files
    # Before the first one is written, or a run that is killed here would find them to be foreign.
    _write_names(code, written)
    for name in (written - files) & _files_in(code):  # never what a name such as ../x leads to
        (code / name).unlink()
    lines = "".join(f"{requirement}\n" for requirement in requirements)
    with whole_file(code / REQUIREMENTS) as temporary:
        temporary.write_text(_HEAD + lines)
    for name in SERVED:
        with whole_file(code / name) as temporary:
            shutil.copyfile(SCRIPTS / name, temporary)
    _write_names(code, files)


def _written_by_us(code: Path) -> set[str]:
    """Return the names of the files in code/ that an earlier call, or an earlier version, wrote."""
    try:
        if (code / WRITTEN).exists():
            return set(json.loads((code / WRITTEN).read_text()))
        # Versions before that file was written left their mark here.
        is_ours = (code / REQUIREMENTS).read_text().startswith(_HEAD)
    except (OSError, ValueError, TypeError):
        return set()
    return {*SERVED, REQUIREMENTS} if is_ours else set()


def _files_in(code: Path) -> set[str]:
    return {path.relative_to(code).as_posix() for path in code.rglob("*") if path.is_file()}


def _write_names(code: Path, names: set[str]) -> None:
    with whole_file(code / WRITTEN) as temporary:
        temporary.write_text(json.dumps(sorted(names), indent=2) + "\n")


def needed_by_export(model_dir: Path) -> list[str]:
    """Return the pinned packages that an exported model needs: none where nothing was exported.

    simplejpeg, which sees the JPEGs that lost a part, comes along where something is installed
    anyway; it alone is not worth that a container needs a network.

    Raises: ValueError: its record names no version, but something else that pip would act on.
    """
    record = model_dir / "openvino" / "export.json"
    if not record.is_file():
        return []
    version = str(json.loads(record.read_text()).get("openvino"))
    if not re.fullmatch(r"\d+(\.\d+)*", version):
        raise ValueError(f"{record} names no version of openvino: export the model again.")
    return [SIMPLEJPEG, f"openvino=={version}"]


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
