"""Bytes of estimators that somebody made to do harm: refused, and skops never sees them."""

import copy
import hashlib
import io
import json
import pickle
import sys
import warnings
import zipfile

import numpy as np
import pytest
import safetensors.numpy
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, KNeighborsTransformer
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import SVC

from skmoecbm import (
    ConceptBottleneckClassifier,
    ExpertUnion,
    FormatError,
    GatedConceptBottleneckClassifier,
    InputError,
    SkmoecbmWarning,
    load,
    save,
)
from skmoecbm._foreign_numbers import check_numbers
from skmoecbm._foreign_saving import pack_foreign, unpack_foreign
from skmoecbm._skops_archive import read_archive, write_archive
from tests.brute_force import make_table

skops_io = pytest.importorskip("skops.io")
pytestmark = pytest.mark.filterwarnings("ignore:.*keeps rows that it was trained on")
CANARY = "xmlrpc.server"  # a module that nothing here imports


def node_of(module, own, loader, **content):
    return {"__class__": own, "__module__": module, "__loader__": loader, **content}


def value(content):
    return node_of("builtins", "str", "JsonNode", content=json.dumps(content), is_json=True)


def packed(estimator, trusted=()):
    arrays = {}
    node = pack_foreign("It", estimator, arrays, "a", trusted)
    return node, arrays["a"].tobytes()


def opened(node, content, trusted=(), types=()):
    """Load bytes whose node was forged to agree with them."""
    listed = {*node.trusted_types, *types}
    forged = node.model_copy(
        update={"n_bytes": len(content), "trusted_types": tuple(sorted(listed))}
    )
    return unpack_foreign(forged, np.frombuffer(content, dtype=np.uint8), trusted)


@pytest.fixture(scope="module")
def linear():
    X, y = make_table(n=40)
    return packed(LogisticRegression().fit(X, y))


class SkopsSawIt(BaseException):
    """No `Exception`: nothing may take it for one of those that hostile bytes cause."""


@pytest.fixture(scope="module")
def network():
    X, y = make_table(n=40)
    return packed(MLPClassifier((2,), max_iter=3, random_state=0).fit(X, y))


@pytest.fixture
def unseen(monkeypatch):
    """Skops, which must not be asked to make anything."""

    def made(*args, **kwargs):
        raise SkopsSawIt

    monkeypatch.setattr(skops_io, "loads", made)
    monkeypatch.setattr(skops_io, "get_untrusted_types", made)


def attributes(schema):
    return schema["content"]["content"]


def with_attribute(schema, node, name="extra"):
    attributes(schema)[name] = node
    schema["content"]["key_types"]["content"].append(node_of("builtins", "str", "TypeNode"))


def plain_list(*parts):
    return node_of("builtins", "list", "ListNode", content=list(parts))


def plain_dict(**parts):
    keys = plain_list(*(node_of("builtins", "str", "TypeNode") for _ in parts))
    return node_of("builtins", "dict", "DictNode", content=parts, key_types=keys)


