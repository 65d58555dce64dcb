"""Backbones that give the tokens of an image, in the place of its one embedding."""

import json

import numpy as np
import torch

from skmoecbm._model_cache import json_sha256
from skmoecbm._precision import probe_images
from skmoecbm._validation import parameter_error
from skmoecbm.backbones import Backbone, load_backbone
from skmoecbm.exceptions import BackboneError
from skmoecbm.moe._tower_tokens import pool_to_grid, tower_tokens

__all__ = ["ImageTokens", "check_finite", "load_image_tokens"]

# Part of every fingerprint: raise it when the same weights would give other tokens than before.
_VERSION = 1


class ImageTokens(Backbone):
    """A backbone whose row of an image is all of its tokens, one after the other.

    Attributes
    ----------
    n_tokens : int
        1 + P.
    width : int
        d, of a token.
    dim : int
        (1 + P) d, of a row.
    grid : (int, int) or None
        Rows and columns of the patches; None where they have no places.
    """

    @classmethod
    def of(cls, backbone, grid):
        """Return the tokens of a backbone; the network keeps them with its other variants."""
        network = backbone._network
        variant = ("tokens", backbone.name, backbone.fingerprint, grid)
        with network.lock:
            if variant not in network.variants:
                network.variants[variant] = cls(backbone, grid)
            return network.variants[variant]

    def __init__(self, backbone, grid):
        vars(self).update(vars(backbone))  # network and preprocessing are shared
        self.label = f"{self.name}, tokens"
        self._cells = grid
        try:
            summary, patches, places = self._network.encode_tokens(
                tower_tokens, probe_images(self._network.size, n=1), "fp32"
            )
        except BackboneError as error:
            raise BackboneError(f"{self.name!r} gives no tokens of an image: {error}.") from error
        if grid is not None:
            if places is None:
                raise parameter_error(
                    "TokenEncoder",
                    "grid",
                    f"None for {self.name!r}, whose tokens have no places",
                    grid,
                )
            if grid > min(places):
                raise parameter_error(
                    "TokenEncoder",
                    "grid",
                    f"None, or at most {min(places)} for {self.name!r}, whose patches are "
                    f"{places[0]} x {places[1]}",
                    grid,
                )
            places = (grid, grid)
        self.grid = places
        self.n_tokens = 1 + (patches.shape[1] if grid is None else grid * grid)
        self.width = summary.shape[1]
        self.dim = self.n_tokens * self.width
        tokens = {"kind": "tokens of images", "version": _VERSION, "grid": grid}
        self.identity = {**json.loads(json.dumps(backbone.identity)), "tokens": tokens}
        self.fingerprint = json_sha256(self.identity)

    def __repr__(self):
        """Return name, size and format in one line."""
        return (
            f"ImageTokens({self.name!r}, n_tokens={self.n_tokens}, width={self.width}, "
            f"precision={self.precision!r}, device='{self._network.device}')"
        )

    def _encode(self, images):
        summary, patches, places = self._network.encode_tokens(
            tower_tokens, self._pixels(images), self.precision
        )
        if self._cells is not None:
            patches = pool_to_grid(patches.float(), places, self._cells)
        return torch.cat([summary.float()[:, None], patches.float()], dim=1).flatten(1)

    def _normalise(self, features, kind):
        check_finite(features, kind, self.name, self.precision)
        return features  # their lengths mean something: a norm layer has set them


def check_finite(rows, kind, name, precision):
    """Raise `BackboneError` where tokens of a row hold NaN or infinity."""
    bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if bad.size:
        raise BackboneError(
            f"{name!r} gave no finite tokens for {bad.size} of {len(rows)} {kind}s, the first of "
            f"them {kind} {bad[0]} (precision {precision!r}). Try precision='fp32'; if that fails "
            "too, the weights are damaged."
        )


def load_image_tokens(name, *, grid, revision, precision, resize, device):
    """Return the `ImageTokens` of a backbone, from the process-wide cache where they are there.

    Parameters
    ----------
    grid : int or None
        Rows and columns that the patches are averaged to.
    name, revision, precision, resize, device
        As in `skmoecbm.backbones.load_backbone`.

    Raises
    ------
    InputError
        If the patches have no such grid.
    BackboneError
        If the backbone cannot be had, or has no tokens.
    """
    backbone = load_backbone(
        name, revision=revision, precision=precision, resize=resize, device=device
    )
    return ImageTokens.of(backbone, grid)
