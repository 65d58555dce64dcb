"""Files of a data set at a Dataverse, with the checksums that it publishes."""

from urllib.parse import urlencode

from skmoecbm.datasets._download import RemoteFile
from skmoecbm.datasets._http import get_json
from skmoecbm.exceptions import DownloadError

__all__ = ["dataverse_files"]


def dataverse_files(server, doi, wanted, *, remedy):
    """Return the files of a data set, by name without ending.

    Parameters
    ----------
    server : str
        "https://dataverse.harvard.edu"
    doi : str
        "doi:10.7910/DVN/..."
    wanted : sequence of str
        Names without ending. Tables are kept there in a form of its own (.tab) beside the file that
        was given; the checksum is of the latter, and that is what is fetched.
    remedy : str
        How to get the files by hand.

    Returns
    -------
    dict of str to RemoteFile

    Raises
    ------
    DownloadError
        If the server cannot be asked, or a file is not there.
    """
    address = f"{server}/api/datasets/:persistentId/?{urlencode({'persistentId': doi})}"
    problem = f"Could not ask {server} for the files of {doi}"
    told = get_json(address, problem=problem, remedy=remedy)
    found = {}
    try:
        for entry in told["data"]["latestVersion"]["files"]:
            data = entry["dataFile"]
            checksum = data.get("checksum") or {"type": "MD5", "value": data["md5"]}
            is_table = "originalFileFormat" in data
            name = data.get("originalFileName") if is_table else data.get("filename")
            name = name or entry["label"]
            size = data.get("originalFileSize") if is_table else data.get("filesize")
            kind = checksum["type"].lower().replace("-", "")
            found[name.rpartition(".")[0] or name] = RemoteFile(
                url=f"{server}/api/access/datafile/{data['id']}"
                + ("?format=original" if is_table else ""),
                name=name.replace("/", "_"),
                checksum=f"{kind}:{checksum['value']}",
                size=size,
            )
    except (KeyError, TypeError, AttributeError) as error:
        raise DownloadError(f"{problem}: the answer has another form now. {remedy}") from error
    if missing := [name for name in wanted if name not in found]:
        raise DownloadError(f"{problem}: {missing[0]!r} is not among them any more. {remedy}")
    return {name: found[name] for name in wanted}