COMMAND = node_of("builtins", "tuple", "TupleNode", content=[value(f"import {CANARY}")])
BAD_NODES = {
    "a function": node_of("os", "system", "FunctionNode"),
    "a builtin": node_of("builtins", "eval", "TypeNode"),
    "a class": node_of("subprocess", "Popen", "ObjectNode", content=plain_dict(args=value("ls"))),
    "a module": node_of(CANARY, "SimpleXMLRPCServer", "ObjectNode"),
    "a call": node_of("builtins", "exec", "ConstructorFromReduceNode", content=COMMAND),
    "a trusted call": node_of("builtins", "str", "ConstructorFromReduceNode", content=COMMAND),
    "an operator": node_of("operator", "methodcaller", "OperatorFuncNode", attrs=COMMAND),
    "a method": node_of(
        "builtins", "list", "MethodNode", content={"func": "clear", "obj": plain_list()}
    ),
    "a partial": node_of(
        "functools",
        "partial",
        "PartialNode",
        content={
            "func": node_of("os", "system", "FunctionNode"),
            "args": COMMAND,
            "kwds": plain_dict(),
            "namespace": value(None),
        },
    ),
    "a default": node_of(
        "collections",
        "defaultdict",
        "DefaultDictNode",
        content={"main": plain_dict(), "default_factory": node_of("os", "getpid", "TypeNode")},
    ),
    "a reference": node_of("builtins", "str", "CachedNode", __id__=1),
    "a sparse matrix": node_of(
        "scipy.sparse", "csr_matrix", "SparseMatrixNode", type="scipy", file="0.npy"
    ),
    "no such loader": node_of("builtins", "str", "os.system", content=""),
    "a name in a name": node_of(
        "sklearn.linear_model", "_logistic.LogisticRegression", "ObjectNode"
    ),
    "a prefix": node_of("sklearn.linear_model._logistic", "np", "ObjectNode"),
    "a trusted name as another kind": node_of("sklearn.tree._tree", "Tree", "ObjectNode"),
    "a list as JSON": node_of("builtins", "str", "JsonNode", content="[[]]", is_json=True),
    "JSON that ends": node_of("builtins", "str", "JsonNode", content='"', is_json=True),
    "objects": node_of("numpy", "object_", "NdArrayNode", type="numpy", file="0.npy"),
    "an array that is a scalar": node_of(
        "numpy", "float64", "NdArrayNode", type="numpy", file="0.npy"
    ),
    "a missing part": node_of("numpy", "ndarray", "NdArrayNode", type="numpy", file="77.npy"),
    "a path": node_of("numpy", "ndarray", "NdArrayNode", type="numpy", file="../../etc/passwd"),
    "more than skops writes": {**value(1), "__reduce__": value(1)},
    "no node": {"content": 3},
    "a text": "text",
    "a number twice": plain_list(
        plain_list({**plain_list(), "__id__": 9}, {**COMMAND, "__id__": 9})
    ),
    "a random state of files": node_of(
        "numpy.random._generator",
        "Generator",
        "RandomGeneratorNode",
        content={
            "bit_generator": plain_dict(bit_generator=value("set_bit_generator")),
            "seed_seq": plain_dict(),
        },
    ),
}


@pytest.mark.parametrize("where", ["attribute", "inside", "root"])
@pytest.mark.parametrize("bad", BAD_NODES.values(), ids=BAD_NODES)
def test_a_node_that_could_do_something_is_refused_unseen(linear, unseen, bad, where):
    node, content = linear
    schema, members = read_archive(content)
    rest = {name: schema[name] for name in ("protocol", "_skops_version")}
    if where == "root":
        schema = {**bad, **rest} if isinstance(bad, dict) else bad
    else:
        with_attribute(schema, plain_list(bad) if where == "inside" else bad)
    names = {f"{bad.get('__module__')}.{bad.get('__class__')}"} if isinstance(bad, dict) else set()
    before = set(sys.modules)
    with pytest.raises(FormatError):
        opened(node, write_archive(schema, members), types=names)
    assert CANARY not in sys.modules
    assert not {"subprocess", "os", "operator"} & (set(sys.modules) - before)


def test_a_dict_has_a_type_for_each_of_its_keys(linear, unseen):
    node, content = linear
    schema, members = read_archive(content)
    attributes(schema)["extra"] = value(1)
    with pytest.raises(FormatError, match="fewer or more keys than values"):
        opened(node, write_archive(schema, members))


