"""Python imports this as it starts, where debug.py --debugpy put the folder on PYTHONPATH.

The process that runs train.py, the first one where several train together, waits here for an IDE.
"""

import os
import sys


def script(command_line: list[str]) -> str:
    """Return what an interpreter runs: the first word of its command line that is no option."""
    return next((word for word in command_line[1:] if not word.startswith("-")), "")


if script(sys.orig_argv) == "train.py" and os.environ.get("RANK", "0") == "0":
    import debugpy  # type: ignore[import-not-found]

    host, _, port = os.environ["DEBUGPY_LISTEN"].partition(":")
    debugpy.listen((host, int(port)))
    print(f"Waiting for an IDE: attach debugpy to 127.0.0.1:{port}", flush=True)
    debugpy.wait_for_client()
