"""Save, load and share models as JSON and safetensors: nothing that is loaded can run code."""

import os
from pathlib import Path

from skmoecbm import _hub_download, _hub_upload
from skmoecbm._foreign_saving import check_trusted
from skmoecbm._hub_access import check_access, check_token
from skmoecbm._hub_errors import refuse_offline
from skmoecbm._model_folder import refuse_other_files
from skmoecbm._model_loading import check_options, find_folder, read_with
from skmoecbm._model_reading import read_folder_config
from skmoecbm._model_writing import model_files, replace_folder
from skmoecbm._validation import parameter_error

__all__ = ["from_pretrained", "list_models", "load", "push_to_hub", "read_config", "save"]


def save(model, folder, *, label_map=None, trusted=(), metrics=None, audit=None, card=None):
    """Save a fitted model as `config.json`, `model.safetensors` and a `README.md`.

    Backbones are named and fingerprinted, not contained; neither are images, training rows, paths
    or groups, but where a head of another library keeps rows, of which it is warned. The same model
    gives the same bytes.

    Parameters
    ----------
    model : fitted Pipeline, classifier or encoder
        A pipeline of `ConceptEncoder` or `ExpertUnion` and a classifier of this package, or one
        of these alone; of a search its best model.
    folder : path
        Made if it is not there. A model saved there before is replaced, in one step at the end:
        a save that fails leaves it as it was.
    label_map : dict of str to label, default=None
        Codes in the user's table -> class, kept beside the model; see `read_config`.
    trusted : list of str, default=()
        Types of your own or of other libraries ("mypkg.MyTransformer") that heads, steps and
        experts may be made of. Whoever loads the model must name them too, and have them
        installed.
    metrics : Evaluation, ReportedMetrics, mapping, or list of these, default=None
        Measured numbers for the card, best as `ReportedMetrics`, which say on which data. The
        folder keeps them in the card alone: give them again when a loaded model is saved.
    audit : Audit, default=None
        Its verdicts stand in the card; its tables, which may name groups, do not.
    card : CardDetails, default=None
        Title, intended use, licence and the like, pictures of the concepts' weights, and images
        that may become public.

    Raises
    ------
    InputError
        If a step or parameter has no safe form, a type is not in `trusted`, or the folder holds
        other files. A model that is not fitted raises scikit-learn's NotFittedError.

    Notes
    -----
    Heads, steps and experts that are estimators of scikit-learn are kept in the format of skops
    (``pip install 'skmoecbm[skops]'``), never as pickles. All of scikit-learn's types are trusted
    but those whose compiled code follows numbers not checked here: neighbours by trees, splines.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skmoecbm import ConceptBottleneckClassifier
    >>> X = np.random.default_rng(0).normal(size=(60, 3))
    >>> model = ConceptBottleneckClassifier(alpha=1.0).fit(X, X[:, 0] > 0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, folder)
    ...     again = load(folder)
    >>> bool((again.predict_proba(X) == model.predict_proba(X)).all())
    True
    """
    folder = _folder_of("save", folder)
    refuse_other_files(folder)
    files = model_files(
        model,
        label_map=label_map,
        trusted=check_trusted("save", trusted),
        metrics=metrics,
        audit=audit,
        card=card,
    )
    replace_folder(folder, files)


