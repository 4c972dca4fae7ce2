"""Uploading what was saved to a repository of the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from squeezebert_fast.errors import CheckpointError
from squeezebert_fast.storage.reach import one_line

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


def upload(
    save: Callable[[Path], object],
    repo_id: str,
    *,
    commit_message: str | None = None,
    commit_description: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> CommitInfo:
    """What `save` writes into a folder, as one commit to a model's repository, made if need be.

    The rest are arguments of `huggingface_hub`'s `create_repo` and `upload_folder`. Raises CheckpointError, one line
    that names the repository, for whatever the hub refuses.
    """
    from huggingface_hub import HfApi  # takes a tenth of a second, and few programs upload

    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder))
        try:
            api = HfApi(token=token)
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            if revision is not None and not create_pr:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            return api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                commit_description=commit_description,
                revision=revision,
                create_pr=create_pr,
            )
        except Exception as error:  # which HTTP library raises depends on huggingface_hub's version
            raise CheckpointError(f"uploading to {repo_id} failed: {one_line(error)}") from error
