import json
from types import SimpleNamespace

import pytest

from skmoecbm import InputError
from skmoecbm._identity import check_same_backbone, identity_differences
from skmoecbm._schema_provenance import BackboneIdentity, PreprocessingNode
from skmoecbm.backbones import load_backbone

IDENTITY = {
    "model": "hf-hub:org/clip",
    "revision": "a" * 40,
    "weights_sha256": "b" * 64,
    "architecture_sha256": "c" * 64,
    "tokenizer_sha256": "d" * 64,
    "preprocessing": {
        "size": [224, 224],
        "mode": "RGB",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
        "fill_color": 0,
    },
    "precision": "fp32",
}


def _with(**changes):
    return {**IDENTITY, **changes}


def test_the_same_network_elsewhere_or_in_another_format_is_no_difference():
    moved = _with(model="local-dir", revision=None, precision="bf16")
    assert identity_differences(IDENTITY, IDENTITY) == []
    assert identity_differences(IDENTITY, moved) == identity_differences(moved, IDENTITY) == []


@pytest.mark.parametrize("part", ["weights", "architecture", "tokenizer"])
def test_a_hash_that_differs_is_told_short_and_with_where_it_came_from(part):
    found = _with(**{f"{part}_sha256": "0123456789abcdef" * 4, "revision": "e" * 40})
    old = {"weights": "b", "architecture": "c", "tokenizer": "d"}[part]
    assert identity_differences(IDENTITY, found) == [
        f"revision ('{'a' * 40}' was recorded, '{'e' * 40}' is here)",
        f"{part} (sha256 {old * 12} was recorded, 0123456789ab is here)",
    ]


def test_preprocessing_is_told_setting_by_setting():
    found = _with(
        preprocessing={**IDENTITY["preprocessing"], "mean": [0.48, 0.46, 0.41], "size": [32, 32]}
    )
    assert identity_differences(IDENTITY, found) == [
        "preprocessing.size ([224, 224] was recorded, [32, 32] is here)",
        "preprocessing.mean ([0.5, 0.5, 0.5] was recorded, [0.48, 0.46, 0.41] is here)",
    ]


def test_what_only_one_side_has_is_told_and_long_values_are_cut():
    settings = {k: v for k, v in IDENTITY["preprocessing"].items() if k != "fill_color"}
    found = _with(preprocessing={**settings, "new": "x" * 500})
    told = identity_differences(IDENTITY, found)
    assert told[0] == "preprocessing.fill_color (0 was recorded, nothing is here)"
    assert told[1].startswith("preprocessing.new (nothing was recorded, 'xxx")
    assert len(told[1]) < 120


def test_the_error_counts_what_it_does_not_name():
    class Fitted:
        backbone, backbone_identity_ = "clip", IDENTITY

    other = {key: {} if key == "preprocessing" else "0" * 64 for key in IDENTITY}
    with pytest.raises(InputError, match=r"than 'clip' is now: model \(.*; and 7 more\. Fit it"):
        check_same_backbone(Fitted, SimpleNamespace(identity=other))
    check_same_backbone(Fitted, SimpleNamespace(identity=IDENTITY))
    Fitted._loaded_as = "photo"
    with pytest.raises(InputError, match=r"^Expert 'photo' was .*'clip' is now") as told:
        check_same_backbone(Fitted, SimpleNamespace(identity=other))
    assert "recorded, aaaaaaaaaaaa, or load the model with backbones={'photo': ...}" in str(
        told.value
    )
    assert "Fit it again" not in str(told.value)


@pytest.mark.parametrize("resize", ["crop", "pad"])
def test_the_identity_of_a_real_backbone_has_its_form_and_survives_it(resize):
    identity = load_backbone("demo-general", resize=resize).identity
    again = BackboneIdentity(**identity).model_dump(mode="json")
    assert again == identity
    assert [type(v) for v in again["preprocessing"].values()] == [
        type(identity["preprocessing"][key]) for key in again["preprocessing"]
    ]


def test_whole_numbers_stay_whole():
    settings = {**IDENTITY["preprocessing"], "mean": [0, 0, 0.5], "fill_color": [1, 2.5, 3]}
    again = BackboneIdentity(**_with(preprocessing=settings)).model_dump(mode="json")
    assert json.dumps(again) == json.dumps(_with(preprocessing=settings))


def test_the_form_has_every_setting_of_open_clip():
    from dataclasses import fields

    from open_clip.transform import PreprocessCfg

    assert list(PreprocessingNode.model_fields) == [field.name for field in fields(PreprocessCfg)]


@pytest.mark.parametrize(
    "change",
    [
        {"revision": "main"},
        {"revision": "A" * 40},
        {"weights_sha256": "b" * 63},
        {"precision": "fp8"},
        {"preprocessing": {}},
        {"preprocessing": {**IDENTITY["preprocessing"], "path": "/etc/passwd"}},
        {"folder": "/home"},
        {"model": ""},
    ],
)
def test_an_identity_of_another_form_is_refused(change):
    BackboneIdentity(**IDENTITY)
    with pytest.raises(ValueError):
        BackboneIdentity(**_with(**change))
