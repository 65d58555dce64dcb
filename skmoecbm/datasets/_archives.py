"""Archives unpacked into a folder that is there as a whole or not at all."""

import os
import shutil
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from skmoecbm.exceptions import DownloadError

__all__ = ["unpack"]


def unpack(archive, folder, *, verbose=True):
    """Unpack a ZIP archive into a new folder, and remove it; nothing if the folder is there.

    Parameters
    ----------
    archive : path-like
    folder : path-like
        Hold the lock of the folder around it.
    verbose : bool, default=True
        Show a progress bar.

    Raises
    ------
    DownloadError
        If the archive is damaged, or the disk too small for what is in it.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.is_dir():
        return
    fresh = folder.with_name(f".{folder.name}.part")
    if fresh.exists():  # of a process that was killed
        shutil.rmtree(fresh)
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [one for one in opened.infolist() if not one.is_dir()]
            size = sum(one.file_size for one in members)
            free = shutil.disk_usage(folder.parent).free
            if size > free:
                raise DownloadError(
                    f"Could not unpack {str(archive)!r}: {size:,} bytes come out of it, {free:,} "
                    "are free. Free some space, or name a folder on a larger disk (data_home, or "
                    "SKMOECBM_DATA)."
                )
            fresh.mkdir()
            bar = tqdm(members, desc=f"{archive.name} unpacked", unit="file", disable=not verbose)
            for member in bar:
                opened.extract(member, fresh)  # takes drives and ".." out of names
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        archive.unlink()
        raise DownloadError(
            f"Could not unpack {str(archive)!r}: {error}. It was removed; the next call downloads "
            "it again."
        ) from error
    os.replace(fresh, folder)
    archive.unlink()
