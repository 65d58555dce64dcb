"""Parameters of the encoders in a list of (name, encoder), reached by `name__parameter`."""

__all__ = ["NamedEncoders"]


class NamedEncoders:
    """A mixin for estimators with such a list; stands before `BaseEstimator`."""

    _encoders = "encoders"  # the parameter that holds the list

    def get_params(self, deep=True):
        """Return the parameters and, if `deep`, the encoders by name and their parameters."""
        params = super().get_params(deep=False)
        if deep:
            for name, encoder, *_ in self._entries():
                params[name] = encoder
                if hasattr(encoder, "get_params") and not isinstance(encoder, type):
                    for key, value in encoder.get_params(deep=True).items():
                        params[f"{name}__{key}"] = value
        return params

    def set_params(self, **params):
        """Set a parameter, an encoder by its name, or `name__parameter`."""
        if self._encoders in params:
            setattr(self, self._encoders, params.pop(self._encoders))
        for name in [entry[0] for entry in self._entries()]:
            if name in params:
                encoder = params.pop(name)
                replaced = [
                    (entry[0], encoder, *entry[2:]) if entry[0] == name else entry
                    for entry in getattr(self, self._encoders)
                ]
                setattr(self, self._encoders, replaced)
        return super().set_params(**params)

    def _entries(self):
        """Return the entries that are at least pairs: `get_params` must work before `fit`."""
        entries = getattr(self, self._encoders)
        entries = entries if isinstance(entries, list | tuple) else ()
        return [one for one in entries if isinstance(one, list | tuple) and len(one) in (2, 3)]
