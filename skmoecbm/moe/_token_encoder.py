"""Images to the tokens of an image-text model, as a scikit-learn transformer."""

import warnings

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skmoecbm._encoder_parameters import check_encoder, check_image_reading, revision_of
from skmoecbm._encoder_rows import count_rows, image_rows
from skmoecbm._identity import check_same_backbone
from skmoecbm._image_embeddings import ImageEmbeddings
from skmoecbm._validation import check_number, resolve_device
from skmoecbm.exceptions import InputError, SkmoecbmWarning
from skmoecbm.moe._image_tokens import load_image_tokens
from skmoecbm.moe._token_features import TokenFeatures
from skmoecbm.moe._without_columns import WithoutColumns
from skmoecbm.store import EmbeddingStore

__all__ = ["SUMMARY", "TokenEncoder", "TokensOfOneStream"]

SUMMARY = "[summary]"  # the name of a first token


class TokensOfOneStream(WithoutColumns, BaseEstimator):
    """What encoders of images and of texts share: a backbone, and tokens instead of columns."""

    _stream = "tokens"

    @property
    def modality(self):
        """What rows are, "image" or "text", as of `ConceptEncoder`."""
        return self._stream

    def fit(self, X, y=None):
        """Load the backbone and remember which it is; no row is opened.

        Parameters
        ----------
        X : sequence of n images or texts
        y : ignored

        Returns
        -------
        self
        """
        self._check_parameters()
        self._count(X)
        model = self._load(to_fit=True)
        self.backbone_identity_ = model.identity
        self.fingerprint_ = model.fingerprint
        self.notice_ = model.notice
        self.width_ = model.width
        self._fitted_source = (self.backbone, self.revision)
        self._remember(model)
        return self

    def transform(self, X):
        """Return the tokens of rows; what the store holds is not computed.

        Parameters
        ----------
        X : sequence of n images or texts
            As in `fit`.

        Returns
        -------
        TokenFeatures
            One stream, float32.

        Raises
        ------
        InputError
            If a row cannot be read, or the encoder was fitted with another model than the
            parameters now name.
        """
        check_is_fitted(self)
        self._check_parameters()
        model = self._load()
        check_same_backbone(self, model)
        return self._tokens(model, X)

    def get_feature_names_out(self, input_features=None):
        """Return a name for each number of a token: tokens are rows of `width_` of them.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of shape (d,), str objects
        """
        check_is_fitted(self)
        return np.array([f"{self._stream}__{i}" for i in range(self.width_)], dtype=object)

    def __sklearn_tags__(self):
        """Tell scikit-learn that the input is one column of images or texts."""
        tags = super().__sklearn_tags__()
        tags.no_validation = True
        tags.input_tags.one_d_array = tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _store(self):
        return EmbeddingStore(self.cache_dir)

    def _place(self):
        return str(resolve_device(self.device, self))


