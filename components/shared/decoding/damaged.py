"""What damaged metadata beside an image's pixels raises; it says nothing of the pixels."""

from __future__ import annotations

import struct

DAMAGED = (OSError, ValueError, TypeError, KeyError, IndexError, SyntaxError, EOFError, struct.error)
