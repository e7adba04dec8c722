"""The local Hub, as huggingface_hub sees it."""

import json

import pytest

from stand_ins.hub_server import HUB_TOKEN, HubServer, card_errors

PUSH_AND_PULL = """
import json, os, pathlib, tempfile
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

api = HfApi()
seen = {"user": api.whoami()["name"]}
api.create_repo("ann/model", private=True)
folder = pathlib.Path(tempfile.mkdtemp())
(folder / "README.md").write_text("---\\nlicense: mit\\n---\\nA model")
(folder / "model.safetensors").write_bytes(bytes(range(256)) * 1000)
(folder / "deep" / "er").mkdir(parents=True)
(folder / "deep" / "er" / "a.json").write_text("{}")
first = api.upload_folder(repo_id="ann/model", folder_path=folder, delete_patterns="*")
again = api.upload_folder(repo_id="ann/model", folder_path=folder, delete_patterns="*")
seen["the same is not committed twice"] = first.oid == again.oid
(folder / "deep" / "er" / "a.json").unlink()
api.upload_folder(repo_id="ann/model", folder_path=folder, delete_patterns="*")
seen["files"] = api.list_repo_files("ann/model")
seen["old"] = hf_hub_download("ann/model", "deep/er/a.json", revision=first.oid)[-6:]
pulled = pathlib.Path(snapshot_download("ann/model"))
seen["same"] = all(
    (pulled / file).read_bytes() == (folder / file).read_bytes() for file in seen["files"][1:]
)

def refused(call, *arguments, **named):
    try:
        call(*arguments, **named)
    except Exception as error:
        return type(error).__name__, getattr(getattr(error, "response", None), "status_code", 0)

other = HfApi(token="hf_other")
seen["refused"] = [
    refused(api.create_repo, "ann/model"),
    refused(api.create_repo, "bob/model"),
    refused(other.whoami),
    refused(HfApi(token=False).repo_info, "ann/model"),
    refused(api.repo_info, "ann/nothing"),
    refused(hf_hub_download, "ann/model", "nothing.json"),
    refused(hf_hub_download, "ann/model", "README.md", revision="nothing"),
]
(folder / "README.md").write_text("---\\nlicense: made-up\\n---\\nA model")
seen["refused"].append(refused(api.upload_folder, repo_id="ann/model", folder_path=folder))
print(json.dumps(seen))
"""


def test_huggingface_hub_pushes_pulls_and_is_refused(hub: HubServer) -> None:
    result = hub.run("-c", PUSH_AND_PULL, token=HUB_TOKEN)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == {
        "user": "ann",
        "the same is not committed twice": True,
        "files": [".gitattributes", "README.md", "model.safetensors"],
        "old": "a.json",
        "same": True,
        "refused": [
            ["HfHubHTTPError", 409],
            ["HfHubHTTPError", 403],
            ["HfHubHTTPError", 401],
            ["RepositoryNotFoundError", 401],
            ["RepositoryNotFoundError", 404],
            ["RemoteEntryNotFoundError", 404],
            ["RevisionNotFoundError", 404],
            ["ValueError", 0],
        ],
    }
    assert hub.model("ann/model").is_private
    assert hub.requests_with("A model")
    assert not hub.requests_with(HUB_TOKEN)


METRIC = {"type": "accuracy", "value": 0.5}
RESULT = {"task": {"type": "t"}, "dataset": {"name": "n", "type": "d"}, "metrics": [METRIC]}


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ("license: cc-by-nc-sa-3.0", None),
        ("license: made-up", '"license" must be one of'),
        ("tags: one", '"tags" must be an array'),
        ("a: [", "expected the node content"),
        (json.dumps({"model-index": [{"name": "m", "results": [RESULT]}]}), None),
        (json.dumps({"model-index": [{"name": "m", "results": [{}]}]}), "model-index"),
    ],
)
def test_a_cards_header_is_checked(header: str, complaint: str | None) -> None:
    errors = " ".join(card_errors(f"---\n{header}\n---\ntext", "model"))
    assert complaint in errors if complaint else not errors