class TokenEncoder(TokensOfOneStream):
    """Turn images into the tokens that an image-text model makes of them.

    A token sums up the image, the others stand for its places. They are those of the last layer,
    after its norm and before the projection into the space that images share with texts: the
    first one, projected, is what `ConceptEncoder` sees. Each image goes through the network once,
    ever: tokens are kept in the store that embeddings are kept in.

    Parameters
    ----------
    backbone : str
        The image-text model, as in `skmoecbm.backbones.load_backbone`: "ViT-B-16/openai",
        "hf-hub:org/repo", "local-dir:path", "demo-general", "demo-structures".
    grid : int, default=None
        Average the patches over the cells of a grid of so many rows and columns; None keeps all.
        An image takes (1 + P) d 4 bytes, in memory and in the store: with "ViT-B-16/openai"
        (P = 14 x 14, d = 768) 605 kB, and with `grid=7` 154 kB. The store keeps 4 GiB, which are
        7,000 such images, or 28,000.
    revision : str, default=None
        Commit, tag or branch of a Hub model. Once fitted, the commit that it was is used until
        this or `backbone` is set, or `fit` called, again.
    resize : {"crop", "pad", "squash"}, default="crop"
        How an image is fitted to the model's square.
    value_range : (low, high), default=None
        The values that mean black and white in images that are not 8-bit; required for them.
    precision : {"auto", "fp32", "bf16", "fp16"}, default="auto"
        Format of the forward pass; "auto" times what the device offers. Tokens are float32.
    batch_size : int or "auto", default=32
        Images in one pass.
    cache_dir : path, "auto" or None, default="auto"
        Folder of the store; `"auto"` is the user's cache folder, None the memory of this process.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
    on_error : {"raise", "missing"}, default="raise"
        What to do with an image that cannot be read: raise, or make its row missing and warn
        once. None and NaN are missing rows and never an error.
    verbose : int, default=0
        1 shows a progress bar over the images that must be encoded.

    Attributes
    ----------
    n_tokens_ : int
        1 + P.
    width_ : int
        d.
    grid_ : (int, int) or None
        Rows and columns of the patches, which go row by row from the upper left; None where the
        tokens have no places (CoCa's attention pool).
    backbone_identity_ : dict
        Model, revision, hash of the weights, preprocessing, precision, grid.
    fingerprint_ : str
        Hash of that.
    notice_ : str or None
        A warning of the model that must go with every result.

    Raises
    ------
    InputError
        In `fit`, if a parameter is bad.
    BackboneError
        If the model cannot be had, or its image tower has no tokens.

    Notes
    -----
    By tower: a vision transformer of open_clip gives its class token (or the mean of the patches,
    where the model pools so) and its patches. A timm tower gives the outcome of its own pooling
    and of `forward_features`. A ResNet of CLIP gives what its attention pool mixes, before the
    last projection, and the feature map as that pool reads it: with the embedding of each
    position. Rows do not depend on the other rows, up to float noise.

    References
    ----------
    Dosovitskiy et al. (2021), "An image is worth 16x16 words", equations 1 to 4; Radford et al.
    (2021), "Learning transferable visual models from natural language supervision", section 2.4.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoecbm.moe import TokenEncoder
    >>> images = [np.zeros((80, 90, 3), dtype=np.uint8), None]
    >>> TokenEncoder("demo-general", cache_dir=None).fit_transform(images)
    TokenFeatures(2 rows; 'image': 5 tokens of width 384, 1 without)
    """

    _stream = "image"

    def __init__(
        self,
        backbone,
        *,
        grid=None,
        revision=None,
        resize="crop",
        value_range=None,
        precision="auto",
        batch_size=32,
        cache_dir="auto",
        device="auto",
        on_error="raise",
        verbose=0,
    ):
        self.backbone = backbone
        self.grid = grid
        self.revision = revision
        self.resize = resize
        self.value_range = value_range
        self.precision = precision
        self.batch_size = batch_size
        self.cache_dir = cache_dir
        self.device = device
        self.on_error = on_error
        self.verbose = verbose

    def token_names(self, X=None):
        """Return what each token of an image stands for, the same for all images.

        Parameters
        ----------
        X : ignored

        Returns
        -------
        list of 1 + P str
            "[summary]", then "row 0, column 0" and so on from the upper left; "query 1" and so on
            where the tokens have no places.
        """
        check_is_fitted(self)
        if self.grid_ is None:
            return [SUMMARY, *(f"query {i}" for i in range(1, self.n_tokens_))]
        rows, columns = self.grid_
        places = [f"row {r}, column {c}" for r in range(rows) for c in range(columns)]
        return [SUMMARY, *places]

    def _check_parameters(self):
        check_encoder(self)
        check_image_reading(self)
        if self.grid is not None:
            check_number(self, "grid", self.grid, low=1, integer=True)

    def _count(self, X):
        if isinstance(X, ImageEmbeddings):
            raise InputError(
                "TokenEncoder needs images. Got ImageEmbeddings, which hold one vector an image "
                "and no tokens; give the images they were made of."
            )
        return count_rows(X, "image")

    def _load(self, *, to_fit=False):
        return load_image_tokens(
            self.backbone,
            grid=None if self.grid is None else int(self.grid),
            revision=revision_of(self, to_fit=to_fit),
            precision=self.precision,
            resize=self.resize,
            device=self.device,
        )

    def _remember(self, model):
        self.n_tokens_ = model.n_tokens
        self.grid_ = model.grid

    def _tokens(self, model, X):
        n = self._count(X)
        store = self._store()
        if 4 * model.dim * n > store.max_bytes:
            warnings.warn(
                f"The tokens of {n:,} images take {4e-9 * model.dim * n:.1f} GB and the store "
                f"keeps {1e-9 * store.max_bytes:.1f} GB, so some will be computed again when they "
                "are next asked for. Average the patches with a (smaller) grid, such as grid=4.",
                SkmoecbmWarning,
                stacklevel=4,
            )
        rows, _ = image_rows(
            model,
            store,
            X,
            device=self._place(),
            value_range=self.value_range,
            on_error=self.on_error,
            batch_size=self.batch_size,
            verbose=bool(self.verbose),
            none_is_missing=True,
        )
        return TokenFeatures({self._stream: rows.reshape(n, model.n_tokens, model.width)})
