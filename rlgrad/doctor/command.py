"""``rlgrad doctor``: one page that says what works here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rlgrad import terminal

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Doctor:
    """Say what works here: versions, devices, and what is missing for which feature."""

    log_dir: str = "runs"
    """Where runs would be kept."""
    json: bool = False
    """Print as JSON on standard output."""

    def execute(self, chosen: dict[str, Any]) -> int:
        """Look, print; 0 where training works, else 1."""
        told = examined(self.log_dir)
        if self.json:
            terminal.out(json.dumps(told))
        else:
            _print(told)
        return 0 if told["ok"] else 1


def examined(log_dir: str) -> dict[str, Any]:
    """All that is told, as plain data; ``ok``: training works."""
    from rlgrad.doctor.features import VITAL, extras, required
    from rlgrad.doctor.machine import machine, trained, writable
    from rlgrad.versions import versions

    own, about = required(), machine()  # before training, which takes one thread
    works = all(each.state == "ok" for each in own if each.name in VITAL)
    training = trained() if works else {"ok": False, "seconds": 0.0, "error": "see above"}
    wrong = writable(log_dir)
    return {
        "ok": bool(training["ok"] and not wrong),
        "versions": versions("tensorboard", "matplotlib"),
        "machine": about,
        "required": [asdict(each) for each in own],
        "extras": [asdict(each) for each in extras()],
        "log_dir": {"path": log_dir, "writable": not wrong, "error": wrong},
        "training": training,
    }


def _print(told: dict[str, Any]) -> None:
    from rich.markup import escape
    from rich.table import Table

    console = terminal.console()
    where, training = told["log_dir"], told["training"]
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in {**told["versions"], **_machine(told["machine"])}.items():
        table.add_row(name, escape(text))
    good = f"{where['path']}: can be written"
    table.add_row("runs", escape(good if where["writable"] else f"FAILS: {where['error']}"))
    console.print(table)
    for title in ("required", "extras"):
        console.print(_features(title, told[title]))
    if training["ok"]:
        console.print(f"\ntraining works: a first run took {training['seconds']:.1f} s")
    else:
        console.print(f"\n[red]training fails:[/red] {escape(training['error'])}", soft_wrap=True)
    if not where["writable"]:
        console.print("runs cannot be written: choose another place with --log-dir")


def _machine(machine: dict[str, Any]) -> dict[str, str]:
    threads = machine.get("torch_threads")
    return {
        "system": machine["system"],
        "CPU": f"{machine['cores']} cores" + (f"; torch would use {threads}" if threads else ""),
        "devices": "\n".join(machine.get("devices", ["?"])),
    }


def _features(title: str, features: Sequence[dict[str, str]]) -> Table:
    """A line per feature; below those that are missing or broken, how to mend it."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for column in (f"\n{title}", "\nstate", "\nwhat for"):
        table.add_column(column, no_wrap="for" not in column)
    for each in features:
        colour = {"ok": "green", "missing": "yellow", "broken": "red"}[each["state"]]
        table.add_row(each["name"], f"[{colour}]{each['state']}[/{colour}]", escape(each["what"]))
        if each["state"] != "ok":
            table.add_row("", "", escape(f"{each['detail']}: {each['install']}"))
    return table
