"""The files of a model onto the Hugging Face Hub: one commit or none, however often it is tried."""

import functools
import hashlib
import json
import re
import time
import warnings

import huggingface_hub
from huggingface_hub import CommitInfo, CommitOperationAdd, CommitOperationDelete
from huggingface_hub import errors as hub_errors

from skmoecbm._hub_download import LIBRARY, check_repository
from skmoecbm._hub_errors import hub_error, is_outage, patiently, status_of
from skmoecbm._model_folder import CONFIG, is_image, is_of_a_model
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import HubError, InputError, SkmoecbmWarning

__all__ = ["PushOptions", "push_files"]

_ATTEMPTS = 3
_MAX_CONFIG_BYTES = 64 * 2**20
_REF = re.compile(r"[\w.-]+(/[\w.-]+)*", re.ASCII)


class PushOptions:
    """How files are published; checked when made.

    Attributes
    ----------
    private : bool or None
    revision : str or None
        The branch to commit to.
    tag : str or None
    create_pr : bool
    exist_ok : bool
    commit_message : str or None
    """

    def __init__(
        self,
        owner,
        *,
        private=None,
        revision=None,
        tag=None,
        create_pr=False,
        exist_ok=True,
        commit_message=None,
    ):
        flags = {"create_pr": create_pr, "exist_ok": exist_ok}
        flags |= {} if private is None else {"private": private}
        for name, value in flags.items():
            if not isinstance(value, bool):
                raise parameter_error(owner, name, "True or False", value)
        for name, value in {"revision": revision, "tag": tag}.items():
            if value is not None and not (isinstance(value, str) and _REF.fullmatch(value)):
                raise parameter_error(owner, name, "the name of a branch or tag, or None", value)
        if revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision):
            raise parameter_error(owner, "revision", "a branch; a commit cannot change", revision)
        if commit_message is not None and not (
            isinstance(commit_message, str) and commit_message.strip()
        ):
            raise parameter_error(owner, "commit_message", "a str or None", commit_message)
        self.revision = revision or "main"
        if tag is not None and tag in ("main", self.revision):
            raise InputError(
                f"The 'tag' parameter of {owner} must not be the name of a branch, whose commit "
                f"it would hide. Got {tag!r}. Give another one, such as 'v1'."
            )
        if create_pr and tag is not None:
            raise InputError(
                "With create_pr=True there is nothing to tag yet. Tag the commit once the pull "
                "request is merged, or push without create_pr."
            )
        self.private = private
        self.tag = tag
        self.create_pr = create_pr
        self.exist_ok = exist_ok
        self.commit_message = commit_message or "Model saved with skmoecbm"


def push_files(files, repo, options, token=None):
    """Make a repository hold the files of a model, in one commit; tag it.

    Parameters
    ----------
    files : dict of str to bytes
        Name -> content.
    repo : str
        "user/repo"; made if it is not there.
    options : PushOptions
    token : str, bool or None

    Returns
    -------
    commit : huggingface_hub.CommitInfo
        The new one; the latest one where the repository holds these files already.
    is_private : bool
        Whether its owners only see the repository.

    Raises
    ------
    HubError
        If the Hub cannot be reached or refuses. The repository is as it was before, unless the
        message says that only the tag is missing.
    InputError
        If the repository holds a model of another library, is not as `private` says, has the
        tag already, or a branch and a tag would have one name.

    Warns
    -----
    SkmoecbmWarning
        If images go to a repository that everyone can see; before anything is sent.
    """
    check_repository("push_to_hub", "repo_id", repo, None)
    api = huggingface_hub.HfApi(token=token)
    problem = f"Could not push to {repo!r}"
    try:
        is_private = _prepare(api, repo, options, sorted(name for name in files if is_image(name)))
        commit = _commit(api, files, repo, options)
    except (HubError, InputError, SkmoecbmWarning):
        raise
    except Exception as error:
        raise hub_error(f"{problem}, which is unchanged", error) from error
    if options.tag is not None:
        try:
            _tag(api, repo, options.tag, commit.oid)
        except Exception as error:
            raise hub_error(
                f"The model is at {repo!r} as commit {commit.oid}, but the tag {options.tag!r} "
                "could not be made",
                error,
                remedy="Push again with the same tag: it makes no second commit.",
            ) from error
    return commit, is_private


def _prepare(api, repo, options, images):
    """Make the repository and the branch where they are missing; see that both may be used.

    Returns whether the repository is private.
    """
    info = _look(api, repo, None)
    if info is not None and not options.exist_ok:
        raise InputError(
            f"The Hub repository {repo!r} exists already, and exist_ok=False. Give another name."
        )
    if info is not None and options.private and info.private is False:
        raise InputError(
            f"The Hub repository {repo!r} is public, and private=True. Make it private in its "
            "settings first, or push to another one."
        )
    if info is not None and options.private is False and info.private:
        raise InputError(
            f"The Hub repository {repo!r} is private, and private=False. Make it public in its "
            "settings, or leave that out: it stays private then."
        )
    if info is not None:
        _refuse_same_name(api, repo, options)
    is_private = options.private is not False if info is None else info.private is not False
    if images and not is_private:
        warnings.warn(
            f"Everyone can see the Hub repository {repo!r}, so {', '.join(images)} of the card "
            "become public, and stay in its history when a later push drops them.",
            SkmoecbmWarning,
            stacklevel=4,
        )
    if info is None:
        patiently(lambda: api.create_repo(repo, private=is_private, exist_ok=True))
    if options.revision != "main" and _look(api, repo, options.revision) is None:
        patiently(lambda: api.create_branch(repo, branch=options.revision, exist_ok=True))
    return is_private


