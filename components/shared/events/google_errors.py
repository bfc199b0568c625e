"""What google-auth says when it fails, for messages."""

from __future__ import annotations

import os

# What comes out of it, beside its own, for a file of credentials that is a folder, or JSON of another shape.
ODD_FILE = (OSError, ValueError, AttributeError, TypeError, KeyError, RecursionError)
_TELLS_NOTHING = (AttributeError, TypeError, KeyError, RecursionError)


def reason_of(error: Exception, file: str | None = None) -> str:
    """What google-auth says; to its text it may add an error with the reason, or a server's whole answer.

    Args:
        error: One of its own, or of ODD_FILE.
        file: The file of credentials, where it was named to google-auth.
    """
    if type(error) in _TELLS_NOTHING:  # google-auth's own may be of these kinds, too
        named = file or os.environ.get("GOOGLE_APPLICATION_CREDENTIALS") or "what gcloud has kept"
        return f"{named} is no file of Google credentials"
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    said = [str(part).splitlines()[0] for part in error.args if isinstance(part, str | Exception) and str(part)]
    return "; ".join(said) or type(error).__name__
