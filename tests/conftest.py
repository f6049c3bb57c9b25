"""Shapes in signatures are checked at run time in tests: jaxtyping's hook, before rlgrad loads."""

from jaxtyping import install_import_hook

install_import_hook("rlgrad", "beartype.beartype")