def _refuse_same_name(api, repo, options):
    """Raise `InputError` where a branch and a tag would have one name: one would hide the other."""
    if options.tag is None and options.revision == "main":
        return
    refs = patiently(lambda: api.list_repo_refs(repo))
    for parameter, name, others, kind in (
        ("revision", options.revision, refs.tags, "tag"),
        ("tag", options.tag, refs.branches, "branch"),
    ):
        if any(ref.name == name for ref in others):
            raise InputError(
                f"The Hub repository {repo!r} has a {kind} {name!r}, which {parameter}={name!r} "
                "would hide. Give another name."
            )


def _look(api, repo, revision):
    """Return the `ModelInfo` of a repository with its files' hashes, None where there is none."""
    try:
        return patiently(lambda: api.model_info(repo, revision=revision, files_metadata=True))
    except hub_errors.GatedRepoError:
        raise
    except (hub_errors.RepositoryNotFoundError, hub_errors.RevisionNotFoundError):
        return None


def _commit(api, files, repo, options):
    """Commit what differs; an attempt whose answer was lost is found to be done already."""
    parent = None
    for attempt in range(_ATTEMPTS):
        head = _look(api, repo, options.revision)
        if head is None:
            raise HubError(
                f"Could not push to {repo!r}: the Hub does not show the branch "
                f"{options.revision!r} that was just made. Try again."
            )
        if attempt == 0:
            parent = head.sha
            _refuse_other_library(api, repo, head)
            tagged = _tagged(api, repo, options.tag)
        changed, gone = _difference(files, head.siblings)
        if not changed and not gone:
            _refuse_tag(repo, options.tag, tagged, head.sha)
            return CommitInfo(
                commit_url=f"{api.endpoint}/{repo}/commit/{head.sha}",
                commit_message=options.commit_message,
                commit_description="",
                oid=head.sha,
            )
        _refuse_tag(repo, options.tag, tagged, None)
        if head.sha != parent:
            raise HubError(
                f"Could not push to {repo!r}: somebody else changed it meanwhile. Look at what is "
                "there now, and push again."
            )
        operations = [
            *(CommitOperationAdd(name, files[name]) for name in changed),
            *(CommitOperationDelete(name) for name in gone),
        ]
        send = functools.partial(
            api.create_commit,
            repo,
            operations,
            commit_message=options.commit_message,
            revision=options.revision,
            create_pr=options.create_pr,
            parent_commit=parent,
        )
        try:
            # Only what was certainly not carried out is sent again without another look.
            return patiently(send, again_if_unclear=False)
        except Exception as error:
            if options.create_pr and is_outage(error):
                raise hub_error(
                    f"Could not open a pull request at {repo!r}, or its answer was lost",
                    error,
                    remedy="Look at its pull requests before you try again.",
                ) from error
            if not is_outage(error) or status_of(error) == 429 or attempt == _ATTEMPTS - 1:
                raise
        time.sleep(2**attempt)
    raise AssertionError("the last attempt returns or raises")


def _difference(files, siblings):
    """Return the names of files to add or replace, and of an earlier model's that go."""
    there = {entry.rfilename: entry for entry in siblings}
    changed = []
    for name, content in files.items():
        entry = there.get(name)
        if entry is None:
            changed.append(name)
        elif entry.lfs is not None:
            if entry.lfs.sha256 != hashlib.sha256(content).hexdigest():
                changed.append(name)
        elif entry.blob_id != hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest():
            changed.append(name)
    return changed, sorted(name for name in there if is_of_a_model(name) and name not in files)


def _refuse_other_library(api, repo, info):
    """Raise `InputError` where a push would mix two libraries' models."""
    library = getattr(info, "library_name", None)
    entry = next((entry for entry in info.siblings if entry.rfilename == CONFIG), None)
    is_other = library not in (None, LIBRARY) or (entry is None and _has_weights(info))
    if entry is not None and not is_other and (entry.size or 0) <= _MAX_CONFIG_BYTES:
        path = patiently(
            lambda: huggingface_hub.hf_hub_download(
                repo, CONFIG, revision=info.sha, token=api.token
            )
        )
        try:
            with open(path, encoding="utf-8") as file:
                content = json.load(file)
        except ValueError:
            content = None
        is_other = not isinstance(content, dict) or "format_version" not in content
    if is_other:
        raise InputError(
            f"The Hub repository {repo!r} holds a model of another library"
            f"{'' if library in (None, LIBRARY) else f' ({library})'}. Push to a new repository, "
            "so that nothing is lost."
        )


def _has_weights(info):
    endings = (".safetensors", ".bin", ".pt", ".pth", ".onnx", ".gguf", ".h5", ".pkl", ".joblib")
    return any(entry.rfilename.endswith(endings) for entry in info.siblings)


def _tagged(api, repo, tag):
    """Return the commit that a tag names already, or None."""
    if tag is None:
        return None
    refs = patiently(lambda: api.list_repo_refs(repo))
    return next((ref.target_commit for ref in refs.tags if ref.name == tag), None)


def _refuse_tag(repo, tag, tagged, commit):
    if tagged is not None and tagged != commit:
        raise InputError(
            f"The Hub repository {repo!r} has the tag {tag!r} already, of commit {tagged}; whoever "
            "pinned it must go on getting that. Give another tag; or delete it first, with "
            "huggingface_hub.delete_tag."
        )


def _tag(api, repo, tag, commit):
    """Tag a commit; that it is tagged so already is no error."""
    try:
        patiently(lambda: api.create_tag(repo, tag=tag, revision=commit))
    except hub_errors.HfHubHTTPError as error:
        if status_of(error) != 409 or _tagged(api, repo, tag) != commit:
            raise
