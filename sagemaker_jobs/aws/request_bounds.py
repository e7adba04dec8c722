"""A request against the bounds that AWS states in its own service model, before it is sent.

botocore carries the model with each service's least and most, lengths, patterns and choices, and
checks only the least of them: all else comes back as a refusal, after the code or a model of half a
gigabyte was uploaded.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import botocore.session
from botocore.model import ListShape, MapShape, Shape, StringShape, StructureShape

# A map of request fields to the flags that say them; one that maps to this has a flag for each key.
KEYS_ARE_FLAGS = "--"
# What Java's regular expressions have and Python's lack: AWS states its patterns in Java's.
JAVA_PATTERNS = {
    r"\uD800\uDC00-\uDBFF\uDFFF": r"\U00010000-\U0010FFFF",
    r"[\p{Print}]": r"[\x20-\x7E]",
    r"\p{Print}": r"[\x20-\x7E]",
    r"\p{ASCII}": r"[\x00-\x7F]",
    r"\p{Alnum}": r"a-zA-Z0-9",
    # In a class of characters; \w holds the underscore too, which that class names as well.
    r"\p{L}\p{Z}\p{N}": r"\w\x20\xA0\u1680\u2000-\u200A\u2028\u2029\u202F\u205F\u3000",
    r"\z": r"\Z",
}
MOST_SHOWN = 60  # characters of a value


def check_bounds(
    service: str, operation: str, parameters: Mapping[str, Any], flags: Mapping[str, str]
) -> None:
    """Check a request against what AWS's model says of it.

    Args:
        service: botocore's name, such as sagemaker.
        operation: such as CreateTrainingJob.
        parameters: the request. What botocore itself checks, such as unknown fields, is left to it.
        flags: the flag that says a field, by the field's own name, for it and all that is in it.

    Raises: ValueError: a value is out of bounds; the message names the flag, or else the field.
    """
    shape = _service_model(service).operation_model(operation).input_shape
    for path, fault in _faults(shape, parameters, ()):
        raise ValueError(f"{_named(path, flags)}{fault}")


@functools.cache
def _service_model(service: str) -> Any:
    return botocore.session.get_session().get_service_model(service)


def _faults(
    shape: Shape, value: Any, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield where a value is out of bounds, outermost first, and what is wrong there."""
    if fault := _fault(shape, value):
        yield path, fault
    if isinstance(shape, StructureShape) and isinstance(value, Mapping):
        for name, member in shape.members.items():
            if name in value:
                yield from _faults(member, value[name], (*path, name))
    elif isinstance(shape, ListShape) and isinstance(value, list | tuple):
        for item in value:
            yield from _faults(shape.member, item, path)
    elif isinstance(shape, MapShape) and isinstance(value, Mapping):
        for key, item in value.items():
            yield from _faults(shape.key, key, (*path, str(key)))
            yield from _faults(shape.value, item, (*path, str(key)))


def _fault(shape: Shape, value: Any) -> str | None:
    """Return what is wrong with one value, what is in it left aside."""
    size: float
    if isinstance(value, Mapping | Sequence) and not isinstance(value, bytes):
        size, unit = len(value), "characters" if isinstance(value, str) else "values"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        size, unit = value, ""
    else:
        return None
    shown = _shown(value)
    least, most = (shape.metadata.get(bound) for bound in ("min", "max"))
    if most is not None and size > most:
        of = f"{size:,} {unit}" if unit else shown
        return f"{of}: AWS takes {f'{most:,} {unit}'.strip()} at most."
    if least is not None and size < least:
        of = f"{size:,} {unit}" if unit else shown
        return f"{of}: AWS takes {f'{least:,} {unit}'.strip()} at least."
    if not isinstance(value, str):
        return None
    choices = shape.enum if isinstance(shape, StringShape) else None
    if choices and value not in choices:
        return f"{shown}: AWS knows {', '.join(choices[:4])}{', ...' * (len(choices) > 4)}."
    pattern = shape.metadata.get("pattern")
    if pattern and not compiled(pattern).fullmatch(value):
        return f"{shown}: AWS takes only what fits {pattern}"
    return None


def _shown(value: Any) -> str:
    """Return a value as a line shows it."""
    text = " ".join(str(value).split())
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


@functools.cache
def compiled(pattern: str) -> re.Pattern[str]:
    """Return a pattern of AWS's, which are written for Java, in Python's terms."""
    for java, python in JAVA_PATTERNS.items():
        pattern = pattern.replace(java, python)
    return re.compile(pattern)


def _named(path: tuple[str, ...], flags: Mapping[str, str]) -> str:
    """Return what a user calls a field: its flag, or its path in the request."""
    for depth in reversed(range(len(path))):
        flag = flags.get(path[depth])
        if flag == KEYS_ARE_FLAGS and depth + 1 < len(path):
            return f"{KEYS_ARE_FLAGS}{path[depth + 1]} "
        if flag and flag != KEYS_ARE_FLAGS:
            return f"{flag} "
    return f"{'.'.join(path)} "
