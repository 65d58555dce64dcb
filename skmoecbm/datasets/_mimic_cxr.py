"""MIMIC-CXR: chest X-rays of Beth Israel Deaconess with labels and reports, by credentials only."""

import os
import warnings
import zlib

from skmoecbm._validation import check_choice, parameter_error
from skmoecbm.datasets._bunch import image_bunch
from skmoecbm.datasets._chexpert_labels import (
    LABELS,
    POLICIES,
    chosen_labels,
    indicator_of,
    known_rows,
    rows_of_view,
)
from skmoecbm.datasets._files import ON_MISSING, existing_root, keep_present
from skmoecbm.datasets._report_sections import SECTIONS, sections_of
from skmoecbm.datasets._splits import group_split, split_of_column, strange_parts
from skmoecbm.exceptions import InputError, SkmoecbmWarning

__all__ = ["load_mimic_cxr"]

_WHERE = (
    "",
    "2.*",
    "mimic-cxr-jpg*",
    "mimic-cxr-jpg*/2.*",
    "physionet.org/files/mimic-cxr-jpg/2.*",
)
_REPORTS = ("files", "mimic-cxr-reports/files", "../mimic-cxr-reports/files", "reports/files")
_ENDINGS = (".jpg", ".jpeg", ".png", ".dcm")
_VIEWS = {"PA": "PA", "AP": "AP", "LATERAL": "lateral", "LL": "lateral"}
_HOLDS = (
    "files/p10 to p19 and the tables mimic-cxr-2.0.0-split.csv.gz, -chexpert.csv.gz and "
    "-metadata.csv.gz (MIMIC-CXR-JPG)"
)
_BY_HAND = (
    "Get them with your credentials at https://physionet.org/content/mimic-cxr-jpg/, and give the "
    "folder that holds `files` as `root`."
)


