import functools
import inspect
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import skmoecbm
from skmoecbm import ConceptEncoder, FormatError, GatedConceptBottleneckClassifier, LinearGate
from skmoecbm._packed_common import OBJECTS
from skmoecbm._parameters import pack_parameters, pack_value, unpack_parameters, unpack_value
from skmoecbm.schema import FORMAT_VERSION, Labels, ModelConfig, parse_config

CONFIG = (Path(__file__).parent / "data" / "model_v1" / "config.json").read_text()


def test_stored_config_is_valid_and_written_again_the_same():
    config = parse_config(CONFIG)
    assert config.format_version == FORMAT_VERSION == 1
    assert config.to_json() == CONFIG
    classifier = config.model.steps[1].node
    assert classifier.classes.values == ("bcc-like", "mel-like", "nv-like")
    assert [head.expert_name for head in classifier.heads] == ["general", "structures"]


def test_bytes_and_text_are_read_alike():
    assert parse_config(CONFIG.encode()) == parse_config(CONFIG)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ('{"format_version": 0, "format_version": 0}', "a key is there twice"),
        ('{"format_version": Infinity}', "Infinity is not a JSON number"),
        ("{}", "no 'format_version'"),
        ('{"format_version": "1"}', "'format_version' as \"1\"; .* without quotes"),
        ('{"format_version": true}', "'format_version' as true; "),
        ('{"format_version": null}', "'format_version' as null; "),
        ('{"format_version": [1]}', "'format_version' as a list; "),
        ('{"format_version": 7}', "version 7, which needs a newer.*pip install --upgrade skmoecbm"),
        (
            '{"format_version": 7, "needs_skmoecbm": "12.3"}',
            r"version 7, which needs skmoecbm 12\.3 or newer.*--upgrade 'skmoecbm>=12\.3'",
        ),
        ('{"format_version": 7, "needs_skmoecbm": "1; rm"}', "which needs a newer skmoecbm; "),
        ('{"format_version": 7, "needs_skmoecbm": [1]}', "which needs a newer skmoecbm; "),
        ('{"format_version": -1}', "There is no format version -1"),
        ("[" * 5000, "nested 5000 deep"),
        ("[" * 60 + "]" * 60, "nested 60 deep"),
        ('{"format_version": 0}', "does not follow format version 0: .*model: Field required"),
        ('{"format_version": 1}', "does not follow format version 1: .*model: Field required"),
    ],
)
def test_what_is_no_config_ends_in_a_format_error(text, message):
    with pytest.raises(FormatError, match=message):
        parse_config(text)


def _node(step, *rest):
    return lambda data: functools.reduce(
        lambda at, key: at[key], rest, data["model"]["steps"][step]["node"]
    )


ENCODER = _node(0, "experts", 0, "encoder")
MIXTURE = _node(1)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.pop("needs_skmoecbm"), None),
        (lambda d: d.update(needs_skmoecbm="latest"), "needs_skmoecbm"),
        (lambda d: MIXTURE(d).pop("training_summary"), None),
        (lambda d: MIXTURE(d)["training_summary"].update(when="today"), "when: Extra inputs"),
        (lambda d: MIXTURE(d)["training_summary"].update(n_rows=-1), "n_rows"),
        (lambda d: MIXTURE(d)["training_summary"].update(dtype="float16"), "dtype"),
        (lambda d: MIXTURE(d)["training_summary"]["rows_per_class"].pop(), "one number per class"),
        (
            lambda d: MIXTURE(d)["training_summary"]["rows_per_expert"].pop("general"),
            "rows_per_exp",
        ),
        (lambda d: MIXTURE(d)["training_summary"]["data_sha256"].update(features="x"), "features"),
        (
            lambda d: MIXTURE(d)["heads"][0].update(
                training_summary=MIXTURE(d)["training_summary"]
            ),
            "a head of a mixture has a training of its own",
        ),
        (lambda d: ENCODER(d).pop("training_summary"), None),
        (lambda d: ENCODER(d)["training_summary"]["concepts"].update(kept=1), "of the bank"),
        (lambda d: ENCODER(d)["training_summary"]["concepts"].update(given=1), "more concepts are"),
        (lambda d: ENCODER(d)["backbone_identity"].update(path="/x"), "path: Extra inputs"),
        (lambda d: ENCODER(d)["backbone_identity"].update(revision="main"), "revision"),
        (lambda d: ENCODER(d)["backbone_identity"].pop("weights_sha256"), "weights_sha256"),
    ],
)
def test_what_version_1_says_of_a_training_is_checked(edit, message):
    data = json.loads(CONFIG)
    edit(data)
    if message is None:
        assert isinstance(parse_config(json.dumps(data)), ModelConfig)
        return
    with pytest.raises(FormatError, match=message):
        parse_config(json.dumps(data))


