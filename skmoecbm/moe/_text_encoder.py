"""Texts to the tokens of a language model, as a scikit-learn transformer."""

import warnings

from sklearn.utils.validation import check_is_fitted

from skmoecbm._encoder_parameters import check_encoder, revision_of
from skmoecbm._encoder_rows import as_text_list
from skmoecbm._validation import check_number
from skmoecbm.exceptions import SkmoecbmWarning
from skmoecbm.moe._text_rows import text_token_rows
from skmoecbm.moe._text_tokens import load_text_tokens
from skmoecbm.moe._token_encoder import SUMMARY, TokensOfOneStream
from skmoecbm.moe._token_features import TokenFeatures

__all__ = ["TextTokenEncoder"]


class TextTokenEncoder(TokensOfOneStream):
    """Turn texts into the tokens that a language model makes of them.

    A token sums up the text, the others stand for its word pieces in the order of reading: states
    of the last layer, after its norm. Tokens of begin and end are not among the words, and padding
    never reaches a token. Each text goes through the network once, ever.

    Parameters
    ----------
    backbone : str
        A language model or the text tower of an image-text model. "org/repo" is a model of the
        package transformers on the Hugging Face Hub ("microsoft/biogpt"), which needs
        `pip install 'skmoecbm[biomed]'`; "model/pretrained" one of `open_clip.list_pretrained()`
        ("ViT-B-16/openai"). "hf-hub:org/repo" and "local-dir:path" are either: of open_clip where
        `open_clip_config.json` is there. "demo-general" and "demo-structures" are the demo experts.
    revision : str, default=None
        Commit, tag or branch of a Hub model. Once fitted, the commit that it was is used until
        this or `backbone` is set, or `fit` called, again.
    max_length : int, default=None
        Most tokens of a text, those of begin and end included; None is what the model reads. A
        longer text is cut, and a warning counts them. A text takes (1 + L) d 4 bytes, and up to 16
        tokens more in the store: a note of 200 word pieces under BioGPT (d = 1,024) 0.8 MB.
    batch_size : int or "auto", default=32
        Most texts in one pass, which are those of one length.
    cache_dir : path, "auto" or None, default="auto"
        Folder of the store; `"auto"` is the user's cache folder, None the memory of this process.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default="auto"
        Texts are always read in float32.
    verbose : int, default=0
        1 shows a progress bar over the texts that must be encoded.

    Attributes
    ----------
    max_length_ : int
        Most tokens of a text.
    width_ : int
        d.
    backbone_identity_ : dict
        Model, revision, hashes of weights and tokenizer, `max_length`.
    fingerprint_ : str
        Hash of that.
    notice_ : str or None
        A warning of the model that must go with every result.

    Raises
    ------
    InputError
        If a parameter is bad, or a row is no text.
    BackboneError
        If the model cannot be had, lacks a weight, or reads no texts. Code that comes with a
        model is never run.

    Notes
    -----
    What sums a text up: where a token sees only those before it (BioGPT, GPT) the state of the last
    one, which is put first and, if it is a word, keeps its place among the words too; where all
    tokens see each other, that of the token that begins the text (BERT's [CLS]), or the mean of the
    words where there is none (T5). A text tower gives what it projects: CLIP the state of the end
    token.

    None, NaN and blank texts are missing rows. Reports often name what is to be predicted: see
    `skmoecbm.mask_terms`.

    References
    ----------
    Luo et al. (2022), "BioGPT: generative pre-trained transformer for biomedical text generation
    and mining"; Devlin et al. (2019), "BERT", section 3.

    Examples
    --------
    >>> from skmoecbm.moe import TextTokenEncoder
    >>> encoder = TextTokenEncoder("demo-general", cache_dir=None)
    >>> encoder.fit_transform(["irregular border", None, "blue-white veil, no hair"])
    TokenFeatures(3 rows; 'text': 3 to 8 tokens of width 64, 1 without)
    """

    _stream = "text"

    def __init__(
        self,
        backbone,
        *,
        revision=None,
        max_length=None,
        batch_size=32,
        cache_dir="auto",
        device="auto",
        verbose=0,
    ):
        self.backbone = backbone
        self.revision = revision
        self.max_length = max_length
        self.batch_size = batch_size
        self.cache_dir = cache_dir
        self.device = device
        self.verbose = verbose

    def token_names(self, X):
        """Return what each token stands for: word pieces, as the model reads them.

        Parameters
        ----------
        X : sequence of n texts

        Returns
        -------
        list of n lists of str
            "[summary]", then the pieces; None for a missing text.

        Examples
        --------
        >>> from skmoecbm.moe import TextTokenEncoder
        >>> encoder = TextTokenEncoder("demo-general", cache_dir=None).fit(["hair"])
        >>> encoder.token_names(["Irregular border", None])
        [['[summary]', 'irregular', 'border'], None]
        """
        check_is_fitted(self)
        texts = as_text_list(X)
        given = [text for text in texts if text is not None]
        pieces = iter(self._load().pieces(given) if given else ())
        return [None if text is None else [SUMMARY, *next(pieces)] for text in texts]

    def _check_parameters(self):
        check_encoder(self)
        if self.max_length is not None:
            # begin, a word, end
            check_number(self, "max_length", self.max_length, low=3, integer=True)

    def _count(self, X):
        return len(as_text_list(X))

    def _load(self, *, to_fit=False):
        return load_text_tokens(
            self.backbone,
            revision=revision_of(self, to_fit=to_fit),
            max_length=None if self.max_length is None else int(self.max_length),
            device=self.device,
        )

    def _remember(self, model):
        self.max_length_ = model.max_length

    def _tokens(self, model, X):
        values, offsets, lengths = text_token_rows(
            model,
            self._store(),
            as_text_list(X),
            device=self._place(),
            batch_size=32 if self.batch_size == "auto" else int(self.batch_size),
            verbose=bool(self.verbose),
        )
        n_cut = int((lengths > model.max_length).sum())
        if n_cut:
            reader = f"{self.backbone!r} reads"
            way_on = "Shorten them, or take a backbone that reads more"
            if self.max_length is not None:
                reader = "max_length asks for"
                if model.max_length < model.longest:
                    way_on = "Shorten them, or raise max_length"
            warnings.warn(
                f"{n_cut:,} of {(lengths > 0).sum():,} texts are longer than the "
                f"{model.max_length} tokens that {reader}, and were cut (the longest has "
                f"{lengths.max():,}). {way_on}.",
                SkmoecbmWarning,
                stacklevel=4,
            )
        return TokenFeatures.from_flat({self._stream: (values, offsets)})
