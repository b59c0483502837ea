"""Draws a peer at work, to fit the terminal: 80 columns and 24 lines are enough, more show more.

From top to bottom: who this is and whether it takes tasks; four blocks (machine, tasks, credits, network), two or
four beside each other; what runs; what happened; the keys. What there is no room for is left out, never cut in half.
"""

from __future__ import annotations

from typing import Final

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from hivemind_p2p.notebook.words import amount, part
from hivemind_p2p.running.canvas import Column, bar, beside, block, curve, fitted, table
from hivemind_p2p.running.view import View
from hivemind_p2p.running.words import count, duration, short
from hivemind_p2p.types import format_credits
from hivemind_p2p.worker.reporter import TaskReport

WIDE: Final = 160
"""Columns from which the four blocks stand in one row."""

ROWS: Final = 5
"""Lines of a block, its title among them."""

LEAST_LOG: Final = 3
"""Lines that are kept for what happened, where something has."""

_GAP: Final = 3
_STATES: Final = {
    "open": ("●", "bold green", "takes tasks"),
    "paused": ("‖", "bold yellow", "paused"),
    "off hours": ("☾", "bold blue", "off hours"),
    "in use": ("○", "bold yellow", "waits"),
    "leaving": ("→", "bold magenta", "leaving"),
}
_REACH: Final = {
    "public": Text("can be called directly", "green"),
    "private": Text("is called through relays", "yellow"),
    "unknown": Text("not known yet", "dim"),
    "": Text("on this machine only", "dim"),
}
_LEVELS: Final = {"info": "", "warning": "yellow", "error": "bold red"}


