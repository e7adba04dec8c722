"""What README and docs say is there: links lead somewhere, files exist, commands parse.

A command is parsed by its entry itself, which is started as a person starts it and stopped once it
has read its flags. Flags that an entry hands on (a launcher's for train.py) are parsed by theirs.
"""

import argparse
import io
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataset.flags import make_parser as make_build_dataset_parser
from paths import ROOT
from training.command_line import make_parser as make_train_parser

PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
PAGES += [ROOT / "docker_debugging/README.md"]
FOLDERS = (
    *("data_prep", "scripts", "sagemaker_jobs", "docker_debugging", "metrics", "tests"),
    *("benchmarks", "docs"),
)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
# Not what a run writes, such as model/code/inference.py or runs/scripts.log.
NAMED_PATH = re.compile(rf"(?<![\w/.-])(?:{'|'.join(FOLDERS)})/[\w./*-]*[\w*/]")
NAMED_MODULE = re.compile(r"(?<![\w/.*-])[a-z]\w*\.py\b")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:cd \w+ && )?(?:python|make) [^`]+)`")
MAKE = re.compile(r"(?<![\w-])make ([a-z0-9-]+)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """Return a page without its blocks of code."""
    return BLOCK.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {heading.strip().replace(" ", "-") for heading in plain}


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    """Return the paths of all files of the project, and of the folders that hold them."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    files = {Path(line) for line in listed.splitlines() if (ROOT / line).exists()}
    return {str(path) for file in files for path in (file, *file.parents)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        if re.match(r"https?:|mailto:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} leads nowhere"
        assert not anchor or anchor in anchors(linked), f"{target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_is_named_exists(page: Path, tracked: set[str]) -> None:
    text = page.read_text()
    names = {Path(path).name for path in tracked}
    for path in NAMED_PATH.findall(text):
        is_there = any(ROOT.glob(path)) if "*" in path else path.rstrip("/") in tracked
        assert is_there, f"there is no {path}"
    for module in NAMED_MODULE.findall(text):
        assert module in names, f"there is no {module}"


def test_readme_is_two_screens_and_a_page_can_be_read_in_one_sitting() -> None:
    lengths = {name_of(page): len(page.read_text().splitlines()) for page in PAGES}
    assert 150 <= lengths.pop("README.md") <= 250
    assert max(lengths.values()) <= 400, lengths


def test_the_version_has_one_home_and_the_changelog_tells_of_it() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == version
    assert citation["license"] == "Apache-2.0"
    headings = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert version in headings[:2]


def test_every_form_for_issues_can_be_filled_in() -> None:
    forms = sorted(
        path for path in ROOT.glob(".github/ISSUE_TEMPLATE/*.yml") if path.stem != "config"
    )
    assert len(forms) == 3
    for path in forms:
        form = yaml.safe_load(path.read_text())
        assert {"name", "description", "body"} <= form.keys()
        ids = [field["id"] for field in form["body"]]
        assert len(ids) == len(set(ids))
        assert any(field.get("validations", {}).get("required") for field in form["body"])


def test_contributing_is_read_in_one_sitting() -> None:
    assert 60 <= len((ROOT / "CONTRIBUTING.md").read_text().splitlines()) <= 120


def test_every_page_is_on_the_map() -> None:
    linked = {target.partition("#")[0] for target in LINK.findall((ROOT / "README.md").read_text())}
    assert {f"docs/{page.name}" for page in ROOT.glob("docs/*.md")} <= linked


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_make_target_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = [block for language, block in BLOCK.findall(page.read_text()) if language == "bash"]
    code += INLINE.findall(prose(page))
    for target in MAKE.findall("\n".join(code)):
        assert target in targets, f"make {target}: there is no such target"


class ParsedError(BaseException):
    """Stops an entry that has read its flags; nothing that an entry catches."""

    def __init__(self, rest: list[str]) -> None:
        super().__init__()
        self.rest = rest


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """Yield the commands of a page that run Python, each with the folder that it runs in.

    A command in a sentence may be shortened by dots; one that is shown in a block is whole.
    """
    text = page.read_text()
    lines = [
        line
        for language, block in BLOCK.findall(text)
        if language == "bash"
        for line in block.replace("\\\n", " ").splitlines()
    ]
    lines += [code for code in INLINE.findall(prose(page)) if "..." not in code]
    for line in lines:
        folder = "."
        for command in re.split(r"&&|\|\||[|;](?=\s)", line.partition(" #")[0]):
            if moved := re.fullmatch(r"cd (\w+)", command.strip()):
                folder = moved[1]
            elif re.search(r"\bpython3? |torchrun ", command):
                yield command.strip(), folder


def parsed(script: Path, flags: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Start an entry until it has parsed its flags; return those that it hands on.

    Raises: ValueError: in the entry's words, flags that it does not take.
    """
    depth = 0

    def stopping(original: Callable[..., Any], hands_on: bool) -> Callable[..., Any]:
        def parse(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            # A subcommand's parser runs inside; one without help looks for one flag alone.
            if depth or not self.add_help:
                return original(self, *args, **kwargs)
            depth += 1
            result = original(self, *args, **kwargs)
            raise ParsedError(result[1] if hands_on else [])

        return parse

    with monkeypatch.context() as patch:
        for name, hands_on in (("parse_args", False), ("parse_known_args", True)):
            original = getattr(argparse.ArgumentParser, name)
            patch.setattr(argparse.ArgumentParser, name, stopping(original, hands_on))
        patch.setattr(sys, "argv", [str(script), *flags])
        with redirect_stderr(io.StringIO()) as errors:
            try:
                runpy.run_path(str(script), run_name="__main__")
            except ParsedError as stop:
                return stop.rest
            except SystemExit:
                raise ValueError(errors.getvalue().strip().splitlines()[-1]) from None
    raise ValueError(f"{script} parses no flags")


def check(command: str, folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that a command's entry takes its flags, run in a folder of the project.

    Raises: ValueError: it does not.
    """
    words = shlex.split(command)
    if "-c" in words or "pip" in words:  # a program of its own, or pip's
        return
    if "-m" in words:
        module = words[words.index("-m") + 1]
        if module in ("venv", "pytest"):
            return
        path = ROOT / folder / f"{module.replace('.', '/')}.py"
        if not path.exists():
            raise ValueError(f"there is no module {module} in {folder}")
        flags = words[words.index(module) + 1 :]
        if flags or "parse_args(" in path.read_text():
            parsed(path, flags, monkeypatch)
        return
    script = next((word for word in words if word.endswith(".py")), None)
    if script is None or not (ROOT / folder / script).exists():
        raise ValueError(f"there is no {script}")
    flags = words[words.index(script) + 1 :]
    if ">" in flags:
        flags = flags[: flags.index(">")]
    rest = parsed(ROOT / folder / script, flags, monkeypatch)
    if rest:
        prepares = script.endswith("prepare_data.py")
        parser = make_build_dataset_parser(None) if prepares else make_train_parser(None)
        required = ["--output_dir", "OUT"] if prepares else []
        with redirect_stderr(io.StringIO()) as errors:
            try:
                parser.parse_args([*required, *rest])
            except SystemExit:
                raise ValueError(errors.getvalue().strip()) from None


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_parses(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []
    for command, folder in commands(page):
        try:
            check(command, folder, monkeypatch)
        except ValueError as error:
            refused.append(f"{command}\n  {error}")
    assert not refused, "\n".join(refused)


@pytest.mark.parametrize(
    "command",
    [
        "python scripts/train.py --dataset_dir data/bins --learning_rte 3e-4",
        "python sagemaker_jobs/vit.py --dataset s3://BUCKET/bins --spott",
        "python sagemaker_jobs/vit.py --local --num_train_epoch 3",
        "python sagemaker_jobs/prepare_data.py --max_bin 3",
        "python sagemaker_jobs/job_report.py attach JOB --price 3",
        "python scripts/audit.py --model",
        "torchrun --nproc_per_node 4 scripts/train.py --do_trainn",
        "python scripts/gone.py",
        "python -m stand_ins.flaky_server http://127.0.0.1:8080",  # without cd tests
    ],
)
def test_a_misspelt_command_is_found(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"unrecognized|expected one argument|there is no"):
        check(command, ".", monkeypatch)
