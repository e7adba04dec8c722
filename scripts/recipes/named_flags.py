"""Flags that belong together, in files beside this one: NAME.json is a recipe of train.py."""

import json
from pathlib import Path
from typing import Any

RECIPES = Path(__file__).parent


def recipe_names() -> list[str]:
    """Return the names that --recipe takes."""
    return sorted(path.stem for path in RECIPES.glob("*.json"))


def flags_named(name: str) -> dict[str, Any]:
    """Return the flags of a recipe. Raises: ValueError: there is no such recipe."""
    if name not in recipe_names():
        raise ValueError(f"--recipe {name}: give {', '.join(recipe_names())}.")
    return flags_in(RECIPES / f"{name}.json")


def flags_in(path: Path) -> dict[str, Any]:
    """Return the flags in a JSON file: all of its object, or of a recipe what it calls flags.

    Raises: ValueError: not a JSON object. OSError: it cannot be read.
    """
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    flags = values.get("flags", values) if isinstance(values, dict) else values
    if not isinstance(flags, dict):
        raise ValueError(f'{path}: expected a JSON object such as {{"do_train": true}}.')
    return flags
