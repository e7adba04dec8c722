"""Push a dataset folder to the Hugging Face Hub; a push that is cut off goes on where it stopped.

    python data_prep/push_dataset.py data/bins --repo_id USER/NAME --dry_run
    python data_prep/push_dataset.py data/bins --repo_id USER/NAME

Sends the card and its chart, the shards, settings.json and set_aside.jsonl, then compares what the
Hub holds with the folder. The repository is private unless --public is given. Amazon's photos are
under CC BY-NC-SA 3.0 US: share them for non-commercial use only, with attribution. The token is
that of `hf auth login`, or HF_TOKEN.
"""

import hashlib
import json
import os
import re
import shlex
import shutil
from collections import defaultdict
from pathlib import Path

from huggingface_hub import HfApi, RepoFile, constants, get_token

# The client's own HTTPError: its newest releases have moved from httpx to httpx2.
from huggingface_hub.errors import HfHubHTTPError, HTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash

from command_line import EntryParser, InputError, say

# Names with a dot in front are a Mac's notes on the files that it copied.
SHARDS = "data/[!.]*.parquet"
PUSHED = ("README.md", "counts_by_split.png", "settings.json", "set_aside.jsonl", SHARDS)
SHARD = re.compile(r"(\w+)-(\d{5})-of-(\d{5})\.parquet")
# Where huggingface_hub keeps how far a push came, and where we keep whither it went.
STATE = Path(".cache/huggingface/upload")
DESTINATION = Path(".cache/huggingface/upload_destination")
BUILD = "run data_prep/build_dataset.py"


def make_parser() -> EntryParser:
    """Return the parser of the flags."""
    parser = EntryParser(__doc__)
    parser.add_argument("dataset_dir", type=Path, metavar="FOLDER", help="a dataset folder")
    parser.add_argument("--repo_id", required=True, metavar="USER/NAME", help="where on the Hub")
    parser.add_argument(
        "--public", action="store_true", help="let everybody see it; the default is private"
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="list the files; send nothing, ask for no token"
    )
    return parser


def files_to_push(dataset_dir: Path) -> dict[str, Path]:
    """Return the files of a finished dataset by their names in the repository.

    Raises: InputError: no dataset, an unfinished one, or a shard is missing or damaged.
    """
    if not (dataset_dir / "README.md").is_file():
        raise InputError(f"{dataset_dir} is no finished dataset (no README.md): {BUILD}.")
    digests = {
        f"{path.stem}.parquet": _recorded_digest(path)
        for path in dataset_dir.glob("statistics/[!.]*.json")
    }
    without_rows = {name for name, digest in digests.items() if digest is None}
    present = defaultdict(set)
    for name in {path.name for path in dataset_dir.glob(SHARDS)} | without_rows:
        if match := SHARD.fullmatch(name):
            present[match[1], int(match[3])].add(int(match[2]))
    if not present:
        raise InputError(f"{dataset_dir} holds no shards (data/SPLIT-*.parquet): {BUILD}.")
    for (split, number), indices in present.items():
        if len(indices) != number:
            raise InputError(
                f"{dataset_dir} holds {len(indices)} of {number} {split} shards: {BUILD} again, or "
                "copy the folder again."
            )
    for name in sorted(digests):
        path = dataset_dir / "data" / name
        if (_digest(path) if path.is_file() else None) != digests[name]:
            raise InputError(
                f"{path} is not as it was written: {BUILD} again, or copy the folder again."
            )
    paths = sorted(path for pattern in PUSHED for path in dataset_dir.glob(pattern))
    return {path.relative_to(dataset_dir).as_posix(): path for path in paths}


def logged_in(repo_id: str) -> HfApi:
    """Return the Hub's interface with a token that may write there.

    Raises: InputError: no token, or it may not. HfHubHTTPError: the Hub does not know it.
    """
    token = get_token()
    if token is None:
        raise InputError(
            "no token for the Hub: run `hf auth login`, or set HF_TOKEN; --dry_run needs none."
        )
    api = HfApi(token=token)
    who = api.whoami()
    if who.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise InputError(
            f"this token may only read: make one that writes, {constants.ENDPOINT}/settings/tokens"
        )
    names = [who["name"], *(organization["name"] for organization in who.get("orgs", []))]
    if repo_id.split("/")[0] not in names:
        raise InputError(
            f"--repo_id {repo_id}: this token writes for {', '.join(names)} only; choose another."
        )
    return api


