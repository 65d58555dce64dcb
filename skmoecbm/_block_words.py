"""What a classifier calls the blocks of its columns, and the way on that its errors tell."""

from dataclasses import dataclass

__all__ = ["EXPERT", "MODALITY", "STREAM", "BlockWords", "words_of"]


@dataclass(frozen=True, kw_only=True)
class BlockWords:
    """Words of the errors about blocks: what a block is, and what a user is to do.

    Attributes
    ----------
    one : str
        A block: "expert".
    parameter : str
        What says which there are.
    whole : str
        The name of the block of a table that is not cut.
    forms : str
        What the parameter may be.
    lengths : tuple of int
        Of the tuples in its list.
    gaps : str
        What to do about a row that is partly NaN.
    unread : str
        About a block that no row has, completes "or leave it out".
    reads : str
        Completes "No expert ... any training row of a class".
    nothing : str
        About a row without any block.
    rows : str
        What one row is.
    more : str
        What to add where a class is too rare.
    bare : str
        What to do with columns that have no prefix.
    behind : str
        What a classifier takes where it was given images, and how to make it.
    records : bool
        Whether its users may come with records of images and texts.
    """

    one: str
    parameter: str
    whole: str
    forms: str
    lengths: tuple
    gaps: str
    unread: str
    reads: str
    nothing: str
    rows: str
    more: str
    bare: str
    behind: str
    records: bool = False


_BEHIND = (
    "{name} takes their similarities to concepts. Put it behind an encoder: "
    "make_pipeline(ExpertUnion([...]), {name}()), and give the images to the pipeline."
)

EXPERT = BlockWords(
    one="expert",
    parameter="experts",
    whole="expert",
    forms="'auto' or a list of (name, columns) or (name, head, columns) with distinct names",
    lengths=(2, 3),
    gaps="Fill the gaps, or set the whole row of this expert to NaN: it then counts as missing.",
    unread="Give it images that it can read",
    reads="can read",
    nothing="Give a readable image to predict from.",
    rows="image",
    more="images",
    bare=(
        "Every column of X must be named 'expert__concept', or none. Got {} without a prefix "
        "({} of {}). Rename them, or name them in gate_input if only the gate should see them."
    ),
    behind=_BEHIND,
)

MODALITY = BlockWords(
    one="modality",
    parameter="modalities",
    whole="columns",
    forms=(
        "'auto', a dict from names to columns, or a list of (name, columns) with distinct names"
    ),
    lengths=(2,),
    gaps=(
        "Fill the gaps, give those columns a modality of their own "
        "(modalities={'age': ['age'], ...}), or set the whole block to NaN: it then counts as "
        "missing."
    ),
    unread="Give it rows that have it",
    reads="is there in",
    nothing="Give at least one modality to predict from.",
    rows="row",
    more="rows",
    bare=(
        "Every column of X must be named 'modality__column', or none. Got {} without a prefix "
        "({} of {}). Rename them, or say modalities=, which need not name all columns."
    ),
    behind=_BEHIND,
)

STREAM = BlockWords(
    one="stream",
    parameter="streams",
    whole="columns",
    forms="",  # streams are read, and told of, elsewhere
    lengths=(),
    gaps="Fill the gaps, or set the whole row of this stream to NaN: it then counts as missing.",
    unread="Give it tokens in some rows",
    reads="is there in",
    nothing="Give tokens of at least one stream to predict from.",
    rows="row",
    more="rows",
    bare="",
    behind=(
        "{name} takes tokens. Put it behind encoders of them: make_pipeline(TokenUnion([...]), "
        "{name}()), and give the records to the pipeline. Of tokens (n, T, d) that you have, make "
        "TokenFeatures({{'image': tokens, ...}})."
    ),
    records=True,
)


def words_of(owner):
    """Return the words of an estimator: those of experts, if it has none of its own."""
    return getattr(owner, "_block_words", EXPERT)
