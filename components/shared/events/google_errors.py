"""What google-auth says when it fails, for messages."""

from __future__ import annotations


def reason_of(error: Exception) -> str:
    """What google-auth says; to its text it may add an error with the reason, or a server's whole answer."""
    said = [str(part).splitlines()[0] for part in error.args if isinstance(part, str | Exception) and str(part)]
    return "; ".join(said) or type(error).__name__
