"""Transformers whose output no DataFrame could hold."""

from sklearn.base import TransformerMixin

__all__ = ["WithoutColumns"]


class WithoutColumns(TransformerMixin, auto_wrap_output_keys=None):
    """A mixin in the place of `TransformerMixin`: what `transform` returns stays what it is."""

    def __init_subclass__(cls):
        """Keep scikit-learn from wrapping the output, also under `set_config`."""
        super().__init_subclass__(auto_wrap_output_keys=None)

    def set_output(self, *, transform=None):
        """Change nothing: tokens have no columns that a DataFrame could hold.

        Here so that a whole pipeline may be told `set_output(transform="pandas")`.
        """
        return self
