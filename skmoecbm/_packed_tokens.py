"""Fitted encoders of tokens as nodes, and back; they have no arrays."""

from skmoecbm._backbone_names import is_portable_name, is_portable_revision, portable_name
from skmoecbm._model_cache import json_sha256
from skmoecbm._packed_common import OBJECTS, build, checked
from skmoecbm._parameters import pack_parameters
from skmoecbm._schema_tokens import (
    StreamNode,
    TextTokenEncoderNode,
    TokenEncoderNode,
    TokenUnionNode,
)
from skmoecbm.exceptions import FormatError, InputError
from skmoecbm.moe import TextTokenEncoder, TokenEncoder, TokenUnion

__all__ = [
    "check_fingerprint",
    "check_place",
    "pack_text_tokens",
    "pack_token_union",
    "pack_tokens",
    "placed_parameters",
    "unpack_text_tokens",
    "unpack_token_union",
    "unpack_tokens",
]


def placed_parameters(model):
    """Return what an encoder was fitted with: where that lies on this machine is not of it."""
    backbone, revision = getattr(model, "_fitted_source", (model.backbone, model.revision))
    return {
        "backbone": portable_name(backbone),
        "revision": revision,
        "cache_dir": None if model.cache_dir is None else "auto",
    }


def check_place(model):
    """Raise `FormatError` where a stored encoder names a place, which no model may."""
    if model.cache_dir not in (None, "auto"):
        raise FormatError(
            "config.json names a folder for the cache of embeddings, which a saved model may not."
        )
    if not is_portable_name(model.backbone) or not is_portable_revision(model.revision):
        raise FormatError(
            "config.json names a path, an address or nothing known for a backbone or its revision, "
            f"which a saved model may not: {model.backbone!r:.80}, {model.revision!r:.80}."
        )


def check_fingerprint(what, node):
    """Raise `FormatError` unless a part that names a backbone has the fingerprint of it."""
    if not hasattr(node, "backbone_identity"):
        return
    if json_sha256(node.backbone_identity.model_dump(mode="json")) != node.fingerprint:
        raise FormatError(
            f"The fingerprint of {what} is not that of its backbone_identity: config.json was "
            "edited or is damaged; fetch it again."
        )


def _common(model):
    parameters, left_out = pack_parameters(model, OBJECTS, skip=("backbone", "cache_dir"))
    return {
        "parameters": parameters | placed_parameters(model),
        "not_saved": left_out,
        "backbone_identity": model.backbone_identity_,
        "fingerprint": model.fingerprint_,
        "notice": model.notice_,
        "width": model.width_,
    }


def pack_tokens(model, arrays, prefix, trusted):
    return TokenEncoderNode(n_tokens=model.n_tokens_, grid=model.grid_, **_common(model))


def pack_text_tokens(model, arrays, prefix, trusted):
    return TextTokenEncoderNode(**_common(model))


def pack_token_union(model, arrays, prefix, trusted):
    packers = {TokenEncoder: pack_tokens, TextTokenEncoder: pack_text_tokens}
    streams = []
    for name, encoder in model.streams_:
        if type(encoder) not in packers:
            raise InputError(
                f"Stream {name!r} has a {type(encoder).__name__}, which cannot be saved: only "
                "TokenEncoder and TextTokenEncoder have a safe form here. Keep the model with "
                "joblib for use on your own machine."
            )
        node = packers[type(encoder)](encoder, arrays, prefix, trusted)
        streams.append(StreamNode(name=name, encoder=node))
    return TokenUnionNode(parameters={}, streams=streams)


def _unpack(cls, node):
    model = build(cls, node)
    checked(model._check_parameters)
    check_place(model)
    check_fingerprint("the encoder", node)
    model.backbone_identity_ = node.backbone_identity.model_dump(mode="json")
    model.fingerprint_ = node.fingerprint
    model.notice_ = node.notice
    model.width_ = node.width
    model._fitted_source = (model.backbone, model.revision)
    return model


def unpack_tokens(node, arrays, prefix, trusted):
    model = _unpack(TokenEncoder, node)
    model.n_tokens_ = node.n_tokens
    model.grid_ = node.grid
    return model


def unpack_text_tokens(node, arrays, prefix, trusted):
    model = _unpack(TextTokenEncoder, node)
    model.max_length_ = node.backbone_identity.tokens.max_length
    return model


def unpack_token_union(node, arrays, prefix, trusted):
    unpackers = {"TokenEncoder": unpack_tokens, "TextTokenEncoder": unpack_text_tokens}
    streams = []
    for stream in node.streams:
        check_fingerprint(f"stream {stream.name!r:.80}", stream.encoder)
        unpacked = unpackers[stream.encoder.kind](stream.encoder, arrays, prefix, trusted)
        streams.append((stream.name, unpacked))
    model = build(TokenUnion, node, streams=streams)
    checked(model._check_streams)
    model.streams_ = list(streams)
    return model