def load(
    source,
    *,
    revision=None,
    device=None,
    backbones=None,
    trusted=(),
    cache_dir=None,
    token=None,
    local_files_only=False,
    check_backbones=False,
):
    """Load a model that `save` or `push_to_hub` wrote, ready to predict, explain and evaluate.

    Only JSON and safetensors are read: no pickle and no import by name. Backbones are loaded when
    they are first used, and compared then with what the model was fitted with.

    Parameters
    ----------
    source : path, or "user/repo"
        A folder ("~" is yours); or, where no file or folder has that name, a repository of the
        Hugging Face Hub.
    revision : str, default=None
        Branch, tag or commit of the repository; None is its main branch. Only a commit can never
        change, and one that is in the cache is loaded without a request.
    device : {"auto", "cpu", "cuda", "cuda:N"}, default=None
        Where encoders and classifiers compute; None is what each was fitted with.
    backbones : dict of str to str, default=None
        Expert name -> backbone, for experts whose backbone lies elsewhere here, such as
        `{"biomedclip": "local-dir:/models/biomedclip"}`. A single encoder's name is its step's.
    trusted : list of str, default=()
        Types beyond scikit-learn's that you know and that the model may be made of, such as
        "mypkg.MyTransformer"; the error names those that it needs. They are imported and run:
        name only what you would run from where the model comes from.
    cache_dir : path, default=None
        Where downloads from the Hub are kept; None is the Hugging Face cache.
    token : str or bool, default=None
        For private and gated repositories. None is the one of `hf auth login` or `HF_TOKEN`,
        False is none. It is kept in memory only.
    local_files_only : bool, default=False
        Make no request: load what was downloaded before, or raise.
    check_backbones : bool, default=False
        Load and compare the backbones now, not when they are first used.

    Returns
    -------
    model : as it was saved

    Raises
    ------
    FormatError
        If it is not a saved model, is damaged, is of a newer version, or needs types that are not
        in `trusted`.
    HubError
        If the repository cannot be had.
    InputError
        If `backbones` names an expert that the model does not have, `source` is an address or a
        folder with a `revision`, there is no such `device`, a parameter is malformed, or skops is
        needed and not installed.

    Warns
    -----
    SkmoecbmWarning
        If a part was saved with another version of scikit-learn.

    Notes
    -----
    `cache_dir`, `token` and `local_files_only` hold for backbones that come from the Hub too, also
    when these are fetched later: in this process, until a model with the same backbone is loaded
    in another way.

    Embeddings are cached in the default folder of this machine, wherever the saved model had its
    own: `set_params(cache_dir=...)` on an encoder changes that.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from skmoecbm import ConceptBottleneckClassifier
    >>> X = np.random.default_rng(0).normal(size=(60, 3))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(ConceptBottleneckClassifier(alpha=1.0).fit(X, X[:, 0] > 0), folder)
    ...     load(folder, device="cpu").alpha_
    1.0
    """
    if not isinstance(source, str | os.PathLike) or not str(source):
        raise parameter_error("load", "source", "the path of a folder, or 'user/repo'", source)
    access = check_access("load", cache_dir, token, local_files_only)
    options = check_options("load", device, backbones, trusted, check_backbones)
    return read_with(find_folder(source, revision, access), access, options)


def from_pretrained(
    repo_id,
    *,
    revision=None,
    device=None,
    backbones=None,
    trusted=(),
    cache_dir=None,
    token=None,
    local_files_only=False,
    check_backbones=False,
):
    """Load a model from the Hugging Face Hub, whatever folders there are here.

    Parameters
    ----------
    repo_id : str
        "user/repo".
    revision, device, backbones, trusted, cache_dir, token, local_files_only, check_backbones
        As in `load`.

    Returns
    -------
    model : as it was saved

    Raises
    ------
    HubError
        If there is no such repository or revision, this account may not read it, or the Hub
        cannot be reached and the cache does not hold it.
    FormatError
        If it is not a model of skmoecbm; then its arrays are not downloaded.
    InputError
        As in `load`.

    Notes
    -----
    Where the Hub cannot be reached, the cached copy is taken; a logged warning names its commit.

    Examples
    --------
    >>> model = from_pretrained("user/skin", revision="v1")  # doctest: +SKIP
    """
    access = check_access("from_pretrained", cache_dir, token, local_files_only)
    options = check_options("from_pretrained", device, backbones, trusted, check_backbones)
    _hub_download.check_repository("from_pretrained", "repo_id", repo_id, revision)
    folder = _hub_download.fetch_model(repo_id, revision, access)
    return read_with(folder, access, options)


