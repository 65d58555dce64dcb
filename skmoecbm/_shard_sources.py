"""Where the images of a large run come from: files, Parquet tables, Hugging Face data sets.

Each source knows how many rows it has and gives any range of them, in any process that sees the
same disk; none holds its images.
"""

import hashlib
import os
from pathlib import Path

from skmoecbm._folder import list_images
from skmoecbm._shards import need_parquet, write_beside
from skmoecbm._validation import parameter_error
from skmoecbm.exceptions import InputError

__all__ = ["DatasetRows", "FileRows", "TableRows", "find_source"]

ROWS = "rows.parquet"

_BATCH = 256  # rows with their images held at a time


def find_source(source, *, image_column, key_column, root):
    """Return the source that `skmoecbm.distributed.encode` was given.

    Parameters
    ----------
    source, image_column, key_column, root
        As there.

    Returns
    -------
    FileRows, TableRows or DatasetRows
        With `n_rows`, `digest` (what tells it from other sources) and `placed(out, shard_size)`,
        which returns what workers can `read(start, stop)`.
    """
    root = os.path.abspath(root or os.curdir)
    if type(source).__module__.partition(".")[0] == "datasets":
        return DatasetRows(source, image_column, key_column, root)
    if isinstance(source, str | os.PathLike):
        path = Path(source).expanduser().absolute()
        if path.is_dir():
            tables = sorted(path.glob("*.parquet"))
            if not tables:
                files = list_images([path])
                keys = [file.relative_to(path).as_posix() for file in files]
                return FileRows(keys, str(path))
        elif path.suffix == ".parquet" and path.is_file():
            tables = [path]
        else:
            raise InputError(
                f"{str(source)!r} is neither a folder nor a .parquet file. Give a folder of "
                "images, a list of their paths, Parquet files, or a Hugging Face Dataset."
            )
        return TableRows(tables, image_column, key_column, root)
    if hasattr(source, "tolist"):  # an array, a Series
        source = source.tolist()
    if not isinstance(source, list | tuple) or not all(
        isinstance(path, str | os.PathLike) for path in source
    ):
        raise parameter_error(
            "encode",
            "source",
            "a folder, a list of paths, a .parquet file or a folder of them, or a datasets.Dataset",
            source,
        )
    if not source:
        raise InputError("The list of images is empty. Give one path at least.")
    paths = [os.fspath(path) for path in source]
    if all(path.endswith(".parquet") for path in paths):
        return TableRows(sorted(map(Path, paths)), image_column, key_column, root)
    return FileRows(paths, root)


class FileRows:
    """A list of image files, before it has a place on disk that workers can read it from.

    Parameters
    ----------
    keys : list of str
        Paths, relative to `root` or absolute.
    root : str
    """

    def __init__(self, keys, root):
        self.keys, self.root = keys, root
        self.n_rows = len(keys)
        digest = hashlib.blake2b(digest_size=16)
        for key in keys:
            try:
                digest.update(key.encode() + b"\0")
            except UnicodeEncodeError as error:
                raise InputError(
                    f"The name of the file {key!r} is not UTF-8, and Parquet files hold no other "
                    "text. Rename it."
                ) from error
        self.digest = digest.hexdigest()

    def placed(self, out, shard_size):
        """Write the list, one row group per shard, where it is not there; return it as a table."""
        pyarrow, parquet = need_parquet()
        path = Path(out) / ROWS
        if not path.exists():
            with write_beside(path) as temporary:
                parquet.write_table(
                    pyarrow.table({"key": self.keys}), temporary, row_group_size=shard_size
                )
        return TableRows([path], "key", "key", self.root)


