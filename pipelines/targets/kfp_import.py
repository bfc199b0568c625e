"""kfp without its client of Kubeflow's API, whose imports take two seconds and which nothing here uses."""

from __future__ import annotations

import os
from importlib import import_module

# While kfp's own package is imported, this variable leaves out what it takes for needed at compile time only.
_RUNTIME_VARIABLE = "_KFP_RUNTIME"


def import_kfp() -> None:
    """Import kfp; unless it is imported, without its client."""
    before = os.environ.get(_RUNTIME_VARIABLE)
    os.environ[_RUNTIME_VARIABLE] = "true"
    try:
        import_module("kfp")
    finally:
        if before is None:
            del os.environ[_RUNTIME_VARIABLE]
        else:
            os.environ[_RUNTIME_VARIABLE] = before
