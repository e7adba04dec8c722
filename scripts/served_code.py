"""Put the endpoint's handler into a model folder, where SageMaker looks for it."""

import shutil
from pathlib import Path

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