class TableRows:
    """The rows of Parquet files, with paths or the bytes of images in a column.

    Parameters
    ----------
    files : list of Path
    image_column, key_column : str or None
    root : str
        Folder that relative paths start from.
    """

    def __init__(self, files, image_column, key_column, root):
        _, parquet = need_parquet()
        self.files = [str(Path(file).absolute()) for file in files]
        self.image_column, self.key_column, self.root = image_column, key_column, root
        self.counts, state = [], [image_column, key_column]
        for file in self.files:
            try:
                metadata = parquet.read_metadata(file)
            except (OSError, ValueError) as error:
                raise InputError(f"The Parquet file {file!r} cannot be read: {error}") from error
            names = metadata.schema.to_arrow_schema().names
            for column in filter(None, (image_column, key_column)):
                if column not in names:
                    raise InputError(
                        f"The Parquet file {file!r} has no column {column!r}; it has {names}. "
                        "Name the column of the images with image_column=, that of the keys with "
                        "key_column=."
                    )
            self.counts.append(metadata.num_rows)
            state.append((os.path.basename(file), os.path.getsize(file), metadata.num_rows))
        self.n_rows = sum(self.counts)
        self.digest = _digest(state)

    def placed(self, out, shard_size):
        """Return itself: it is on disk already."""
        return self

    def read(self, start, stop):
        """Yield (key, image) of some rows; an image is a path, bytes or None."""
        columns = list(dict.fromkeys(filter(None, (self.image_column, self.key_column))))
        first = 0
        for file, count in zip(self.files, self.counts, strict=True):
            low, high = max(start - first, 0), min(stop - first, count)
            if low < high:
                for row, cells in _table_range(file, columns, low, high):
                    image = cells[self.image_column]
                    name = f"{os.path.basename(file)}:{row}"
                    key = cells[self.key_column] if self.key_column else None
                    yield _key_and_image(key, image, name, self.root)
            first += count


class DatasetRows:
    """The rows of a Hugging Face `datasets.Dataset`.

    Parameters
    ----------
    dataset : datasets.Dataset
    image_column, key_column : str or None
    root : str
        Folder that relative paths start from.
    """

    def __init__(self, dataset, image_column, key_column, root):
        columns = getattr(dataset, "column_names", None)
        if not isinstance(columns, list) or not hasattr(dataset, "__len__"):
            raise InputError(
                f"Expected a datasets.Dataset, got {type(dataset).__name__}. Choose one split "
                "(dataset['train']); save an iterable one with to_parquet first, so that every "
                "worker can read its own rows."
            )
        for column in filter(None, (image_column, key_column)):
            if column not in columns:
                raise InputError(
                    f"The data set has no column {column!r}; it has {columns}. Name it with "
                    "image_column= or key_column=."
                )
        self.digest = _digest([dataset._fingerprint, image_column, key_column])
        if type(dataset.features[image_column]).__name__ == "Image":
            import datasets

            # the bytes of the file, as all other sources give them: one way of decoding
            dataset = dataset.cast_column(image_column, datasets.Image(decode=False))
        self.dataset = dataset.select_columns(
            list(dict.fromkeys(filter(None, (image_column, key_column))))
        )
        self.image_column, self.key_column, self.root = image_column, key_column, root
        self.n_rows = len(dataset)

    def placed(self, out, shard_size):
        """Return itself: workers get the data set, whose files they map, not its rows."""
        return self

    def read(self, start, stop):
        """Yield (key, image) of some rows; an image is a path, bytes or None."""
        for first in range(start, stop, _BATCH):
            part = self.dataset[first : min(first + _BATCH, stop)]
            images = part[self.image_column]
            keys = part[self.key_column] if self.key_column else [None] * len(images)
            for row, (key, image) in enumerate(zip(keys, images, strict=True), first):
                yield _key_and_image(key, image, str(row), self.root)


def _table_range(file, columns, start, stop):
    """Yield (row, {column: value}) of rows `start` to `stop` of one Parquet file."""
    _, parquet = need_parquet()
    with parquet.ParquetFile(file) as table:
        first = 0
        for group in range(table.metadata.num_row_groups):
            count = table.metadata.row_group(group).num_rows
            row = first
            if first < stop and first + count > start:
                for batch in table.iter_batches(_BATCH, row_groups=[group], columns=columns):
                    if row + len(batch) > start and row < stop:
                        low, high = max(start - row, 0), min(stop - row, len(batch))
                        yield from enumerate(batch[low:high].to_pylist(), row + low)
                    row += len(batch)
            first += count


def _key_and_image(key, image, name, root):
    """Return a row's key and its image, from how Parquet files and data sets store them."""
    if isinstance(image, dict):  # the Image feature of Hugging Face
        content, path = image.get("bytes"), image.get("path")
        name = path or name
        image = path if content is None else content
    elif isinstance(image, str):
        name = image
    if isinstance(image, str):
        image = os.path.join(root, image)
    return str(name if key is None else key), image


def _digest(state):
    return hashlib.blake2b(repr(state).encode(), digest_size=16).hexdigest()
