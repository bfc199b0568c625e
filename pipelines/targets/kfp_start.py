"""How kfp starts a step: an interpreter below a shell, which as a container's first process keeps SIGTERM to itself.

With ``exec`` the shell becomes the interpreter, so that a step which is told to end hears it, and tells `cancelled`.
"""

from __future__ import annotations

from collections.abc import Iterable

_BELOW_A_SHELL, _IN_ITS_PLACE = "_KFP_RUNTIME=true python3 -m", "_KFP_RUNTIME=true exec python3 -m"


def started_itself(command: Iterable[str]) -> list[str]:
    """A command of kfp's that leaves no shell behind; any other as it is."""
    return [word.replace(_BELOW_A_SHELL, _IN_ITS_PLACE) for word in command]
