"""Load checkpoints from the Hugging Face Hub, and upload them.

    encoder = load_encoder("hf:org/name@<commit>")            # or revision="<commit>"
    commit = push_to_hub(Path("runs/pretrain/encoder"), "org/name")

Loading accesses the network only for a name with `hf:`, and only if a file is not yet in the local
cache of `huggingface_hub`. The revision must be the hash of a commit, because the files of a branch
or tag can change. Only `config.json` and safetensors files are loaded or uploaded, and their
checksums are verified.
"""

import re
import sys
from pathlib import Path
from typing import Any

from ..checkpoint import load_weights, read_config
from .golden import GOLDEN, has_golden

__all__ = ["download_checkpoint", "is_hub_name", "push_to_hub"]

PREFIX = "hf:"
CONFIG, WEIGHTS = "config.json", "weights.safetensors"
KINDS = ("encoder", "vit", "patches", "tokenizer")  # of checkpoints that may be shared


def is_hub_name(name_or_path: str | Path) -> bool:
    """Return whether a name refers to the Hugging Face Hub."""
    return str(name_or_path).startswith(PREFIX)


def download_checkpoint(name: str, revision: str | None = None) -> Path:
    """Download the missing files of a checkpoint, and return its folder in the local cache.

    A Toto without golden vectors (reference images and their features) is rejected.

    Args:
        name: ``hf:org/name``, or ``hf:org/name@<commit>``.
        revision: hash of the commit, 40 hexadecimal digits, if `name` does not contain it.

    Raises:
        ImportError: huggingface_hub is not installed.
        FileNotFoundError: a file is neither in the cache nor on the Hub, or the Hub cannot be
            reached (`HF_HUB_OFFLINE=1`, no network, no access).
        ValueError: the name or the revision is invalid, the server sent another revision, or
            `config.json` is damaged.
    """
    repo, commit = _repository(name, revision)
    hub = _hub()
    if not isinstance(hub.try_to_load_from_cache(repo, WEIGHTS, revision=commit), str):
        print(f"toto_robot: loading {name} from the Hugging Face Hub", file=sys.stderr)

    def fetch(file: str) -> Path:
        try:
            return Path(hub.hf_hub_download(repo, file, revision=commit))
        except OSError as error:  # includes all errors of the Hub
            reason = str(error).strip().splitlines()[0]
            raise FileNotFoundError(
                f"{file} of {PREFIX}{repo}@{commit} is not in the cache and cannot be loaded: "
                f"{type(error).__name__}: {reason}"
            ) from error

    folder = fetch(CONFIG).parent
    if folder.name != commit:
        raise ValueError(f"asked for {PREFIX}{repo}@{commit}, the server sent {folder.name}")
    if read_config(folder, *KINDS)["kind"] == "encoder":
        fetch(GOLDEN)
    fetch(WEIGHTS)
    return folder


def push_to_hub(folder: Path, repo_id: str, *, private: bool = True, message: str = "") -> str:
    """Upload a checkpoint in a single commit, and return the hash of the commit.

    The function works for the checkpoints of training runs and of `save_encoder`. The account on
    the Hub is the account of `hf auth login` or of the environment variable `HF_TOKEN`.

    Args:
        folder: folder of the checkpoint.
        repo_id: name of the repository, `org/name`; it is created if it does not exist.
        private: true to make a new repository private.
        message: message of the commit; empty: a standard message.

    Raises:
        ImportError: huggingface_hub is not installed.
        FileNotFoundError: the checkpoint lacks a file.
        ValueError: the repository's name is invalid or the checkpoint is damaged.
    """
    hub = _hub()
    _check_repository(repo_id)
    data = read_config(folder, *KINDS)
    load_weights(folder, data["sha256"])
    files = [CONFIG, WEIGHTS, *([GOLDEN] if has_golden(folder) else [])]
    if data["kind"] == "encoder" and GOLDEN not in files:
        raise FileNotFoundError(f"{folder} has no {GOLDEN}: write it with write_golden(folder)")
    api = hub.HfApi(library_name="toto-robot")
    api.create_repo(repo_id, private=private, exist_ok=True)
    done = api.create_commit(
        repo_id,
        [
            hub.CommitOperationAdd(path_in_repo=file, path_or_fileobj=folder / file)
            for file in files
        ],
        commit_message=message or f"Upload a checkpoint of toto-robot ({data['kind']})",
    )
    print(f"uploaded: {PREFIX}{repo_id}@{done.oid}")
    return done.oid


def _repository(name: str, revision: str | None) -> tuple[str, str]:
    """Return the name of the repository and the hash of the commit, from a name or a revision."""
    repo, _, commit = name.removeprefix(PREFIX).partition("@")
    _check_repository(repo)
    if commit and revision not in (None, commit):
        raise ValueError(f"{name} contains a revision, and revision={revision!r} is another one")
    commit = commit or revision or ""
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise ValueError(
            f"{PREFIX}{repo} needs the hash of a commit, 40 hexadecimal digits, because the files "
            f"of a branch or tag can change: {PREFIX}{repo}@<commit>, or revision=<commit>; got "
            f"{commit or None!r}. The website lists the commits: "
            f"https://huggingface.co/{repo}/commits/main"
        )
    return repo, commit


def _check_repository(repo: str) -> None:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo, re.ASCII) or ".." in repo:
        raise ValueError(f"a repository of the Hugging Face Hub is named org/name; got {repo!r}")


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError(
            "names with hf: need huggingface_hub: pip install 'toto-robot[hub]'"
        ) from error
    return huggingface_hub
