"""Downloads files of Hugging Face Hub repositories, and verifies them."""

import hashlib
import re
from pathlib import Path

from kseg.utils.errors import KsegError, root_cause


def download(
    repo: str,
    revision: str | None,
    file: str,
    *,
    limit: int | None = None,
    instead: str = "pass its path as --backbone_weights=FILE",
) -> Path:
    """Returns the path of a Hub file in huggingface_hub's cache. Downloads it with a progress bar if it is not there.

    limit: in bytes; a larger file is refused. instead: for the error message, what to do with a file fetched by hand.

    The content is compared with the Hub's hash each time. A file that differs is removed, and a cached one is downloaded again.
    Without a network the cache is used. Raises KsegError, one line that says what to fetch and where to put it.
    """
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    found = try_to_load_from_cache(repo, file, revision=revision)
    cached = Path(found) if isinstance(found, str) else None
    damaged = False
    try:
        if cached and not _is_intact(cached, repo, revision):
            _remove(cached)
            cached, damaged = None, True
        if cached and re.fullmatch("[0-9a-f]{40}", revision or ""):
            return cached
        # Asked first: without a network, hf_hub_download retries for half a minute.
        size = get_hf_file_metadata(hf_hub_url(repo, file, revision=revision)).size
        if limit is not None and size is not None and size > limit:
            raise KsegError(f"{repo}: {file} has {size} bytes, more than the {limit} that are expected; it is not downloaded")
        path = Path(hf_hub_download(repo, file, revision=revision, force_download=damaged))
        if _is_intact(path, repo, revision):
            return path
        _remove(path)
        reason = "the downloaded file differs from the Hub's hash and was removed"
    except KsegError:
        raise
    except GatedRepoError:
        reason = "access to it is restricted; ask for it on its page and log in with `hf auth login`"
    except RepositoryNotFoundError:
        reason = "there is no such repository, or it is private; check the name, or log in with `hf auth login`"
    except RevisionNotFoundError:
        reason = "the repository has no such revision"
    except EntryNotFoundError:
        reason = "the repository has no such file"
    except Exception as error:  # network, disk and protocol errors have no common base
        if cached:
            return cached
        reason = f"the download failed ({root_cause(error)})"
    raise KsegError(
        f"cannot fetch the weights {repo}, revision {revision or 'main'}, file {file}: {reason}; fetch that file on a machine "
        f"that can and {instead}, or copy the folder models--{repo.replace('/', '--')} of its "
        f"cache into {constants.HF_HUB_CACHE}"
    )


def _is_intact(path: Path, repo: str, revision: str | None) -> bool:
    """Returns True if a cached file has the Hub's hash: SHA-256 for large files, git's SHA-1 of a blob for small ones.

    A cached file is a link to a blob named by the hash. On systems without links the Hub is asked for the hash.
    """
    if path.is_symlink():
        expected = path.readlink().name
    else:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url

        expected = get_hf_file_metadata(hf_hub_url(repo, path.name, revision=revision)).etag or ""
    content = path.read_bytes()
    if len(expected) == 64:
        return hashlib.sha256(content).hexdigest() == expected
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == expected


def _remove(path: Path) -> None:
    """Removes a file from the cache, so that no other program uses it."""
    if path.is_symlink():
        (path.parent / path.readlink()).unlink(missing_ok=True)
    path.unlink()


def has_file(repo: str, revision: str | None, file: str) -> bool:
    """Returns True if a repository has a file; False also if the Hub does not answer."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(repo, file, revision=revision))
    except Exception:  # network and protocol errors have no common base
        return False
    return True


def list_files(repo: str, revision: str | None) -> list[str] | None:
    """Returns the names of a repository's files, or None if the Hub does not answer; then `download` says why."""
    from huggingface_hub import HfApi

    try:
        return list(HfApi().list_repo_files(repo, revision=revision))
    except Exception:  # network and protocol errors have no common base
        return None
