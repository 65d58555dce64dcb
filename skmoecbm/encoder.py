"""Images (or reports) to similarities with concepts, as scikit-learn transformers."""

from pathlib import Path

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils.validation import check_is_fitted

from skmoecbm._blocks import ExpertBlock
from skmoecbm._encoder_parameters import check_encoder, check_image_reading, revision_of
from skmoecbm._encoder_rows import as_text_list, count_rows, image_rows, text_rows
from skmoecbm._encoder_texts import (
    check_words,
    class_rows,
    concept_rows,
    known_concepts,
    prompted,
    with_vectors,
)
from skmoecbm._identity import check_same_backbone
from skmoecbm._provenance import encoder_training, selection_of
from skmoecbm._union import ExpertUnion
from skmoecbm._validation import check_choice, resolve_device
from skmoecbm.backbones import load_backbone
from skmoecbm.concepts import as_bank
from skmoecbm.exceptions import InputError
from skmoecbm.features import ExpertFeatures
from skmoecbm.store import EmbeddingStore

__all__ = ["ConceptEncoder", "ExpertUnion"]


class ConceptEncoder(CallbackSupportMixin, TransformerMixin, BaseEstimator):
    """Turn images into their similarities with concepts, as one image-text model sees them.

    Each image is embedded once, ever: embeddings are kept in a store, and changing the concepts,
    the folds or the classifier embeds nothing again.

    Parameters
    ----------
    backbone : str
        The image-text model, as in `skmoecbm.backbones.load_backbone`: "ViT-B-16/openai",
        "hf-hub:org/repo", "local-dir:path", "demo-general", "demo-structures".
    concepts : ConceptBank, dict of class to phrases, list of phrases, or str
        A str names a bundled bank, or a ".json" file.
    modality : {"image", "text"}, default="image"
        `"text"` compares reports instead of images; None, NaN and blank texts are missing.
    revision : str, default=None
        Commit, tag or branch of a Hub model. Once fitted, the commit that it was is used until
        this or `backbone` is set, or `fit` called, again.
    templates : list of str, or str, default=None
        Prompts with one `{}` each, in place of the bank's; or the name of those that the bank has
        for a kind of image ("dermoscopy").
    concept_vectors : ConceptVectors, default=None
        Directions learned from annotated images (`fit_concept_vectors`), instead of the words of
        the concepts they name, or mixed with them; those not in the bank are added to it.
    select : selector, default=None
        Chooses concepts in `fit`: `SubmodularSelector` or `TopKConcepts`, which then need `y`;
        None keeps all.
    resize : {"crop", "pad", "squash"}, default="crop"
        How an image is fitted to the model's square; the centre crop cuts a quarter off a 4:3
        image.
    value_range : (low, high), default=None
        The values that mean black and white in images that are not 8-bit; required for them.
    precision : {"auto", "fp32", "bf16", "fp16"}, default="auto"
        Format in which images are embedded; "auto" times what the device offers.
    batch_size : int or "auto", default=32
        Images in one pass; "auto" finds what a GPU is fastest with, by doubling.
    cache_dir : path, "auto" or None, default="auto"
        Folder of the embeddings; `"auto"` is the user's cache folder, None the memory of this
        process.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
    on_error : {"raise", "missing"}, default="raise"
        What to do with an image that cannot be read: raise, or make its row NaN and warn once.
    verbose : int, default=0
        1 shows a progress bar over the images that must be embedded.

    Attributes
    ----------
    bank_ : ConceptBank
        The concepts in use, after those a small model does not know, or `select` refused, are
        gone.
    concept_embeddings_ : ndarray of shape (m, d), float32
        L2-normalised mean over a concept's phrases and the templates.
    class_embeddings_ : ndarray of shape (C, d), float32, or None
        The same of the class names; None without classes, or where the model does not know the
        names.
    n_concepts_ : int
        m.
    backbone_identity_ : dict
        Model, revision, hash of the weights, preprocessing, precision.
    fingerprint_ : str
        Hash of that.
    notice_ : str or None
        A warning of the model that must go with every result.
    select_ : selector or None
        The fitted selector; None in a model that was loaded.
    training_summary_ : dict
        Concepts given, known to the model and kept; how they were selected and on how many rows,
        with one-way digests of these; the device. Plain values, no dates.

    Raises
    ------
    InputError
        In `fit`, if a parameter is bad, lengths differ, or the model knows no concept of the bank.
    BackboneError
        If the model cannot be had.

    References
    ----------
    Yang et al., "Language in a Bottle", CVPR 2023, section 3.1: similarities with concepts as
    the input of a linear classifier.

    Examples
    --------
    >>> from sklearn.base import clone
    >>> from skmoecbm import ConceptEncoder
    >>> encoder = ConceptEncoder("demo-general", {"mel": ["asymmetric"], "nv": ["round"]})
    >>> clone(encoder).set_params(resize="pad").resize
    'pad'
    """

    def __init__(
        self,
        backbone,
        concepts,
        *,
        modality="image",
        revision=None,
        templates=None,
        concept_vectors=None,
        select=None,
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
        self.concepts = concepts
        self.modality = modality
        self.revision = revision
        self.templates = templates
        self.concept_vectors = concept_vectors
        self.select = select
        self.resize = resize
        self.value_range = value_range
        self.precision = precision
        self.batch_size = batch_size
        self.cache_dir = cache_dir
        self.device = device
        self.on_error = on_error
        self.verbose = verbose

    @with_callbacks
    def fit(self, X, y=None):
        """Embed the concepts and, where `select` is given, choose among them.

        Parameters
        ----------
        X : sequence of n images or texts
            Opened only where `select` is given.
        y : array of shape (n,), default=None
            Class labels; needed by `select` alone.

        Returns
        -------
        self
        """
        self._fit(X, y)
        return self

    @with_callbacks
    def fit_transform(self, X, y=None):
        """Fit, and return the features of `X`; each image is read once.

        Returns
        -------
        ExpertFeatures of shape (n, m)
        """
        backbone, rows = self._fit(X, y)
        return self._features(*(rows or self._rows(backbone, X)))

    def transform(self, X):
        """Return the similarities of images, or texts, with the concepts.

        Parameters
        ----------
        X : sequence of n images or texts

        Returns
        -------
        ExpertFeatures of shape (n, m), float32
            One block, named after the backbone; rows of missing images are NaN. A DataFrame with
            `expert__concept` columns after `set_output(transform="pandas")`.

        Raises
        ------
        InputError
            If an image cannot be read (with `on_error="raise"`), or the encoder was fitted with
            another model than the parameters now name.
        """
        check_is_fitted(self)
        self._check_parameters()
        backbone = self._load()
        check_same_backbone(self, backbone)
        return self._features(*self._rows(backbone, X))

    def embed_images(self, X):
        """Return the embeddings that the similarities are made of; needs no fit.

        Parameters
        ----------
        X : sequence of n images or texts

        Returns
        -------
        rows : ndarray of shape (n, d), float32
            L2-normalised; NaN where missing.
        fingerprint : str
            Of the backbone.
        """
        self._check_parameters()
        backbone = self._load()
        return self._rows(backbone, X)[0], backbone.fingerprint

    def embed_texts(self, texts):
        """Return the embeddings of any texts, in the space of the images; needs no fit.

        Parameters
        ----------
        texts : list of k str

        Returns
        -------
        ndarray of shape (k, d), float32
            L2-normalised.
        """
        self._check_parameters()
        return text_rows(self._load(), self._store(), list(texts), device=self._place())[0]

    def get_feature_names_out(self, input_features=None):
        """Return `"expert__concept"` of each column.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray of shape (m,), str objects
        """
        check_is_fitted(self)
        name = self._expert_name()
        return np.array([f"{name}__{text}" for text in self.bank_.texts], dtype=object)

    def __sklearn_tags__(self):
        """Tell scikit-learn that the input is one column of images or texts."""
        tags = super().__sklearn_tags__()
        tags.no_validation = True
        tags.input_tags.one_d_array = tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.input_tags.allow_nan = True  # missing images and texts are its own affair
        tags.target_tags.required = getattr(self.select, "needs_labels", self.select is not None)
        tags.transformer_tags.preserves_dtype = []
        return tags

    def _check_parameters(self):
        check_choice(self, "modality", self.modality, ("image", "text"))
        check_image_reading(self)
        check_encoder(self)
        check_words(self)

    def _load(self, *, to_fit=False):
        return load_backbone(
            self.backbone,
            revision=revision_of(self, to_fit=to_fit),
            precision=self.precision,
            resize=self.resize,
            device=self.device,
        )

    def _fit(self, X, y):
        context = self._init_callback_context()
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        self._check_parameters()
        bank = as_bank(self.concepts)
        n_rows = count_rows(X, self.modality)
        if y is not None and len(y) != n_rows:
            raise InputError(
                f"There must be one label per {self.modality}. Got {n_rows} {self.modality}s and "
                f"{len(y)} labels: inconsistent numbers of samples."
            )
        labels = self.select is not None and getattr(self.select, "needs_labels", True)
        if y is None and labels:
            raise InputError(
                "Selecting concepts needs labels: call fit(X, y), or set select=None to keep all."
            )
        backbone = self._load(to_fit=True)
        vectors = self.concept_vectors
        bank = with_vectors(bank, vectors, backbone, self)
        n_given = len(bank)
        bank = prompted(known_concepts(bank, backbone, vectors), self.templates, self)
        n_known = len(bank)
        store, place = self._store(), self._place()
        texts = concept_rows(backbone, store, bank, vectors, device=place)
        class_texts = class_rows(backbone, store, bank, device=place)
        rows = select = None
        if self.select is not None:
            rows = self._rows(backbone, X)
            select = clone(self.select).fit(rows[0], y, texts, bank.incidence, bank=bank)
            bank, texts = bank.subset(select.support_), texts[select.support_]
        self.bank_ = bank
        self.concept_embeddings_ = texts
        self.class_embeddings_ = class_texts
        self.n_concepts_ = len(bank)
        self.backbone_identity_ = backbone.identity
        self._fitted_source = (self.backbone, self.revision)
        for name in ("_not_saved", "_loaded_as"):  # of a loaded model
            vars(self).pop(name, None)
        self.fingerprint_ = backbone.fingerprint
        self.notice_ = backbone.notice
        self.select_ = select
        counts = (n_given, n_known, len(bank))
        seen = None if rows is None else rows[0]
        self.training_summary_ = encoder_training(place, counts, selection_of(select), seen, y)
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return backbone, rows

    def _rows(self, backbone, X):
        if self.modality == "text":
            return text_rows(
                backbone,
                self._store(),
                as_text_list(X),
                device=self._place(),
                verbose=bool(self.verbose),
            )
        return image_rows(
            backbone,
            self._store(),
            X,
            device=self._place(),
            value_range=self.value_range,
            on_error=self.on_error,
            batch_size=self.batch_size,
            verbose=bool(self.verbose),
        )

    def _store(self):
        return EmbeddingStore(self.cache_dir)

    def _place(self):
        return str(resolve_device(self.device, self))

    def _expert_name(self):
        # as it was fitted: a classifier knows its columns by it, wherever the model lies now
        backbone = getattr(self, "_fitted_source", (self.backbone,))[0]
        kind, _, rest = backbone.partition(":")
        name = Path(rest).name if kind == "local-dir" else backbone
        return name.replace("__", "_") or "expert"

    def _features(self, rows, present):
        bank, classes = self.bank_, {}
        if bank.classes:
            classes = {
                "incidence": bank.incidence,
                "answers": bank.answers if any(c.against for c in bank.concepts) else None,
                "class_keys": tuple(bank.class_keys),
                "class_synonyms": bank.class_synonyms,
                "class_embeddings": self.class_embeddings_,
            }
        return ExpertFeatures(
            [
                ExpertBlock(
                    name=self._expert_name(),
                    concepts=tuple(bank.texts),
                    present=present,
                    embeddings=rows,
                    texts=self.concept_embeddings_,
                    **classes,
                )
            ]
        )