def load_mimic_cxr(
    root,
    *,
    uncertain="ones",
    labels=None,
    view="frontal",
    labeler="chexpert",
    reports=None,
    sections=("findings", "impression"),
    split=None,
    on_missing="raise",
    return_X_y=False,
):
    r"""Load MIMIC-CXR, chest X-rays with fourteen labels and reports, from a local folder.

    Parameters
    ----------
    root : path-like
        The folder of MIMIC-CXR-JPG that holds `files` and the tables (.csv or .csv.gz), or the one
        around it. The films may be JPEGs or, with the tables beside them, the DICOM files of
        MIMIC-CXR.
    uncertain : {"ones", "zeros", "ignore"}, default="ones"
        What a label is where the report is unsure: there, not there, or not known. With "ignore" it
        is NaN, and films with such a label are in no part of the splits.
    labels : None, "competition" or list of str, default=None
        As in `load_chexpert`.
    view : {"frontal", "lateral", "PA", "AP", "all"}, default="frontal"
        By ViewPosition; films without one count for "all" only.
    labeler : {"chexpert", "negbio"}, default="chexpert"
        The program that read the labels from the reports.
    reports : path-like or bool, default=None
        The folder that holds `files` with the texts. None looks for them in and beside `root` and
        does without if there are none; False does not look; True raises if there are none.
    sections : sequence of {"findings", "impression"}, default=("findings", "impression")
        Which parts of a report are kept. Others, such as the indication, are left out.
    split : str, default=None
        Which split is the default: "official" (None), or "group" (70, 10 and 20 in 100 by patient).
    on_missing : {"raise", "warn", "ignore"}, default="raise"
        What to do about images that the tables name and the folder lacks: "warn" and "ignore" leave
        them out.
    return_X_y : bool, default=False
        Return only `(images, target)`.

    Returns
    -------
    data : :class:`~sklearn.utils.Bunch`
        images : object array of shape (n,)
            Paths, as str.
        target : DataFrame of shape (n, n_labels), int, or float with NaN
            1 where the label is there; those of a study hold for each of its films.
        target_names : list of str
            The labels that were asked for.
        groups : array of shape (n,)
            The patient (subject_id).
        reports : object array of shape (n,), or None
            The sections of the report of the study, "" where it has none of them.
        metadata : pandas.DataFrame of n rows
            dicom_id, subject_id, study_id, split, view, n_uncertain, ViewPosition and what else the
            table of metadata has.
        splits : mapping of str to dict of str to int array
            "official" and "group" -> part ("train", "val", "test") -> rows.
        part : method
            ``data.part("train")`` is a Bunch of the rows of that part of the default split.
        task, metric, scoring : str
            "multi-label"; "macro_auroc" of `evaluate`, "roc_auc" of scikit-learn.
        uncertain : str
            What was made of uncertain labels: the parameter.
        n_without_labels : int
            Films left out since their study is not in the table of labels.
        DESCR : str
            Licence, citation, known traps.
    (images, target) : tuple
        If `return_X_y`.

    Raises
    ------
    InputError
        If the folder lacks a table, images or reports, or a parameter is none of the above.

    References
    ----------
    A. E. W. Johnson et al., "MIMIC-CXR-JPG, a large publicly available database of labeled chest
    radiographs", arXiv:1901.07042.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skmoecbm.datasets import load_mimic_cxr
    >>> with tempfile.TemporaryDirectory() as root:
    ...     root = Path(root)
    ...     folder = root / "files/p10/p10000032/s50414267"
    ...     folder.mkdir(parents=True)
    ...     (folder / "02aa804e.jpg").touch()  # opened when it is encoded
    ...     _ = folder.with_suffix(".txt").write_text("FINDINGS: Clear lungs.\nIMPRESSION: Normal.")
    ...     ids = "subject_id,study_id"
    ...     for name, head, row in [
    ...         ("split", f"dicom_id,{ids},split", "02aa804e,10000032,50414267,train"),
    ...         ("metadata", f"dicom_id,{ids},ViewPosition", "02aa804e,10000032,50414267,PA"),
    ...         ("chexpert", f"{ids},Edema,No Finding", "10000032,50414267,,1.0"),
    ...     ]:
    ...         _ = (root / f"mimic-cxr-2.0.0-{name}.csv").write_text(f"{head}\n{row}")
    ...     data = load_mimic_cxr(root, labels=["Edema", "No Finding"])
    >>> data.target.to_dict("list"), data.reports[0]
    ({'pulmonary edema': [0], 'no finding': [1]}, 'Clear lungs.\n\nNormal.')
    """
    owner, name = "load_mimic_cxr", "MIMIC-CXR"
    check_choice(owner, "uncertain", uncertain, POLICIES)
    check_choice(owner, "labeler", labeler, ("chexpert", "negbio"))
    check_choice(owner, "on_missing", on_missing, ON_MISSING)
    check_choice(owner, "split", split, (None, "official", "group"))
    codes = chosen_labels(labels, owner)
    sections = _checked_sections(sections)
    root = existing_root(root, name, _HOLDS)
    folder = _folder_of_tables(root)
    frame, n_without = _films(folder, labeler, codes)
    frame = frame[rows_of_view(frame["view"], view, owner=owner, name=name)].reset_index(drop=True)
    ids = frame["dicom_id"].tolist()
    indicator, frame["n_uncertain"] = indicator_of(frame, codes, uncertain, name=name, ids=ids)
    paths = _found(folder / "files", frame)
    here = keep_present(paths, ids, name=name, root=folder, on_missing=on_missing, remedy=_BY_HAND)
    frame, indicator = frame[here].reset_index(drop=True), indicator[here]
    official = frame["split"].replace({"validate": "val"})
    splits = {"official": split_of_column(official)}
    if frame["subject_id"].nunique() >= 10:
        splits["group"] = group_split(frame["dicom_id"], indicator, frame["subject_id"])
    if split is not None and split not in splits:
        raise InputError(f"{name} here has films of less than 10 patients, too few to split.")
    data = image_bunch(
        name="mimic_cxr",
        images=[path for path in paths if path is not None],
        target=indicator,
        target_names=[LABELS[code] for code in codes],
        groups=frame["subject_id"].to_numpy(),
        group_word="patient",
        reports=_reports(reports, root, folder, frame, sections),
        metadata=frame.drop(columns=codes),
        splits=known_rows(indicator, splits),
        default_split=split,
        task="multi-label",
        metric="macro_auroc",
        scoring="roc_auc",
        more={"uncertain": uncertain, "n_without_labels": n_without},
    )
    if told := strange_parts(official, "split"):
        data.splits.add_traps({"official": told})
    return (data.images, data.target) if return_X_y else data


def _checked_sections(sections):
    given = (sections,) if isinstance(sections, str) else tuple(sections)
    if not given or not set(given) <= set(SECTIONS):
        raise parameter_error(
            "load_mimic_cxr", "sections", f"some of {', '.join(map(repr, SECTIONS))}", sections
        )
    return given


def _folder_of_tables(root):
    for pattern in _WHERE:
        for folder in sorted(root.glob(pattern)) if pattern else [root]:
            if any(folder.glob("mimic-cxr-2*-split.csv*")):
                return folder
    raise InputError(
        f"The folder of MIMIC-CXR, {str(root)!r}, has no table mimic-cxr-2.0.0-split.csv.gz; it "
        f"should hold {_HOLDS}. {_BY_HAND}"
    )


