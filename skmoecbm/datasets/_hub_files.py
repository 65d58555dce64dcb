"""Files of a data set on the Hugging Face Hub, at one commit, with the checksums it knows."""

from huggingface_hub import HfApi, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

from skmoecbm._hub_errors import hub_error, is_outage, patiently
from skmoecbm.datasets._download import RemoteFile
from skmoecbm.exceptions import DownloadError

__all__ = ["hub_files"]


def hub_files(repo, revision, wanted, *, remedy):
    """Return the files of a data set's repository, by their path in it.

    Parameters
    ----------
    repo : str
        "user/repo"
    revision : str
        A commit, so that the files are the same whatever is changed there later.
    wanted : sequence of str
        Paths in the repository.
    remedy : str
        How to get the files by hand.

    Returns
    -------
    dict of str to RemoteFile
        Checksums are SHA-256 of large files, those of Git of others.

    Raises
    ------
    DownloadError
        If the Hub cannot be asked, or a file is not there.
    """
    problem = f"Could not ask the Hugging Face Hub for the data set {repo!r}"
    try:
        told = patiently(
            lambda: HfApi().get_paths_info(
                repo, list(wanted), revision=revision, repo_type="dataset"
            )
        )
    except Exception as error:  # those of a missing network have no class in common
        known = isinstance(error, HfHubHTTPError | OfflineModeIsEnabled | OSError)
        if not (known or is_outage(error)):
            raise
        raise DownloadError(str(hub_error(problem, error, remedy=remedy))) from error
    found = {}
    for entry in told:
        large = getattr(entry, "lfs", None)
        found[entry.path] = RemoteFile(
            url=hf_hub_url(repo, entry.path, repo_type="dataset", revision=revision),
            name=entry.path.rpartition("/")[2],
            checksum=f"sha256:{large.sha256}" if large else f"git:{entry.blob_id}",
            size=entry.size,
        )
    if missing := [path for path in wanted if path not in found]:
        raise DownloadError(f"{problem}: {missing[0]!r} is not in it any more. {remedy}")
    return {path: found[path] for path in wanted}
