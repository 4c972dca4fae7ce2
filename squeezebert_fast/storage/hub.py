"""Where a model's files are: a local directory, or a repository of the Hugging Face hub and its cache."""

from __future__ import annotations

import dataclasses
import os
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import _CACHED_NO_EXIST, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from squeezebert_fast.errors import CheckpointError
from squeezebert_fast.shipped import directory_of
from squeezebert_fast.storage.reach import one_line, why_out_of_reach

# The hub's cache keeps a file at .../snapshots/<commit>/<file name in the repository>.
_COMMIT = re.compile(r"[0-9a-f]{40}")
NOT_HERE = "; there is no directory of that name here either"
_COMMIT_IN_CACHE_PATH = re.compile(rf"[/\\]snapshots[/\\]({_COMMIT.pattern})[/\\]")


def resolve_file(
    name_or_path: str | os.PathLike[str],
    filename: str,
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: str | bool | None = None,
    subfolder: str | None = None,
    force_download: bool = False,
    required: bool = True,
) -> Path | None:
    """The path of a model's file on this machine, downloaded first if the model is on the hub.

    name_or_path: a directory, or a hub id such as `squeezebert/squeezebert-uncased`. An existing directory is
        never taken for a hub id, nor is a `Path` or what looks like one (`./model`, `~/model`, `a/b/c`);
        `shipped:sentiment` is the model that comes with the package.
    revision: branch, tag or commit of a hub repository; a directory has none, so there it is ignored.
    cache_dir, token, local_files_only, force_download: as in `huggingface_hub.hf_hub_download`; its environment
        variables (`HF_ENDPOINT`, `HF_HUB_OFFLINE`, `HF_HOME`, `HF_TOKEN`, ...) hold too.
    required: False gives None for a file that the directory or repository doesn't have, or, offline, one that
        isn't cached. Every other failure still raises: an unreachable hub is never taken for a missing file.

    Raises `CheckpointError`, one line that says what is missing and where it was looked for.

    >>> resolve_file("squeezebert/squeezebert-uncased", "config.json")  # doctest: +SKIP
    """
    name_or_path = directory_of(name_or_path)
    if not os.fspath(name_or_path):  # Path("") would be the current directory
        raise CheckpointError("the model's name is empty; expected a directory or a hub id")
    local = Path(os.path.expanduser(name_or_path))
    inside = f"{subfolder}/{filename}" if subfolder else filename
    if os.path.isdir(local):  # for a name that can't be one, too
        path = local / inside
        if path.is_file():
            return path
        if required:
            raise CheckpointError(f"{local} has no file {inside}")
        return None
    if os.path.exists(local):
        raise CheckpointError(f"{local} is a file; expected a model's directory or a hub id")
    if _looks_like_a_path(name_or_path):
        raise CheckpointError(f"{os.fspath(name_or_path)!r} is not a directory on this machine, nor a hub id")
    return _from_hub(
        os.fspath(name_or_path),
        inside,
        revision,
        cache_dir,
        local_files_only,
        token,
        force_download=force_download,
        required=required,
    )


@dataclass(frozen=True)
class ModelFiles:
    """A model's directory or hub repository, with what `resolve_file` needs to find files of it."""

    name_or_path: str | os.PathLike[str]
    revision: str | None = None
    cache_dir: str | os.PathLike[str] | None = None
    local_files_only: bool = False
    token: str | bool | None = None
    subfolder: str | None = None
    force_download: bool = False

    def optional(self, filename: str) -> Path | None:
        """The file's path on this machine, or None if the model doesn't have it. Raises CheckpointError."""
        return resolve_file(filename=filename, required=False, **vars(self))

    def required(self, filename: str) -> Path:
        """The file's path on this machine. Raises CheckpointError, also if the model doesn't have it."""
        path = resolve_file(filename=filename, **vars(self))
        assert path is not None
        return path

    def file_or(self, filename: str) -> Path:
        """The name itself where it is that of a file, which is not a model's, or else the model's `filename`."""
        return Path(self.name_or_path) if os.path.isfile(self.name_or_path) else self.required(filename)

    def pinned_to(self, path: Path) -> ModelFiles:
        """The same model at the commit that its file `path` came from, so that all are of one commit."""
        return dataclasses.replace(self, revision=pinned_revision(path) or self.revision)


def pinned_revision(path: Path) -> str | None:
    """The commit of a file that `resolve_file` found in the hub's cache; None for a directory's file.

    Asking for a model's other files at this revision keeps a push to the hub from mixing two versions.
    """
    match = _COMMIT_IN_CACHE_PATH.search(str(path))
    return match.group(1) if match else None


def _looks_like_a_path(name: str | os.PathLike[str]) -> bool:
    if not isinstance(name, str):
        return True
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1 or name.endswith("/")


def _from_hub(
    repo: str,
    filename: str,
    revision: str | None,
    cache_dir: str | os.PathLike[str] | None,
    local_files_only: bool,
    token: str | bool | None,
    *,
    force_download: bool,
    required: bool,
) -> Path | None:
    cache_path = Path(cache_dir) if cache_dir is not None else None
    where = f"{repo} (revision {revision})" if revision else repo
    pinned = bool(revision and _COMMIT.fullmatch(revision))
    try:
        if not force_download:
            known = try_to_load_from_cache(repo, filename, cache_dir=cache_path, revision=revision)
            lacks = known is _CACHED_NO_EXIST and not required
            if lacks and pinned:  # a commit never gains a file
                return None
            may_ask = not (local_files_only or constants.HF_HUB_OFFLINE)
            if not isinstance(known, str) and may_ask and (why_not := why_out_of_reach()) is not None:
                if lacks:
                    return None
                raise CheckpointError(
                    f"{where}: {filename} is not cached and the hub could not be asked: {why_not}{NOT_HERE}"
                )
        path = hf_hub_download(
            repo,
            filename,
            revision=revision,
            cache_dir=cache_path,
            local_files_only=local_files_only,
            token=token,
            force_download=force_download,
        )
        return Path(path)
    except CheckpointError:
        raise
    except LocalEntryNotFoundError as error:  # before its base class EntryNotFoundError
        reason = error.__cause__
        if reason is not None and not isinstance(reason, OfflineModeIsEnabled):
            raise CheckpointError(
                f"{where}: {filename} is not cached and the hub could not be asked: {one_line(reason)}{NOT_HERE}"
            ) from error
        if not required:
            return None
        raise CheckpointError(
            f"{where}: {filename} is not in the local cache, and offline mode or local_files_only is on{NOT_HERE}"
        ) from error
    except EntryNotFoundError as error:
        if not required:
            return None
        raise CheckpointError(f"{where} has no file {filename} on the hub") from error
    except GatedRepoError as error:  # before its base class RepositoryNotFoundError
        raise CheckpointError(
            f"{repo} is gated on the hub: ask for access on its page, then log in or pass token="
        ) from error
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{repo!r} is neither a directory here nor a repository of the hub that this token may read"
        ) from error
    except RevisionNotFoundError as error:
        raise CheckpointError(f"{repo} has no revision {revision!r} on the hub") from error
    except HFValidationError as error:
        raise CheckpointError(
            f"{repo!r} is neither a directory here nor a hub id: {one_line(error)}"
        ) from error
    except (
        Exception
    ) as error:  # which HTTP library raises depends on huggingface_hub's version: no common base
        raise CheckpointError(f"{where}: downloading {filename} failed: {one_line(error)}") from error
