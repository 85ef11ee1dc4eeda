"""Shapes and dtypes written in jaxtyping are checked at every call while the tests run."""

from jaxtyping import install_import_hook

install_import_hook("smallvit", "beartype.beartype")