def test_errors_do_not_carry_the_content_of_the_file():
    data = json.loads(CONFIG)
    data["model"]["steps"][1]["node"]["alpha"] = "secret " * 1000
    with pytest.raises(FormatError) as caught:
        parse_config(json.dumps(data))
    assert "secret" not in str(caught.value)
    assert len(str(caught.value)) < 1500


def _paths(node, path=()):
    """Yield the way to every value of nested lists and objects."""
    yield path
    if isinstance(node, dict | list):
        for key, child in node.items() if isinstance(node, dict) else enumerate(node):
            yield from _paths(child, (*path, key))


PATHS = [path for path in _paths(json.loads(CONFIG)) if path]


@settings(max_examples=300, deadline=None)
@given(
    path=st.sampled_from(PATHS),
    value=st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=5),
        st.lists(st.integers(), max_size=3),
        st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
    ),
    remove=st.booleans(),
)
def test_changed_config_is_refused_or_still_a_config(path, value, remove):
    data = json.loads(CONFIG)
    place = data
    for key in path[:-1]:
        place = place[key]
    if remove:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    try:
        assert isinstance(parse_config(json.dumps(data)), ModelConfig)
    except FormatError:
        pass


@pytest.mark.parametrize(
    "classes",
    [
        np.array(["a", "bb"]),
        np.array(["a", "b"], dtype="<U20"),
        np.array([1, 7], dtype=np.int32),
        np.array([0, 255], dtype=np.uint8),
        np.array([False, True]),
        np.array([0.5, 2.0]),
        np.array([0.1, 2.0], dtype=np.float32),
        np.array(["a", 1, True], dtype=object)[:2],
        np.array([1, 2], dtype=">i8"),
    ],
    ids=lambda classes: classes.dtype.str,
)
def test_labels_keep_values_and_dtype(classes):
    labels = Labels.model_validate_json(Labels.of(classes).model_dump_json())
    np.testing.assert_array_equal(labels.array(), classes)
    assert labels.array().dtype == classes.dtype.newbyteorder("=")
    assert [type(v) for v in labels.array().tolist()] == [type(v) for v in classes.tolist()]


@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        ("<i8", ["a"]),
        ("<i8", [True]),
        ("|b1", [1]),
        ("|u1", [256]),
        ("<i8", [2**70]),
        ("<U1", ["ab"]),
        ("<U1", ["a", "a"]),
        ("<M8[s]", [1]),
        ("|V4", ["a"]),
    ],
)
def test_labels_that_do_not_fit_their_dtype_are_refused(dtype, values):
    with pytest.raises(ValueError):
        Labels(dtype=dtype, values=values)


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(deadline=None)
@given(PLAIN)
def test_parameter_values_survive_json(value):
    again = unpack_value(json.loads(json.dumps(pack_value(value, {}))), {})
    assert again == value
    assert type(again) is type(value)


def test_slices_numpy_scalars_and_gates_survive_json():
    for value in (slice(1, None, 2), LinearGate(penalty=3.0, balance=0.1)):
        again = unpack_value(json.loads(json.dumps(pack_value(value, OBJECTS))), OBJECTS)
        assert repr(again) == repr(value)
    assert pack_value([np.float64(0.5), np.int64(3), np.True_], {}) == [0.5, 3, True]


def test_parameters_only_fit_needs_are_left_out_and_others_refused():
    model = GatedConceptBottleneckClassifier(cv=iter([]), random_state=np.random.RandomState(0))
    packed, left_out = pack_parameters(model, OBJECTS)
    assert left_out == ["cv", "random_state"]
    again = GatedConceptBottleneckClassifier(
        **unpack_parameters(GatedConceptBottleneckClassifier, packed, OBJECTS)
    )
    assert again.cv == 5
    with pytest.raises(skmoecbm.InputError, match="cannot be saved with pool="):
        pack_parameters(GatedConceptBottleneckClassifier(pool=object()), OBJECTS)
    with pytest.raises(skmoecbm.InputError, match="nan is not a finite number"):
        pack_parameters(GatedConceptBottleneckClassifier(pool=float("nan")), OBJECTS)


def test_every_constructor_parameter_is_stored_or_skipped_by_name():
    for cls in (GatedConceptBottleneckClassifier, ConceptEncoder):
        names = list(inspect.signature(cls).parameters)
        model = cls(*[None] * 2) if cls is ConceptEncoder else cls()
        packed, left_out = pack_parameters(model, OBJECTS)
        assert [*packed, *left_out] == names


@pytest.mark.parametrize(
    "value",
    [
        {"$object": "subprocess.Popen", "parameters": {}},
        {"$object": "LinearGate", "parameters": {"surprise": 1}},
        {"$object": "LinearGate"},
        {"$tuple": 3},
        {"$slice": [1, 2]},
        {"$slice": [1, 2, "x"]},
        {"$pairs": [[1]]},
        {"$pairs": [[[1], 2]]},
        {"key": 1},
    ],
)
def test_malformed_parameter_values_end_in_a_format_error(value):
    with pytest.raises(FormatError):
        unpack_value(value, OBJECTS)
