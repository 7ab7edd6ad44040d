"""Where the commands print: results to stdout, everything else to stderr."""

from __future__ import annotations

import datetime
import time
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn, Task, TaskID

out = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False)

# A file or a pipe is as wide as need be; rich takes 80 columns and cuts figures short.
if not out.is_terminal:
    out.width = max(out.width, 120)


class Bars(Progress):
    """Progress bars on stderr; where it is no terminal, as in a Job's log, a line now and then."""

    def __init__(self, *columns: str | ProgressColumn, every_s: float = 30.0) -> None:
        super().__init__(*columns, console=errors, transient=True)
        self._every_s = every_s
        self._told = time.monotonic()

    def update(self, task_id: TaskID, *args: Any, **changes: Any) -> None:
        super().update(task_id, *args, **changes)
        self._tell(self._tasks[task_id])

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        super().advance(task_id, advance)
        self._tell(self._tasks[task_id])

    def _tell(self, task: Task) -> None:
        if self.console.is_terminal or time.monotonic() < self._told + self._every_s:
            return
        self._told = time.monotonic()
        total = "" if task.total is None else f"/{task.total:,.0f}"
        parts = [f"{task.description} {task.completed:,.0f}{total}"]
        parts += [str(field) for field in task.fields.values() if field]
        if task.time_remaining is not None:
            parts.append(f"{datetime.timedelta(seconds=int(task.time_remaining))} left")
        self.console.print(", ".join(parts), soft_wrap=True, markup=False)