def test_what_a_file_lists_as_trusted_is_not_trusted_for_that(linear):
    node, content = linear
    schema, members = read_archive(content)
    with_attribute(schema, node_of(CANARY, "SimpleXMLRPCServer", "ObjectNode"))
    name = f"{CANARY}.SimpleXMLRPCServer"
    content = write_archive(schema, members)
    with pytest.raises(FormatError, match=rf"made of {name}.*load\(\.\.\., trusted="):
        opened(node, content, types=[name])
    with pytest.raises(FormatError, match=r"other types than config\.json lists"):
        opened(node, content)
    assert CANARY not in sys.modules
    with pytest.raises(FormatError, match="other types"):  # more than the bytes hold
        opened(node, linear[1], types=[name])
    renamed = node.model_copy(update={"class_name": "GaussianNB"})
    with pytest.raises(FormatError, match="other types"):
        opened(renamed, linear[1])


def _zip(parts, **settings):
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"):  # zipfile warns of a name that is there twice
        with zipfile.ZipFile(buffer, "w", **settings) as archive:
            for name, content in parts:
                archive.writestr(name, content)
    return buffer.getvalue()


def _bombs(content):
    schema, members = read_archive(content)
    parts = [("schema.json", json.dumps(schema)), *members.items()]
    first, array = next(iter(members.items()))
    later = [part for part in parts if part[0] != first]
    buffer = io.BytesIO()
    np.savez(buffer, a=np.arange(3.0))
    objects = io.BytesIO()
    np.save(objects, np.array([{}], dtype=object), allow_pickle=True)
    huge = array[:128].replace(b"(", b"(9999999999, ", 1)[:128] + array[128:]
    deep = b'{"a":' * 5000 + b"1" + b"}" * 5000
    lied = bytearray(content)
    at = content.rindex(b"PK\x01\x02")
    lied[at + 24 : at + 28] = (2**31).to_bytes(4, "little")
    return {
        "compressed": _zip([*parts, ("9.npy", b"\0" * 10**7)], compression=zipfile.ZIP_DEFLATED),
        "twice": _zip([*parts, parts[0]]),
        "up": _zip([*parts, ("../0.npy", b"")]),
        "absolute": _zip([*parts, ("/tmp/0.npy", b"")]),
        "folder": _zip([*parts, ("a/", b"")]),
        "not used": _zip([*parts, ("999.npy", array)]),
        "no schema": _zip(list(members.items())),
        "no JSON": _zip([("schema.json", b"{"), *parts[1:]]),
        "no object": _zip([("schema.json", b"[]"), *parts[1:]]),
        "deep": _zip([("schema.json", deep), *parts[1:]]),
        "objects": _zip([("schema.json", b'{"a":[' + b"{}," * 500_000 + b"1]}"), *parts[1:]]),
        "key twice": _zip([("schema.json", b'{"a": 1, "a": 1}'), *parts[1:]]),
        "a pickle as an array": _zip([*later, (first, pickle.dumps([1, 2]))]),
        "an npz as an array": _zip([*later, (first, buffer.getvalue())]),
        "an array of objects": _zip([*later, (first, objects.getvalue())]),
        "a larger array": _zip([*later, (first, huge)]),
        "a shorter array": _zip([*later, (first, array[:-1])]),
        "no array": _zip([*later, (first, b"")]),
        "a pickle": pickle.dumps({}),
        "nothing": b"",
        "half": content[: len(content) // 2],
        "end cut": content[:-10],
        "size": bytes(lied),
        "old nodes": write_archive({**schema, "protocol": 0}, members),
        "bool": write_archive({**schema, "protocol": True}, members),
        "future": write_archive({**schema, "protocol": 10**9}, members),
    }


BOMBS = list(_bombs(_zip([("schema.json", "{}"), ("0.npy", b"\x93NUMPY")])))


@pytest.mark.parametrize("name", BOMBS)
def test_a_zip_that_skops_would_not_write_is_refused(linear, name, request):
    node, content = linear
    if name != "future":  # skops says itself that it is too old
        request.getfixturevalue("unseen")
    with pytest.raises(FormatError):
        opened(node, _bombs(content)[name])


def test_every_byte_that_is_cut_off_is_missed(linear):
    node, content = linear
    for end in range(0, len(content), 97):
        with pytest.raises(FormatError):
            opened(node, content[:end])


def tree_parts(node, found):
    """Collect the nodes of trees in a schema."""
    if isinstance(node, dict):
        name = node.get("__class__")
        if name in ("Tree", "TreePredictor"):
            found.append(node["content"]["content"]["nodes"]["file"])
        for part in node.values():
            tree_parts(part, found)
    elif isinstance(node, list):
        for part in node:
            tree_parts(part, found)
    return found


FORESTS = [
    RandomForestClassifier(2, random_state=0),
    GradientBoostingClassifier(n_estimators=2, random_state=0),
    HistGradientBoostingClassifier(max_iter=2),
]


@pytest.mark.parametrize("forest", FORESTS, ids=lambda forest: type(forest).__name__)
@pytest.mark.parametrize(
    "change", ["child out", "child negative", "loop", "two parents", "column out", "too few"]
)
def test_trees_that_point_out_of_themselves_are_refused(forest, change):
    X, y = make_table(n=60)
    node, content = packed(forest.fit(X, y))
    schema, members = read_archive(content)
    file = tree_parts(schema, [])[0]
    nodes = np.load(io.BytesIO(members[file]))
    boosted = "left" in nodes.dtype.names
    left = "left" if boosted else "left_child"
    right, column = ("right", "feature_idx") if boosted else ("right_child", "feature")
    if change == "child out":
        nodes[left][0] = len(nodes)
    elif change == "child negative":
        nodes[left][0] = 2**31 if boosted else -7
    elif change == "loop":
        nodes[right][0] = 0
    elif change == "two parents":
        nodes[right][0] = nodes[left][0]
    elif change == "column out":
        nodes[column][0] = 9
    else:
        nodes = nodes[:1]
    buffer = io.BytesIO()
    np.save(buffer, nodes)
    members[file] = buffer.getvalue()
    with pytest.raises(FormatError, match=r"point out of it|contradict each other"):
        opened(node, write_archive(schema, members))


def _encoder(X, y):
    return OneHotEncoder(max_categories=2).fit((X > 0.5).astype(int) + (X > 1))


def _words(X, y):
    return TfidfVectorizer().fit(["one two", "three four"])


def _first_tree_alone(model):
    """The first tree asks for three columns, which is looked at, the others for more."""
    X, y = make_table(n=60)
    few = GradientBoostingClassifier(n_estimators=1, random_state=0).fit(X[:, :3], y)
    model.estimators_[0], model.init_, model.n_features_in_ = few.estimators_[0], few.init_, 3
    model.estimators_features_ = []


def _loss_of_two_classes(model):
    """It makes one column of scores, to which three trees would add."""
    X, y = make_table(n=60)
    two = GradientBoostingClassifier(n_estimators=1).fit(X, y == y[0])
    model._loss = two._loss


def _with_fewer_columns_before(model):
    X, _ = make_table(n=60)
    model._preprocessor = make_column_transformer(("passthrough", [0])).fit(X)


CONTRADICTIONS = {
    "first tree": (GradientBoostingClassifier(n_estimators=3), _first_tree_alone),
    "loss": (GradientBoostingClassifier(n_estimators=1), _loss_of_two_classes),
    "endless row": (
        GradientBoostingClassifier(n_estimators=1, init="zero"),
        lambda e: vars(e).update(n_features_in_=10**13, estimators_=e.estimators_[:0]),
    ),
    "columns before": (HistGradientBoostingClassifier(max_iter=2), _with_fewer_columns_before),
    "rows kept": (
        KNeighborsTransformer(algorithm="brute"),
        lambda e: setattr(e, "n_features_in_", 2),
    ),
    "hashes": (lambda X, y: HashingVectorizer(), lambda e: e.set_params(n_features=0)),
    "columns of a forest": (RandomForestClassifier(2), lambda e: setattr(e, "n_features_in_", 2)),
    "one tree": (
        RandomForestClassifier(2),
        lambda e: e.estimators_.append(RandomForestClassifier(1).fit(np.eye(20), range(20))[0]),
    ),
    "boosted columns": (
        HistGradientBoostingClassifier(max_iter=2),
        lambda e: setattr(e, "n_features_in_", 1),
    ),
    "outputs": (
        GradientBoostingClassifier(n_estimators=1),
        lambda e: setattr(e, "estimators_", np.repeat(e.estimators_, 3, axis=1)),
    ),
    "machine": (SVC(), lambda e: setattr(e, "_dual_coef_", e._dual_coef_[:, :1])),
    "counts": (SVC(), lambda e: setattr(e, "_n_support", e._n_support * np.int32(2))),
    "labels": (
        KNeighborsClassifier(algorithm="brute"),
        lambda e: setattr(e, "_y", e._y + 10**6),
    ),
    "method": (SVC(), lambda e: setattr(e, "_validate_for_predict", np.positive)),
    "inner method": (
        make_pipeline(StandardScaler(), SVC()),
        lambda e: setattr(e[-1], "predict", np.positive),
    ),
    "vocabulary": (_words, lambda e: e.vocabulary_.update(one=10**9)),
    "categories": (_encoder, lambda e: e._n_features_outs.__setitem__(0, 99)),
    "rare categories": (
        _encoder,
        lambda e: e._default_to_infrequent_mappings.__setitem__(0, np.array([0, 10**9])),
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_attributes_that_contradict_each_other_are_refused(name):
    made, change = CONTRADICTIONS[name]
    X, y = make_table(n=60)
    estimator = made.fit(X, y) if hasattr(made, "fit") else made(X, y)
    opened(*packed(estimator))
    change(estimator)
    with pytest.raises(FormatError, match=r"contradict each other|in place of its own"):
        opened(*packed(estimator))


@pytest.mark.parametrize(
    "made, change, message",
    [
        (make_pipeline(PCA(2)), {"memory": "/tmp/cache"}, "Pipeline names a folder for a cache"),
        (RandomForestClassifier(2), {"n_jobs": 10**6}, "n_jobs=1000000; it may .* 1024 threads"),
        (RandomForestClassifier(2), {"n_jobs": "all"}, "n_jobs='all'"),
        (KMeans(2, n_init=1), {"_n_threads": 10**6}, "_n_threads=1000000"),
    ],
)
def test_a_file_names_no_cache_and_not_any_number_of_threads(made, change, message, monkeypatch):
    X, y = make_table(n=60)
    estimator = made.fit(X, y)
    vars(estimator).update(change)
    # what this package writes has no folder; others may write one
    monkeypatch.setattr("skmoecbm._skops_archive._LOCAL", ())
    with pytest.raises(FormatError, match=message):
        opened(*packed(estimator))


def test_random_states_out_of_their_range_are_refused(network, unseen):
    node, content = network
    schema, members = read_archive(content)
    state = attributes(schema)["_random_state"]["content"]["content"]
    state["state"]["content"]["pos"] = value(10**6)
    with pytest.raises(FormatError, match="random state"):
        opened(node, write_archive(schema, members))


def test_numbers_of_shared_objects_cannot_make_a_small_file_endless(linear, unseen):
    """Each list holds the one before twice, by its number: skops would look 2 ** 60 times."""
    node, content = linear
    schema, members = read_archive(content)
    nest = plain_list(value(1)) | {"__id__": 100}
    for i in range(60):
        stub = {"__loader__": "ListNode", "__id__": 100 + i}
        nest = plain_list(nest, stub) | {"__id__": 101 + i}
        if i == 20:
            break
    with_attribute(schema, nest)
    with pytest.raises(FormatError, match="two objects of one number"):
        opened(node, write_archive(schema, members))


def _mixture(head):
    X, y = make_table(n=60)
    experts = [("words", slice(0, 4)), ("age", head, slice(4, 9))]
    clf = GatedConceptBottleneckClassifier(
        ConceptBottleneckClassifier(alpha=1.0), experts=experts, cv=2, random_state=0
    )
    return clf.fit(X, y)


def test_a_whole_folder_with_forged_bytes_is_refused_and_runs_nothing(tmp_path):
    folder = tmp_path / "model"
    save(_mixture(LogisticRegression()), folder)
    config = json.loads((folder / "config.json").read_text())
    arrays = safetensors.numpy.load_file(folder / "model.safetensors")
    (name,) = [name for name in arrays if name.endswith("heads.1.skops")]
    schema, members = read_archive(arrays[name].tobytes())
    canary = tmp_path / "canary"
    with_attribute(
        schema,
        node_of(
            "os",
            "mkdir",
            "ConstructorFromReduceNode",
            content=node_of("builtins", "tuple", "TupleNode", content=[value(str(canary))]),
        ),
    )
    content = np.frombuffer(write_archive(schema, members), dtype=np.uint8)
    arrays = dict(sorted({**arrays, name: content}.items()))
    written = safetensors.numpy.save(arrays)
    (folder / "model.safetensors").write_bytes(written)
    config["arrays"][name]["shape"] = [len(content)]
    config["arrays_sha256"] = hashlib.sha256(written).hexdigest()
    head = config["model"]["heads"][1]["estimator"]
    head["n_bytes"] = len(content)
    head["trusted_types"] = sorted([*head["trusted_types"], "os.mkdir"])
    (folder / "config.json").write_text(json.dumps(config))
    for trusted in ([], ["os.mkdir"]):
        with pytest.raises(FormatError, match="a kind of object that is not kept"):
            load(folder, trusted=trusted)
    assert not canary.exists()


@pytest.mark.parametrize(
    "path, changed, message",
    [
        (("heads", 1, "estimator", "n_bytes"), 7, "numbers of uint8"),
        (("heads", 1, "estimator", "class_name"), "SVC", "other types"),
        (("heads", 1, "estimator", "trusted_types"), ["os.system"], "other types"),
        (("heads", 1, "n_features_in"), 4, "expert_columns do not fit"),
        (("heads", 1, "concept_names"), ["a"], "does not fit its columns"),
        (("heads", 1, "constant"), [1], "does not fit the labels"),
        (("heads", 1, "floor"), 0.0, "floor"),
        (("classes", "values"), [7, 8, 9], "heads have other classes"),
        (("parameters", "experts", 1, "$tuple", 1, "parameters", "index"), 5, "not there"),
        (("parameters", "experts", 1, "$tuple", 1), None, "no expert names"),
        (("templates",), [], "not there"),
    ],
)
def test_a_changed_node_is_refused(tmp_path, path, changed, message):
    folder = tmp_path / "model"
    save(_mixture(LogisticRegression()), folder)
    config = json.loads((folder / "config.json").read_text())
    part = config["model"]
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = changed
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FormatError, match=message):
        load(folder)


class Doubler(TransformerMixin, BaseEstimator):
    """A transformer of a user."""

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X):
        return 2.0 * np.asarray(X)

    def get_feature_names_out(self, names=None):
        return np.array([f"twice {i}" for i in range(self.n_features_in_)], dtype=object)


def twice(X):
    return 2.0 * np.asarray(X)


def test_a_type_of_the_user_is_named_by_both_sides_or_refused(tmp_path):
    X, _ = make_table(n=40)
    union = ExpertUnion([("mine", Doubler(), [0, 1]), ("other", StandardScaler(), [2])]).fit(X)
    name = f"{Doubler.__module__}.Doubler"
    with pytest.raises(InputError, match=rf"Expert 'mine' is a Doubler with {name}.*trusted=\['"):
        save(union, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    save(union, tmp_path / "model", trusted=[name])
    with pytest.raises(FormatError, match=rf"made of {name}.*trusted=\['{name}'\]"):
        load(tmp_path / "model")
    again = load(tmp_path / "model", trusted=[name])
    np.testing.assert_array_equal(np.asarray(again.transform(X)), np.asarray(union.transform(X)))
    with pytest.raises(InputError, match="'trusted' parameter of load must be a list of names"):
        load(tmp_path / "model", trusted=name)


def test_functions_of_the_user_are_named_and_lambdas_have_no_name(tmp_path):
    X, y = make_table(n=40)
    for function, message in (
        (lambda X: X, "<lambda> is no name that could be found again.*joblib"),
        (twice, r"FunctionTransformer with .*twice.*If it is yours, name it"),
    ):
        step = FunctionTransformer(function)
        model = make_pipeline(step, ConceptBottleneckClassifier(alpha=1.0)).fit(X, y)
        with pytest.raises(InputError, match=message):
            save(model, tmp_path / "model")
    trusted = [f"{twice.__module__}.twice"]
    save(model, tmp_path / "model", trusted=trusted)
    again = load(tmp_path / "model", trusted=trusted)
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    model[0].set_params(func=np.log1p)  # a ufunc of numpy needs nobody's word
    save(model, tmp_path / "model")
    assert load(tmp_path / "model")[0].func is np.log1p


def test_what_has_no_safe_form_says_what_to_do_instead(tmp_path):
    way_on = r"head of expert 'age' is a KNe.*algorithm='brute'.*jobl"
    with pytest.raises(InputError, match=way_on) as told:
        save(_mixture(KNeighborsClassifier(algorithm="kd_tree")), tmp_path / "model")
    assert "yours" not in str(told.value) and "trusted=" not in str(told.value)


def test_without_skops_the_error_says_how_to_install_it(tmp_path, monkeypatch):
    clf = _mixture(LogisticRegression())
    save(clf, tmp_path / "model")
    monkeypatch.setitem(sys.modules, "skops.io", None)
    for act in (lambda: save(clf, tmp_path / "other"), lambda: load(tmp_path / "model")):
        with pytest.raises(InputError, match=r"pip install 'skmoecbm\[skops\]'"):
            act()
    union = ExpertUnion([("raw", "passthrough", [0])]).fit(make_table(n=40)[0])
    save(union, tmp_path / "union")  # which needs none of it
    load(tmp_path / "union")


def test_another_version_of_scikit_learn_is_said(linear):
    node, content = linear
    older = node.model_copy(update={"sklearn_version": "1.8.0"})
    with pytest.warns(SkmoecbmWarning, match="saved with scikit-learn 1.8.0, and this is") as said:
        opened(older, content)
    assert len(said) == 1


def test_saving_does_not_touch_the_estimator(linear):
    X, y = make_table(n=40)
    model = MLPClassifier((2,), max_iter=3).fit(X, y)
    before = copy.deepcopy(vars(model))
    state = np.random.get_state()[1].tolist()
    packed(model)
    assert vars(model).keys() == before.keys()
    assert np.random.get_state()[1].tolist() == state


def test_numbers_that_stop_the_check_itself_are_refused():
    """Found by tools/fuzz_estimators.py: neither may leave as another error."""
    X, y = make_table(n=40)
    boosted = GradientBoostingClassifier(n_estimators=2).fit(X, y)
    boosted.init_._strategy = "none that there is"  # an UnboundLocalError in scikit-learn
    forest = RandomForestClassifier(2).fit(X, y)
    forest.estimators_[0].n_features_in_ = np.array([X.shape[1]] * 2)  # neither true nor false
    for estimator in (boosted, forest):
        with pytest.raises(FormatError, match="numbers that contradict each other"):
            check_numbers(estimator)
