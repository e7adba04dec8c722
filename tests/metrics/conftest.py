"""What the tests of metrics share."""

import csv
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def limit_of_csv_fields() -> Iterator[None]:
    """Give back the limit that parse_logs.py raises for its process, which is that of the tests."""
    limit = csv.field_size_limit()
    yield
    csv.field_size_limit(limit)