def _films(folder, labeler, codes):
    """Return a row for each film with labels, and how many have none."""
    split = _table(folder, "split", ["dicom_id", "subject_id", "study_id", "split"])
    metadata = _table(folder, "metadata", ["dicom_id", "ViewPosition"])
    found = _table(folder, labeler, ["study_id", *codes])
    for table, key, what in ((metadata, "dicom_id", "metadata"), (found, "study_id", labeler)):
        if table[key].duplicated().any():
            twice = table[key][table[key].duplicated()].iloc[0]
            raise InputError(
                f"The table {what} of MIMIC-CXR has {key} {str(twice)!r} twice. Get it anew."
            )
    extra = [column for column in metadata.columns if column not in split.columns]
    frame = split.merge(metadata[["dicom_id", *extra]], on="dicom_id", how="left")
    labelled = frame["study_id"].isin(found["study_id"])
    frame = frame[labelled].merge(found[["study_id", *codes]], on="study_id", how="left")
    if not len(frame):
        raise InputError("No film of MIMIC-CXR here has labels. Get its tables anew.")
    frame["view"] = frame["ViewPosition"].map(_VIEWS).fillna("other")
    return frame, int((~labelled).sum())


def _table(folder, kind, columns):
    """Return a table of any release, packed or not."""
    paths = sorted(folder.glob(f"mimic-cxr-2*-{kind}.csv*"))
    paths = [path for path in paths if path.suffix in (".csv", ".gz")]
    if not paths:
        raise InputError(
            f"The folder of MIMIC-CXR, {str(folder)!r}, has no table mimic-cxr-2.0.0-{kind}.csv.gz."
            f" {_BY_HAND}"
        )
    import pandas as pd

    try:
        frame = pd.read_csv(paths[0])
    except (OSError, EOFError, ValueError, zlib.error) as error:  # pandas' own are ValueErrors
        raise InputError(
            f"The table {str(paths[0])!r} of MIMIC-CXR cannot be read: {error}. Get it anew."
        ) from error
    if lacking := [column for column in columns if column not in frame.columns]:
        raise InputError(
            f"The table {str(paths[0])!r} of MIMIC-CXR has no column {lacking[0]!r}. Get it anew."
        )
    return frame


def _places(frame):
    """Yield "p10/p10000032/s50414267" for each film."""
    for subject, study in zip(frame["subject_id"], frame["study_id"], strict=True):
        yield f"p{str(subject)[:2]}/p{subject}/s{study}"


def _found(files, frame):
    """Return where each film is, None where it is nowhere."""
    paths, likely = [], _ENDINGS[0]
    for place, film in zip(_places(frame), frame["dicom_id"], strict=True):
        endings = (likely, *_ENDINGS)  # all films have the same, but for odd ones
        path = os.path.join(files, place, film)
        ending = next((one for one in endings if os.path.isfile(path + one)), None)
        paths.append(None if ending is None else path + ending)
        likely = ending or likely
    return paths


def _reports(reports, root, folder, frame, sections):
    """Return the sections of the report of each film, or None."""
    if reports is False:
        return None
    first = [f"{place}.txt" for place in _places(frame)]
    if reports is None or reports is True:
        places = [base / name for base in (folder, root) for name in _REPORTS]
    else:
        given = existing_root(reports, "the reports of MIMIC-CXR", "files/p10 to p19")
        places = [given, given / "files"]
    # any of the first films will do: single reports may be missing
    looked = [place for place in places if any((place / name).is_file() for name in first[:1000])]
    if not looked:
        if reports is None:
            return None
        where = root if reports is True else reports
        raise InputError(
            f"There are no reports of MIMIC-CXR in {str(where)!r}: they are in "
            "mimic-cxr-reports.zip of https://physionet.org/content/mimic-cxr/, unpacked as "
            "files/p10/p10000032/s50414267.txt."
        )
    texts = {name: looked[0] / name for name in first}
    if gone := [name for name, path in texts.items() if not path.is_file()]:
        warnings.warn(
            f"{len(gone):,} of {len(texts):,} reports of MIMIC-CXR are not in {str(looked[0])!r} "
            f"and count as empty; the first is {gone[0]!r}.",
            SkmoecbmWarning,
            stacklevel=3,
        )
    read = {
        name: sections_of(path.read_text("utf-8", "replace"), sections) if path.is_file() else ""
        for name, path in texts.items()
    }
    return [read[name] for name in first]
