"""Push a trained model to the Hugging Face Hub, with a model card that says how well it counts.

    python sagemaker_jobs/push_to_hub.py runs/vit_base --repo_id USER/NAME --dry_run
    python sagemaker_jobs/push_to_hub.py s3://BUCKET/.../JOB/output/model.tar.gz --repo_id USER/NAME

Takes a run folder of scripts/train.py, or a finished job's model.tar.gz with output.tar.gz beside
it. The model has to answer as it did when it was trained, or nothing is sent. The repository is
private unless --public is given; a second push is a new commit. The token is that of
`hf auth login`, or HF_TOKEN.
"""

import argparse
import contextlib
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import HfApi, constants, get_token

# The client's own HTTPError: its newest releases have moved from httpx to httpx2.
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from aws.entry_parser import EntryParser
from publishing.model_card import PLOTS, TAG, model_card
from publishing.trained_run import TrainedRun, check_answers, find_run

REPORT = Path(__file__).resolve().parent.parent / "metrics" / "report.py"
CARD_HEAD = 60  # lines that --dry_run shows


def make_parser() -> EntryParser:
    """Return the parser of the flags."""
    parser = EntryParser(__doc__)
    parser.add_argument(
        "run", metavar="RUN_OR_MODEL", help="run folder, or model.tar.gz (or s3://)"
    )
    parser.add_argument("--repo_id", required=True, metavar="USER/NAME", help="where on the Hub")
    parser.add_argument(
        "--public", action="store_true", help="let everybody see it; the default is private"
    )
    parser.add_argument(
        "--dataset",
        type=Path,
        metavar="FOLDER",
        help="the dataset that the run was tested on: its photos are asked about, too",
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="list the files and print the head of the card; send nothing, ask for no token",
    )
    return parser


def main(argv: list[str] | None = None) -> None:
    """Push the run that the command line names."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    with (
        parser.errors_of_one_line(),
        hub_errors(arguments.repo_id),
        tempfile.TemporaryDirectory() as scratch,
    ):
        check_repo_id(arguments.repo_id)
        api = None
        if not arguments.dry_run:
            # Now, not after minutes of fetching and checking.
            api = logged_in(arguments.repo_id)
            check_repository(api, arguments.repo_id, arguments.public)
        run = find_run(arguments.run, Path(scratch))
        print(f"The model answers as recorded for {check_answers(run, arguments.dataset)}.")
        folder = Path(scratch) / "repository"
        write_repository(run, arguments.repo_id, folder)
        print(listing(folder))
        if api is None:
            head = (folder / "README.md").read_text().splitlines()[:CARD_HEAD]
            print("\n" + "\n".join(head) + "\n...\n\nNothing was sent.")
            print(f"Next: {shlex.join(command_of(arguments))}")
            return
        url = push(api, folder, arguments.repo_id, arguments.public)
    print(f"Pushed: {url}")
    ask = f"pipeline('image-classification', model='{arguments.repo_id}')('BIN.jpg')"
    print(f'Next: python -c "from transformers import pipeline; print({ask})"')


def command_of(arguments: argparse.Namespace) -> list[str]:
    """Return the command that pushes what a dry run has shown."""
    command = ["python", "sagemaker_jobs/push_to_hub.py", arguments.run]
    command += ["--repo_id", arguments.repo_id]
    command += ["--dataset", str(arguments.dataset)] if arguments.dataset else []
    return command + ["--public"] * arguments.public


@contextlib.contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turn what the Hub refuses, and a connection that breaks, into a ValueError of one line."""
    try:
        yield
    except HfHubHTTPError as error:
        status = error.response.status_code
        raise ValueError(
            {
                401: "the Hub does not know this token: run `hf auth login`, or mend HF_TOKEN.",
                403: f"this token may not write to {repo_id}: choose another --repo_id or token.",
            }.get(status, f"the Hub refused ({status}): {error.server_message or error}")
        ) from error
    except (HTTPError, RuntimeError) as error:  # RuntimeError: an upload that broke off
        reason = error.__cause__ or error
        raise ValueError(
            f"the connection to the Hub broke ({type(reason).__name__}: {reason}): nothing is "
            "lost, the same command goes on."
        ) from error


def check_repo_id(repo_id: str) -> None:
    """Check a name. Raises: ValueError: the Hub would refuse it."""
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"--repo_id {repo_id}: write USER/NAME.")


def logged_in(repo_id: str) -> HfApi:
    """Return the Hub's interface with a token that may write there.

    Raises: ValueError: no token, or it may not. HfHubHTTPError: the Hub does not know it.
    """
    token = get_token()
    if token is None:
        raise ValueError(
            "no token for the Hub: run `hf auth login`, or set HF_TOKEN; --dry_run needs none."
        )
    api = HfApi(token=token)
    who = api.whoami()
    if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise ValueError(
            f"this token may only read: make one that writes, {constants.ENDPOINT}/settings/tokens"
        )
    names = [who["name"], *(organization["name"] for organization in who.get("orgs", []))]
    if repo_id.split("/")[0] not in names:
        raise ValueError(
            f"--repo_id {repo_id}: this token writes for {', '.join(names)} only; choose another."
        )
    return api


def check_repository(api: HfApi, repo_id: str, public: bool) -> None:
    """Check that the repository is not there yet, or holds an earlier push.

    Raises: ValueError: it holds something else, or more people can see it than was asked for.
    """
    try:
        info = api.model_info(repo_id)
    except RepositoryNotFoundError:
        return
    files = sorted({file.rfilename for file in info.siblings or []} - {".gitattributes"})
    if files and TAG not in (info.tags or []):
        raise ValueError(
            f"--repo_id {repo_id} holds something else ({', '.join(files[:3])}): choose another."
        )
    if public and info.private:
        raise ValueError(
            f"--public: {repo_id} is there and private; change that in its settings on the Hub, or "
            "leave the flag out."
        )
    if not public and not info.private:
        raise ValueError(f"{repo_id} is public: add --public if that is meant.")


def write_repository(run: TrainedRun, repo_id: str, folder: Path) -> None:
    """Lay out the repository: model, card, plots.

    Raises: ValueError: the predictions cannot be evaluated.
    """
    folder.mkdir()
    for path in run.model_files():
        (folder / path.name).symlink_to(path.resolve())
    report_dir = folder.parent / "report"
    result = subprocess.run(
        [sys.executable, str(REPORT), str(run.folder), "--output_dir", str(report_dir)],
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        lines = result.stderr.splitlines() or ["it gave no reason"]
        raise ValueError(lines[-1].removeprefix("report.py: error: "))
    (folder / "plots").mkdir()
    for name in PLOTS:
        (report_dir / f"{name}.png").rename(folder / "plots" / f"{name}.png")
    figures = json.loads((report_dir / "report.json").read_text())
    card = model_card(repo_id, run.arguments, run.label_names, figures)
    (folder / "README.md").write_text(card)


def listing(folder: Path) -> str:
    """Return the files and their sizes, bytes."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return "\n".join(f"{path.stat().st_size:>15,}  {path.relative_to(folder)}" for path in paths)


def push(api: HfApi, folder: Path, repo_id: str, public: bool) -> str:
    """Make the repository the folder's copy in one commit, and return its URL."""
    url = api.create_repo(repo_id, private=not public, exist_ok=True)
    api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        commit_message="Model, card and plots",
        delete_patterns="*",  # what an earlier push left and this one lacks
    )
    return str(url)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on.", file=sys.stderr)
        sys.exit(130)
