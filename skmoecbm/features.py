"""Similarities to the concepts of several experts: one array-like that knows its blocks."""

import numpy as np

from skmoecbm._blocks import (
    ExpertBlock,
    class_parts,
    concept_names,
    named_experts,
    unit_embeddings,
    value_rows,
)
from skmoecbm.exceptions import InputError

__all__ = ["ExpertBlock", "ExpertFeatures"]


class ExpertFeatures:
    """Similarities of images to concepts, block by block: an array-like of shape (n, Σm).

    numpy and scikit-learn see a float32 array of n rows (`np.asarray(features)`, `len`,
    `features[rows]`, `cross_val_score`, `GridSearchCV`); the classifiers of this package see the
    blocks, one at a time, and solve for many concepts through the embeddings.

    Parameters
    ----------
    blocks : iterable of ExpertBlock
        One per expert, in column order, with the same number of rows and distinct names.

    Attributes
    ----------
    blocks : tuple of ExpertBlock
    expert_names : tuple of str
    columns : list of str
        `"expert__concept"` of every column.
    shape : tuple (n, Σm)
    ndim : 2
    dtype : numpy.dtype of float32

    Raises
    ------
    InputError
        If there is no block, names repeat, or blocks differ in their number of rows.

    Notes
    -----
    Indexing by a slice, a list or array of row numbers, or a boolean mask gives `ExpertFeatures`
    of these rows; by one integer the 1-D float32 array of that row; any other key (columns
    included) is applied to `np.asarray(features)`. Iteration is over rows, as 1-D arrays.
    Objects are immutable.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.features import ExpertFeatures
    >>> features = ExpertFeatures.from_similarities(
    ...     {
    ...         "clip": ([[0.2, 0.1], [0.3, 0.4]], ["red", "round"]),
    ...         "bio": ([[0.5], [np.nan]], ["veil"]),
    ...     }
    ... )
    >>> features
    ExpertFeatures(2 rows; 'clip': 2 concepts, 'bio': 1 concept)
    >>> features.columns
    ['clip__red', 'clip__round', 'bio__veil']
    >>> features[[1]].blocks[1].present
    array([False])
    """

    def __init__(self, blocks):
        blocks = tuple(blocks)
        if not blocks or not all(isinstance(block, ExpertBlock) for block in blocks):
            raise InputError(
                "ExpertFeatures needs at least one ExpertBlock. "
                "Use ExpertFeatures.from_embeddings or from_similarities to make them."
            )
        names = [block.name for block in blocks]
        if len(set(names)) < len(names):
            raise InputError(f"Expert names must differ. Got {names}; rename one of them.")
        lengths = {block.name: len(block) for block in blocks}
        if len(set(lengths.values())) > 1:
            raise InputError(
                f"All experts must have the same number of rows. Got {lengths}; "
                "give an all-NaN row where an expert did not see an image."
            )
        self._blocks = blocks

    @property
    def blocks(self):
        """The blocks, a tuple of `ExpertBlock`."""
        return self._blocks

    @property
    def expert_names(self):
        """Names of the experts, a tuple of str."""
        return tuple(block.name for block in self._blocks)

    @property
    def columns(self):
        """`"expert__concept"` of every column, a list of str."""
        return [f"{b.name}__{concept}" for b in self._blocks for concept in b.concepts]

    @property
    def shape(self):
        """Rows and columns, (n, Σm)."""
        return len(self), sum(len(block.concepts) for block in self._blocks)

    ndim = 2
    dtype = np.dtype(np.float32)

    def __len__(self):
        """Return the number of rows."""
        return len(self._blocks[0])

    def __array__(self, dtype=None, copy=None):
        """Return the values of all blocks side by side, (n, Σm)."""
        if copy is False:
            raise ValueError("ExpertFeatures cannot become an array without a copy.")
        array = np.concatenate([block.values() for block in self._blocks], axis=1)
        return array if dtype is None else array.astype(dtype, copy=False)

    def __getitem__(self, key):
        """Return some rows; see the notes of the class."""
        # scikit-learn's _safe_indexing asks for features[rows, ...]
        rows = key[0] if isinstance(key, tuple) and len(key) == 2 and key[1] is Ellipsis else key
        if isinstance(rows, tuple):
            return np.asarray(self)[key]
        if not isinstance(rows, slice):
            rows = np.asarray(rows)
            rows = rows.astype(np.intp) if rows.size == 0 and rows.dtype != bool else rows
            if rows.ndim == 0 and rows.dtype.kind in "iu":
                return np.asarray(self[rows[None]])[0]
            if rows.ndim != 1 or rows.dtype.kind not in "iub":
                return np.asarray(self)[key]
        return ExpertFeatures(block.take(rows) for block in self._blocks)

    def __iter__(self):
        """Iterate over the rows, 1-D float32 arrays."""
        return iter(np.asarray(self))

    def __repr__(self):
        """Return one line: rows, names, concepts."""
        parts = (
            f"{b.name!r}: {len(b.concepts)} concept{'s' * (len(b.concepts) != 1)}"
            for b in self._blocks
        )
        return f"ExpertFeatures({len(self)} rows; {', '.join(parts)})"

    def to_frame(self, index=None):
        """Return the values as a DataFrame of shape (n, Σm), float32, columns `expert__concept`.

        Parameters
        ----------
        index : array-like of shape (n,), default=None
            Labels of the rows; None numbers them.
        """
        import pandas as pd

        return pd.DataFrame(np.asarray(self), columns=self.columns, index=index)

    def select(self, names):
        """Return the features of some experts, in the order of `names`.

        Parameters
        ----------
        names : str or list of str

        Raises
        ------
        InputError
            If a name is not one of `expert_names`.
        """
        by_name = {block.name: block for block in self._blocks}
        names = [names] if isinstance(names, str) else list(names)
        unknown = [name for name in names if name not in by_name]
        if unknown:
            raise InputError(f"There is no expert {unknown[0]!r} here; there are {list(by_name)}.")
        return ExpertFeatures(by_name[name] for name in names)

    @classmethod
    def from_embeddings(
        cls,
        experts,
        *,
        incidence=None,
        answers=None,
        class_keys=None,
        class_synonyms=None,
        class_embeddings=None,
    ):
        """Make features from image and concept embeddings that you bring.

        Parameters
        ----------
        experts : dict of str to (X, T, names)
            Per expert the image embeddings X (n, d), the concept embeddings T (m, d) and the m
            concept names. Vectors of any length are L2-normalised here, in float64, and stored as
            float32. An all-NaN row of X means that this expert did not see the row. A
            `numpy.memmap` of float32 rows of unit length is not copied: it stays on the disk.
        incidence : array of shape (m, C), bool or 0/1, or dict of them by expert, default=None
            Whether a concept was written for a class; what the class prior needs.
        answers : array of shape (m, C) of -1, 0 and 1, or dict of them by expert, default=None
            Whether a concept speaks against a class (-1) or for it (1); what `prior="answers"`
            needs. Where `incidence` is not given, it is 1 where this is.
        class_keys : list of str, length C, or dict of them by expert, default=None
            The classes, as they appear in `y`.
        class_synonyms : dict of str to str, or dict of such by expert, default=None
            Other spellings of a class -> its key; compared without case.
        class_embeddings : array of shape (C, d), or dict of them by expert, default=None
            Embeddings of the class names, in each expert's own text space; normalised here.

        Returns
        -------
        ExpertFeatures

        Raises
        ------
        InputError
            If shapes or names do not fit, a row is partly NaN, or a vector is infinite or zero.

        Examples
        --------
        >>> import numpy as np
        >>> from skmoecbm.features import ExpertFeatures
        >>> X, T = np.eye(3, 4), np.ones((2, 4))
        >>> np.asarray(ExpertFeatures.from_embeddings({"clip": (X, T, ["red", "round"])}))[0]
        array([0.5, 0.5], dtype=float32)
        """
        blocks = []
        for name, parts in named_experts(
            experts, 3, "a tuple (image embeddings, concept embeddings, names)"
        ):
            embeddings, texts, concepts = parts
            concepts = concept_names(name, concepts)
            texts, _ = unit_embeddings(name, texts, "concept embeddings", absent=False)
            embeddings, present = unit_embeddings(name, embeddings)
            if len(texts) != len(concepts) or texts.shape[1] != embeddings.shape[1]:
                raise InputError(
                    f"Expert {name!r}: image embeddings (n, d), concept embeddings (m, d) and m "
                    f"names must agree. Got {embeddings.shape}, {texts.shape} and "
                    f"{len(concepts)} names."
                )
            blocks.append(
                ExpertBlock(
                    name=name,
                    concepts=concepts,
                    present=present,
                    embeddings=embeddings,
                    texts=texts,
                    **class_parts(
                        name,
                        len(concepts),
                        incidence,
                        class_keys,
                        class_synonyms,
                        class_embeddings,
                        texts.shape[1],
                        answers,
                    ),
                )
            )
        return cls(blocks)

    @classmethod
    def from_similarities(
        cls, experts, *, incidence=None, answers=None, class_keys=None, class_synonyms=None
    ):
        """Make features from similarities, or any other numbers per concept, that you bring.

        Parameters
        ----------
        experts : dict of str to (D, names)
            Per expert the values D (n, m) and the m concept names. An all-NaN row means that this
            expert did not see the row.
        incidence, answers, class_keys, class_synonyms
            As in `from_embeddings`.

        Returns
        -------
        ExpertFeatures

        Raises
        ------
        InputError
            If shapes or names do not fit, a row is partly NaN, or a value is infinite or beyond
            float32.
        """
        blocks = []
        for name, (values, concepts) in named_experts(experts, 2, "a tuple (similarities, names)"):
            concepts = concept_names(name, concepts)
            values, present = value_rows(name, "similarities", values)
            if values.shape[1] != len(concepts):
                raise InputError(
                    f"Expert {name!r}: similarities of shape (n, m) need m names. "
                    f"Got {values.shape} and {len(concepts)} names."
                )
            large = np.flatnonzero((np.abs(values) > np.finfo(np.float32).max).any(axis=1))
            if large.size:
                raise InputError(
                    f"Expert {name!r}: row {large[0]} of the similarities has a value too large "
                    "for float32; remove or mend it."
                )
            blocks.append(
                ExpertBlock(
                    name=name,
                    concepts=concepts,
                    present=present,
                    similarities=values.astype(np.float32),
                    **class_parts(
                        name,
                        len(concepts),
                        incidence,
                        class_keys,
                        class_synonyms,
                        answers=answers,
                    ),
                )
            )
        return cls(blocks)
