"""What a killed run has read is trusted only where it is whole."""

from pathlib import Path

import pytest

from catalog.bin_records import BinRecord
from catalog.parts import CatalogParts
from object_store import open_store


def test_a_part_with_zeros_in_it_is_named_and_read_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = open_store(str(tmp_path))
    records = [BinRecord(f"{number:05d}", number % 6, ("B0",), (1,)) for number in range(500)]
    with CatalogParts(store, "parts", "source") as parts:
        for record in records:
            parts.add(record)
    (path,) = (tmp_path / "parts").iterdir()
    content, num_damaged = path.read_bytes(), 0
    for at in range(4, len(content) - 100, len(content) // 20):
        path.write_bytes(content[:at] + bytes(100) + content[at + 100 :])
        kept = CatalogParts(store, "parts", "source").table()
        # Where zeros hit what nobody needs, the records are what they were.
        if kept.num_rows == 0:
            assert f"parts/{path.name} is damaged (" in capsys.readouterr().err
            assert not path.exists()
            num_damaged += 1
        else:
            path.write_bytes(content)
            assert kept.equals(CatalogParts(store, "parts", "source").table())
    assert num_damaged > 10
