"""Where the tests find the project, and the real bins where there are any."""

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# Real bins (CC BY-NC-SA), which lie beside a developer's checkout and are never copied into it.
SHARED = ROOT.parent / "shared"


def real_path(name: str) -> Path:
    """Return a path among the real bins, or skip the test that asks for it."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs the real bins: no {name} beside this checkout")
    return path