def push_to_hub(
    model,
    repo_id,
    *,
    label_map=None,
    trusted=(),
    metrics=None,
    audit=None,
    card=None,
    private=None,
    revision=None,
    tag=None,
    create_pr=False,
    exist_ok=True,
    commit_message=None,
    token=None,
):
    """Publish a fitted model on the Hugging Face Hub: one commit, also when it is pushed twice.

    Parameters
    ----------
    model : fitted Pipeline, classifier or encoder
        As in `save`: what could not be loaded again is not pushed.
    repo_id : str
        "user/repo"; made if it is not there.
    label_map, trusted, metrics, audit, card
        As in `save`.
    private : bool, default=None
        Who sees a repository that is made now: None, as True, its owners only; False, everyone.
        One that is there keeps its visibility; True refuses a public one, False a private one.
    revision : str, default=None
        Branch to commit to, made if it is not there, and no tag; None is the main branch.
    tag : str, default=None
        Name for the commit, such as "v1", for `from_pretrained(..., revision="v1")`. One that is
        there already is not moved.
    create_pr : bool, default=False
        Open a pull request instead of changing the branch.
    exist_ok : bool, default=True
        Whether the repository may be there already. What it holds besides a model stays; a card
        that was edited there is replaced, a model of another library never.
    commit_message : str, default=None
    token : str or bool, default=None
        One that may write. None is that of `hf auth login` or `HF_TOKEN`. It is not kept.

    Returns
    -------
    huggingface_hub.CommitInfo
        Its address, as a str, with `oid`, `pr_url` and others.

    Raises
    ------
    InputError
        If the model cannot be saved, or the repository may not be used so.
    HubError
        If the Hub refuses or fails: the repository is as it was, unless the message says more.

    Warns
    -----
    SkmoecbmWarning
        If the card's images become public; before anything is sent.

    Examples
    --------
    >>> commit = push_to_hub(model, "user/skin", tag="v1")  # doctest: +SKIP
    >>> model = from_pretrained("user/skin", revision="v1")  # doctest: +SKIP
    """
    token = check_token("push_to_hub", token)
    _hub_download.check_repository("push_to_hub", "repo_id", repo_id, None)
    refuse_offline(f"Could not push to {repo_id!r}")
    options = _hub_upload.PushOptions(
        "push_to_hub",
        private=private,
        revision=revision,
        tag=tag,
        create_pr=create_pr,
        exist_ok=exist_ok,
        commit_message=commit_message,
    )
    files = model_files(
        model,
        label_map=label_map,
        trusted=check_trusted("push_to_hub", trusted),
        metrics=metrics,
        audit=audit,
        card=card,
        repo_id=repo_id,
        revision=tag,
    )
    return _hub_upload.push_files(files, repo_id, options, token)[0]


def list_models(*, author=None, search=None, limit=None, token=None):
    """List the models of this library on the Hugging Face Hub.

    Parameters
    ----------
    author : str, default=None
        User or organisation.
    search : str, default=None
        Part of the name.
    limit : int, default=None
        At most so many.
    token : str or bool, default=None
        To see private ones too; None is that of `hf auth login` or `HF_TOKEN`.

    Returns
    -------
    list of huggingface_hub.ModelInfo
        With `id` ("user/repo"), `sha`, `tags`, `downloads`, `likes`, `last_modified`, `private`.

    Raises
    ------
    HubError
        If the Hub cannot be reached.

    Examples
    --------
    >>> [model.id for model in list_models(author="user")]  # doctest: +SKIP
    ['user/skin']
    """
    token = check_token("list_models", token)
    return _hub_download.model_infos(author=author, search=search, limit=limit, token=token)


def read_config(folder):
    """Return the checked `config.json` of a saved model, without its arrays.

    Parameters
    ----------
    folder : path

    Returns
    -------
    ModelConfig
        With `format_version`, `library_versions`, `notices`, `label_map`, `model` and `arrays`.

    Raises
    ------
    FormatError
        If the folder is not a saved model, or of a newer version.
    """
    return read_folder_config(_folder_of("read_config", folder))


def _folder_of(owner, folder):
    if not isinstance(folder, str | os.PathLike) or not str(folder):
        raise parameter_error(owner, "folder", "the path of a folder", folder)
    return Path(folder)