class Screen:
    """One picture; a rich renderable that fills the place that it is given.

    Args:
        view: What to draw.
        keys: Whether keys are read.
    """

    def __init__(self, view: View, *, keys: bool = True) -> None:
        self._view = view
        self._keys = keys

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Line by line, exactly as many as there is room for."""
        width, height = options.max_width, options.height or console.height
        lines = self.lines(width, height)
        yield Text("\n", end="").join(fitted(line, width) for line in lines)

    def lines(self, width: int, height: int) -> list[Text]:
        """The picture in lines: exactly `height` of them."""
        inner = width - 2
        head = [*self._head(inner), Text("─" * inner, style="bright_black"), *self._blocks(inner)]
        room = height - len(head) - 2
        tasks = self._tasks(inner, max(0, room - self._log_height(room)))
        log = self._log(max(0, room - len(tasks)))
        body = [*head, *tasks, *log]
        body += [Text()] * (height - 2 - len(body))
        foot = [Text("─" * inner, style="bright_black"), self._foot()]
        return [Text(" ").append_text(line) for line in [*body[: max(0, height - 2)], *foot][:height]]

    def _log_height(self, room: int) -> int:
        """Lines for the log where both it and the tasks could fill the room: a third, its title among them."""
        return min(len(self._view.log) + 1, max(LEAST_LOG, room // 3)) if self._view.log else 0

    # -- parts -------------------------------------------------------------------------------------------------------

    def _head(self, width: int) -> list[Text]:
        view = self._view
        sign, style, words = _STATES.get(view.state, ("●", "bold", view.state))
        reason = f": {view.reason}" if view.reason else ""
        left = Text.assemble(("hivemind", "bold yellow"), "  ", (view.name or short_id(view.peer_id), "bold"), "  ")
        left.append(f"{sign} {words}", style=style).append(reason, style=style.removeprefix("bold "))
        right = Text(f"up {duration(view.seconds)}", style="dim")
        first = fitted(left, width - right.cell_len - 1).append(" ").append_text(right)
        second = Text(f"{view.peer_id}  {view.address}", style="dim")
        return [first, second]

    def _blocks(self, width: int) -> list[Text]:
        made = (self._machine, self._work, self._earned, self._network)
        across = 4 if width >= WIDE - 2 else 2
        each = (width - (across - 1) * _GAP) // across
        blocks = [make(each) for make in made]
        lines: list[Text] = []
        for first in range(0, len(blocks), across):
            lines += [*beside(blocks[first : first + across], _GAP), Text()]
        return lines

    def _machine(self, width: int) -> list[Text]:
        machine, lent = self._view.machine, self._view.lent
        used, total = machine.memory_used_bytes, machine.memory_bytes
        space = max(4, width - 8 - 18)
        rows = [
            ("cpu", bar(machine.cpu, space).append(f" {machine.cpu:4.0%}")),
            ("memory", bar(used / total if total else 0.0, space).append(f" {part(used, total)}")),
        ]
        rows += [
            ("gpu", bar(gpu.busy, space).append(f" {gpu.busy:4.0%} {amount(gpu.memory_used_bytes)}"))
            for gpu in machine.gpus[:1]
        ]
        walls = ("walls", Text(", ".join(lent.sandbox.split(", ")[:3])))
        if lent.sandbox == "no walls":  # nothing else is as important
            rows.insert(2, ("walls", Text("none: run trusted work only", "bold red")))
        gpus = f", {lent.gpus} GPU{'s' if lent.gpus > 1 else ''}" if lent.gpus else ""
        rows.append(("lends", Text(f"{lent.cpus:g} cores, {amount(lent.memory_bytes)}{gpus}")))
        rows.append(walls)
        return block("Machine", rows, width, ROWS)

    def _work(self, width: int) -> list[Text]:
        work = self._view.work
        recent = work.history[-10:]
        rate = sum(recent) / len(recent) if recent else 0.0
        ended = Text(f"{count(work.completed)} done", style="green" if work.completed else "dim")
        ended.append(f", {count(work.failed)} failed", style="yellow" if work.failed else "dim")
        if work.cancelled:
            ended.append(f", {count(work.cancelled)} cancelled")
        if work.rejected:
            ended.append(f", {count(work.rejected)} outvoted", style="bold red")
        running = Text(f"{count(work.running)} run", style="bold" if work.running else "dim")
        running.append(f", {count(work.waiting)} wait", style="" if work.waiting else "dim")
        rows = [
            ("", curve(work.history, width)),
            ("now", running),
            ("speed", Text(f"{rate:,.1f} a second" if rate < 100 else f"{rate:,.0f} a second")),
            ("so far", ended),
        ]
        return block("Tasks", rows, width, ROWS)

    def _earned(self, width: int) -> list[Text]:
        earned = self._view.earned
        if not earned.account:
            rows = [("", Text("works for nothing:", style="yellow")), ("", Text("start it with --username", "yellow"))]
            return block("Credits", rows, width, ROWS)
        balance = "asking ..." if earned.balance is None else format_credits(earned.balance)
        rows = [
            ("earned", Text(f"{format_credits(earned.earned)} since it started", "bold green")),
            ("account", Text(f"{balance}  {earned.account}")),
            ("to come", Text(format_credits(earned.unsettled), style="" if earned.unsettled else "dim")),
            ("unpaid", Text(format_credits(earned.unpaid), style="yellow" if earned.unpaid else "dim")),
        ]
        return block("Credits", rows, width, ROWS)

    def _network(self, width: int) -> list[Text]:
        network, view = self._view.network, self._view
        near = Text(_counted(network.peers, "peer")).append(f", {_counted(network.connections, 'connection')}")
        if network.relayed:
            near.append(f", {network.relayed} relayed", style="yellow")
        content = Text.assemble(
            "↑ ", (f"{amount(network.upload)}/s", ""), "  ↓ ", (f"{amount(network.download)}/s", "")
        )
        content.append(f"  {amount(network.stored_bytes)} kept", style="dim")
        if view.stages:
            model = Text(f"layers {', '.join(view.stages)}").append(f"; {_counted(view.generations, 'text')}", "green")
        else:
            model = Text("none yet" if view.lent.models else "none (--serve-models any)", style="dim")
        rows = [
            ("hive", near),
            ("this", _REACH.get(network.reachability, Text())),
            ("data", content),
            ("models", model),
        ]
        return block("Network", rows, width, ROWS)

    def _tasks(self, width: int, height: int) -> list[Text]:
        tasks = sorted(self._view.machine.tasks, key=lambda task: -task.seconds)
        if height < 4:
            return []
        if not tasks:
            return [Text("Running now", style="bold cyan"), Text("nothing", style="dim"), Text()]
        columns = _task_columns(width)
        shown = tasks[: height - 3]
        title = f"Running now: {len(shown)} of {len(tasks)}" if len(shown) < len(tasks) else "Running now"
        made = table(columns, [_task_row(task, columns) for task in shown])
        return [Text(title, style="bold cyan"), *made, Text()]

    def _log(self, height: int) -> list[Text]:
        log = self._view.log
        if height < 2 or not log:
            return []
        lines = [
            Text.assemble((line.clock, "dim"), "  ", (line.words, _LEVELS.get(line.level, "")))
            for line in log[-(height - 1) :]
        ]
        return [Text("What happened", style="bold cyan"), *lines]

    def _foot(self) -> Text:
        if self._view.state == "leaving":
            return Text("finishing what runs; once more q or Ctrl-C leaves at once", style="bold magenta")
        if not self._keys:
            return Text("Ctrl-C finishes what runs and leaves", style="dim")
        pause = "resume" if self._view.state == "paused" else "pause"
        return Text.assemble(
            ("p", "bold"), (f" {pause}   ", "dim"), ("q", "bold"), (" or ", "dim"), ("Ctrl-C", "bold"),
            (" finish what runs and leave", "dim"),
        )  # fmt: skip


def short_id(name: str) -> str:
    """An id as far as people tell ids apart by it: most begin alike, and many that belong together end alike."""
    return f"{name[:6]}…{name[-8:]}" if len(name) > 18 else name


def _counted(number: int, noun: str) -> str:
    return f"{count(number)} {noun}{'' if number == 1 else 's'}"


def _task_columns(width: int) -> list[Column]:
    fixed = [Column("for", 8, right=True), Column("cores", 5, right=True), Column("memory", 9, right=True)]
    behind = [Column("behind it", 9, right=True)] if width >= 90 else []
    left = width - sum(column.width + 2 for column in [*fixed, *behind]) - 7 - 2 - 4
    name = min(18, left // 2)
    return [Column("task", name), Column("kind", min(40, left - name)), Column("of", 7), *fixed, *behind]


def _task_row(task: TaskReport, columns: list[Column]) -> list[str]:
    cells = [
        short_id(task.task_id),
        task.task_type,
        short(task.caller),
        duration(task.seconds),
        f"{task.cores:.2f}",
        amount(task.memory_bytes) if task.memory_bytes else "",
    ]
    return [*cells, *([count(task.ready)] if len(columns) > len(cells) else [])]
