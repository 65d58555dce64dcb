"""Archives unpacked into a folder that is there as a whole or not at all."""

import errno
import lzma
import os
import shutil
import zipfile
import zlib
from pathlib import Path

from tqdm import tqdm

from skmoecbm.exceptions import DownloadError

__all__ = ["unpack"]

_MORE_SPACE = "Free some space, or name a folder on a larger disk (data_home, or SKMOECBM_DATA)."


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
        If the archive is damaged (it is removed, so that the next call gets it anew), the disk too
        small for what is in it, or it cannot be unpacked here (the sentence says what to do).
    """
    archive, folder = Path(archive), Path(folder)
    if folder.is_dir():
        return
    fresh = folder.with_name(f".{folder.name}.part")
    problem = f"Could not unpack {str(archive)!r}"
    try:
        if fresh.exists():  # of a process that was killed
            shutil.rmtree(fresh)
        _extract(archive, fresh, verbose)
        os.replace(fresh, folder)
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        archive.unlink()
        raise DownloadError(
            f"{problem}: {error or 'it ends too early'}. It was removed; the next call downloads "
            "it again."
        ) from error
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: password, compression
        if isinstance(error, DownloadError):
            raise
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise DownloadError(f"{problem}: the disk is full. {_MORE_SPACE}") from error
        raise DownloadError(
            f"{problem}: {error}. Delete this file, and the next call downloads it again; if that "
            f"does not help, unpack it by other means into the folder {str(folder)!r}."
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    archive.unlink()


def _extract(archive, folder, verbose):
    with zipfile.ZipFile(archive) as opened:
        members = [one for one in opened.infolist() if not one.is_dir()]
        size = sum(one.file_size for one in members)
        free = shutil.disk_usage(folder.parent).free
        if size > free:
            raise DownloadError(
                f"Could not unpack {str(archive)!r}: {size:,} bytes come out of it, {free:,} are "
                f"free. {_MORE_SPACE}"
            )
        folder.mkdir()
        bar = tqdm(members, desc=f"{archive.name} unpacked", unit="file", disable=not verbose)
        for member in bar:
            opened.extract(member, folder)  # takes drives and ".." out of names
