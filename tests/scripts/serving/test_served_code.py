import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from paths import ROOT
from serving.served_code import SERVED, SIMPLEJPEG, needed_by_export, write_served_code

SCRIPTS = ROOT / "scripts"


def test_all_that_the_handler_imports_travels_with_it() -> None:
    reached, left = set(), ["inference"]
    while left:
        name = left.pop()
        reached.add(path := f"{name.replace('.', '/')}.py")
        for node in ast.walk(ast.parse((SCRIPTS / path).read_text())):
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
                names += [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            paths = {name: f"{name.replace('.', '/')}.py" for name in names}
            own = [name for name in names if (SCRIPTS / paths[name]).exists()]
            left += [name for name in own if paths[name] not in reached]
    assert reached == set(SERVED)


def test_only_where_something_is_installed_anyway_simplejpeg_is_too(tmp_path: Path) -> None:
    assert needed_by_export(tmp_path) == []
    (tmp_path / "openvino").mkdir()
    (tmp_path / "openvino" / "export.json").write_text('{"openvino": "1.2.3"}')
    assert needed_by_export(tmp_path) == [SIMPLEJPEG, "openvino==1.2.3"]


def test_a_trained_model_folder_has_the_handler_which_runs_from_there(run_dir: Path) -> None:
    code = run_dir / "model" / "code"
    assert {str(path.relative_to(code)) for path in code.rglob("*.py")} == set(SERVED)
    requirements = (code / "requirements.txt").read_text().splitlines()
    assert all(line.startswith("#") for line in requirements)
    program = "import inference; print(inference.model_fn('..').counter.counts)"
    printed = subprocess.run(
        [sys.executable, "-c", program], cwd=code, check=True, capture_output=True, text=True
    ).stdout
    assert printed.strip() == "(1, 2, 3, 4, 5)"


def test_code_of_an_earlier_version_does_not_stay(tmp_path: Path) -> None:
    write_served_code(tmp_path)
    names = tmp_path / "code" / "written_files.json"
    names.write_text(json.dumps([*json.loads(names.read_text()), "old.py", "../kept.py"]))
    for name in ("code/old.py", "code/own.py", "kept.py"):
        (tmp_path / name).write_text("import os")
    write_served_code(tmp_path, "openvino==1.2.3")
    assert not (tmp_path / "code" / "old.py").exists()
    assert "openvino==1.2.3" in (tmp_path / "code" / "requirements.txt").read_text().splitlines()
    # What somebody else put there, and what a name leads to elsewhere.
    assert (tmp_path / "code" / "own.py").exists()
    assert (tmp_path / "kept.py").exists()


def test_code_of_others_is_named_and_left_alone(tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "serving").mkdir(parents=True)
    for name in ("inference.py", "serving/bin_counter.py", "requirements.txt", "app.py"):
        (code / name).write_text("my own")
    message = r"code holds files .*\(inference.py, requirements.txt, serving/bin_counter.py\)"
    with pytest.raises(ValueError, match=message):
        write_served_code(tmp_path)
    assert {path.read_text() for path in code.rglob("*") if path.is_file()} == {"my own"}


def test_code_from_before_its_files_were_recorded_is_replaced(tmp_path: Path) -> None:
    write_served_code(tmp_path)
    (tmp_path / "code" / "written_files.json").unlink()
    (tmp_path / "code" / "inference.py").write_text("import os")
    write_served_code(tmp_path)
    served = (tmp_path / "code" / "inference.py").read_text()
    assert served == (SCRIPTS / "inference.py").read_text()


def test_a_call_that_was_killed_anywhere_leaves_nothing_that_the_next_one_finds_foreign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copyfile, num_copied = shutil.copyfile, 0
    for killed_at in range(0, len(SERVED), 3):
        num_copied = 0

        def copy(source: Path, target: Path, killed_at: int = killed_at) -> None:
            nonlocal num_copied
            if num_copied == killed_at:
                raise KeyboardInterrupt
            num_copied += 1
            copyfile(source, target)

        monkeypatch.setattr(shutil, "copyfile", copy)
        with pytest.raises(KeyboardInterrupt):
            write_served_code(tmp_path / str(killed_at))
        monkeypatch.setattr(shutil, "copyfile", copyfile)
        write_served_code(tmp_path / str(killed_at))
