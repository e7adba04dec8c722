"""An audit that is exported, and what strangers may have written into it."""

from dataclasses import dataclass
from pathlib import Path

import pytest

import export_audit
from paths import ROOT

PROGRAMS = ROOT / ".venv-exports" / "bin"
MARKUP = '<script>alert("x")</script>'


@dataclass(frozen=True)
class Audited:
    """An audit's folder, and the csv and photos that it is of."""

    folder: Path
    bins: Path
    photos: Path

    def export(self, to: str, output_dir: Path) -> Path:
        """Export by the entry's own flags; return the export's folder."""
        flags = ["--audit", self.folder, "--bins", self.bins, "--photos", self.photos, "--to", to]
        export_audit.main([str(flag) for flag in [*flags, "--output_dir", output_dir]])
        return output_dir


def program(name: str) -> Path:
    """Return a program of those that exports are for, or skip the test that asks for it."""
    if not (PROGRAMS.parent / ".installed").exists():
        pytest.skip("make test-exports installs FiftyOne and Label Studio")
    return PROGRAMS / name
