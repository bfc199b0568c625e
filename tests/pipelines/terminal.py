"""A terminal that a command runs on, and what is to be read on its screen."""

from __future__ import annotations

import os
import pty
import re
import struct
import subprocess
import threading
import time
from collections.abc import Sequence
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ
from typing import Self

_PARTS = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|(\r|\n)|([^\x1b\r\n]+)|(\x1b.)", re.DOTALL)


class Screen:
    """Lines, and a cursor that moves as rich moves it: up, to the beginning, erasing."""

    def __init__(self) -> None:
        self.lines = [""]
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        for numbers, command, newline, words, _ in _PARTS.findall(text):
            if words:
                line = self.lines[self._row].ljust(self._column)
                self.lines[self._row] = line[: self._column] + words + line[self._column + len(words) :]
                self._column += len(words)
            elif newline == "\r":
                self._column = 0
            elif newline == "\n":
                self._row, self._column = self._row + 1, 0
                if self._row == len(self.lines):
                    self.lines.append("")
            elif command == "A":
                self._row = max(0, self._row - int(numbers or 1))
            elif command == "K":
                self.lines[self._row] = "" if numbers == "2" else self.lines[self._row][: self._column]

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.lines)


class OnTerminal:
    """A command on a terminal of its own."""

    def __init__(
        self, command: Sequence[str | Path], environment: dict[str, str], size: tuple[int, int] = (100, 40)
    ) -> None:
        self.screen = Screen()
        self.raw = ""
        columns, rows = size
        # Whoever started us may have said how large its own terminal is.
        inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
        ours, theirs = pty.openpty()
        ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.process = subprocess.Popen(
            [*map(str, command)],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=inherited | {"TERM": "xterm-256color"} | environment,
            start_new_session=True,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()

    def _read(self, ours: int) -> None:
        with open(ours, "rb", buffering=0) as stream:
            while True:
                try:
                    piece = stream.read(4096)
                except OSError:  # Linux's way to say that the other end is closed
                    return
                if not piece:
                    return
                text = piece.decode("utf-8", "replace")
                self.raw += text
                self.screen.feed(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.wait()

    def until(self, text: str, timeout: float) -> None:
        """Wait until it can be read there."""
        end = time.monotonic() + timeout
        while text not in self.screen.text and self.process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        assert text in self.screen.text

    def ended(self, timeout: float) -> int:
        """Wait for the end; returns the exit code."""
        code = self.process.wait(timeout)
        self._reader.join(timeout)
        return code