def repository_exists(api: HfApi, repo_id: str, public: bool, files: dict[str, Path]) -> bool:
    """Say whether the repository is there, with an earlier push of this dataset or nothing.

    Raises: InputError: it holds other files, which would mix with this dataset's, or more people
        can see it than was asked for.
    """
    try:
        info = api.dataset_info(repo_id)
    except RepositoryNotFoundError:
        return False
    names = {file.rfilename for file in info.siblings or []} - {".gitattributes"}
    if others := sorted(names - files.keys()):
        raise InputError(
            f"--repo_id {repo_id} holds files that this dataset does not have "
            f"({', '.join(others[:3])}): choose another, or delete them on the Hub."
        )
    if public and info.private:
        raise InputError(
            f"--public: {repo_id} is there and private; change that in its settings on the Hub, or "
            "leave the flag out."
        )
    if not public and not info.private:
        raise InputError(f"{repo_id} is public: add --public if that is meant.")
    return True


def forget_other_pushes(dataset_dir: Path, repo_id: str, exists: bool) -> None:
    """Remove the state of a push that went elsewhere.

    huggingface_hub keeps for each file that it was sent, and not whither: what one repository has
    it would not send to another.
    """
    destination = dataset_dir / DESTINATION
    address = f"{constants.ENDPOINT}/datasets/{repo_id}"
    if not exists or not destination.exists() or destination.read_text() != address:
        shutil.rmtree(dataset_dir / STATE, ignore_errors=True)
    destination.parent.mkdir(parents=True, exist_ok=True)
    destination.write_text(address)


def push(api: HfApi, dataset_dir: Path, files: dict[str, Path], repo_id: str, public: bool) -> str:
    """Send what the repository lacks and return its URL.

    Raises: InputError: the Hub holds something else in the end.
    """
    exists = repository_exists(api, repo_id, public, files)
    url = api.create_repo(repo_id, repo_type="dataset", private=not public, exist_ok=True)
    forget_other_pushes(dataset_dir, repo_id, exists)
    # huggingface_hub 2 has no other than upload_folder, which goes on where it was cut off; that of
    # version 1 begins anew.
    send = getattr(api, "upload_large_folder", api.upload_folder)
    send(
        repo_id=repo_id,
        folder_path=dataset_dir,
        repo_type="dataset",
        allow_patterns=list(PUSHED),
    )
    differing = differing_files(api, repo_id, files)
    # Either it is all there, or what was kept about it is wrong.
    shutil.rmtree(dataset_dir / STATE, ignore_errors=True)
    (dataset_dir / DESTINATION).unlink(missing_ok=True)
    if differing:
        raise InputError(
            f"{repo_id} does not hold this dataset's {', '.join(differing[:3])}: the same command "
            "sends all files again."
        )
    return str(url)


def differing_files(api: HfApi, repo_id: str, files: dict[str, Path]) -> list[str]:
    """Return the files that the repository lacks or holds with other bytes."""
    held = {
        entry.path: entry.lfs.sha256 if entry.lfs else entry.blob_id
        for entry in api.list_repo_tree(repo_id, repo_type="dataset", recursive=True)
        if isinstance(entry, RepoFile)
    }
    return [name for name, path in files.items() if held.get(name) not in _digests(path)]


def _digests(path: Path) -> tuple[str, str]:
    """Return what the Hub calls a content: as a large file, and as git does."""
    large = _digest(path)
    # The Hub keeps no large file in git: only a small one has to fit into memory.
    return large, git_hash(path.read_bytes()) if path.suffix != ".parquet" else large


def _recorded_digest(path: Path) -> str | None:
    """Return what a shard's statistics name; None: the shard has no rows, and no file."""
    try:
        return json.loads(path.read_bytes())["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}): {BUILD} again.") from error


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main(argv: list[str] | None = None) -> None:
    """Push the dataset that the command line names."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    repo_id = arguments.repo_id
    try:
        validate_repo_id(repo_id)
        if "/" not in repo_id:
            raise InputError(f"--repo_id {repo_id}: write USER/NAME.")
        files = files_to_push(arguments.dataset_dir)
        api = None if arguments.dry_run else logged_in(repo_id)
        say(*(f"{path.stat().st_size:>15,}  {name}" for name, path in files.items()))
        if api is None:
            command = ["python", "data_prep/push_dataset.py", str(arguments.dataset_dir)]
            command += ["--repo_id", repo_id, *["--public"] * arguments.public]
            say(f"\nNothing was sent.\nNext: {shlex.join(command)}")
            return
        say(f"\nPushed: {push(api, arguments.dataset_dir, files, repo_id, arguments.public)}")
    except HfHubHTTPError as error:
        status = error.response.status_code
        parser.error(
            {
                401: "the Hub does not know this token: run `hf auth login`, or mend HF_TOKEN.",
                403: f"this token may not write to {repo_id}: choose another --repo_id or token.",
            }.get(status, f"the Hub refused ({status}): {error.server_message or error}")
        )
    except HTTPError as error:
        parser.error(f"the Hub cannot be reached ({error}): the same command goes on.")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    load = f"load_dataset('{repo_id}')"
    say(f'Next: python -c "from datasets import load_dataset; print({load})"')


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        say("\nStopped. The same command goes on from here.")
        # huggingface_hub's threads would go on with the push; what they sent is noted.
        os._exit(130)
