"""A run's steps live on a terminal. All text is set as it is, never read as markup: it comes from elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from pipelines.submit.platform import Progress, Submitted
from pipelines.submit.run_text import rows, run_words, utc_now, widths

_DONE = ("succeeded", "cached", "skipped")
_STYLES = {"running": "cyan", "succeeded": "green", "cached": "green", "failed": "bold red", "cancelled": "yellow"}


class LiveSteps:
    """Draws a run's steps again while it is open, and leaves their last state there.

    Args:
        run: Which.
        frame_s: Seconds between two drawings.
    """

    def __init__(self, run: Submitted, frame_s: float) -> None:
        self._run = run
        self._frame_s = frame_s
        self._progress = Progress("unknown", {})
        self._waited: frozenset[str] = frozenset()
        console = Console(stderr=True, highlight=False, markup=False, emoji=False)
        self._live = Live(console=console, auto_refresh=False, redirect_stdout=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._draw(whole=True)
        self._live.stop()

    def show(self, progress: Progress, waited: frozenset[str]) -> bool:
        """Draw how the run is doing; whether a state changed."""
        before, self._progress, self._waited = self._progress, progress, waited
        self._draw()
        return before.state != progress.state or before.tasks != progress.tasks

    def pause(self, seconds: float) -> None:
        """Wait, drawing."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            time.sleep(min(self._frame_s, left))
            self._draw()

    def _draw(self, *, whole: bool = False) -> None:
        lines = rows(self._progress, utc_now(), waited=self._waited)
        names, states = widths(lines)
        styles = [_STYLES.get(state, "") for state in self._progress.tasks.values()]
        heading = Text.assemble(self._run.name, " ", (run_words(self._progress), _STYLES.get(self._progress.state, "")))
        drawn: list[Text] = []
        done: list[bool] = []
        ended = [state in _DONE for state in self._progress.tasks.values()]
        for name, state, pod in lines:
            line = Text.assemble(f"  {name:<{names}}  ", (f"{state:<{states}}", styles.pop(0) if name else "dim"))
            fits = len(line) + 2 + len(pod) <= self._live.console.width
            drawn.append(line.append(f"  {pod}" if fits else f"\n    {pod}" if pod else "", "dim"))
            done.append(ended.pop(0) if name else True)
        self._live.update(Group(heading, *(drawn if whole else self._fitting(drawn, done))), refresh=True)

    def _fitting(self, drawn: list[Text], done: list[bool]) -> list[Text]:
        """What the terminal has room for: it would cut off the end, where steps go on."""
        console = self._live.console
        room = console.height - 3  # the heading, what is said of the rest, and the cursor's own line
        heights = [len(line.wrap(console, console.width)) for line in drawn]
        if sum(heights) <= room:
            return drawn
        kept = set(range(len(drawn)))
        for index in sorted(kept, key=lambda index: (not done[index], index)):
            if sum(heights[each] for each in kept) <= room:
                break
            kept.remove(index)
        left_out = len(drawn) - len(kept)
        return [*(drawn[index] for index in sorted(kept)), Text(f"  and {left_out:,} lines that are not shown", "dim")]
