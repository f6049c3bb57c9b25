"""A process that tunes one agent after another: ``python -m rlgrad.tuning.worker``.

Its protocol is that of ``rlgrad.comparison.worker``; the last line names the study's folder.
"""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from rlgrad.cards import Resolved
from rlgrad.comparison.process import Wire
from rlgrad.comparison.worker import Reporter, serve
from rlgrad.config import Config, check
from rlgrad.display import Status
from rlgrad.errors import UsageError
from rlgrad.finding import import_module
from rlgrad.naming import safe_name
from rlgrad.sending import unpacked
from rlgrad.signals import Signals


def _tune(task: dict[str, Any], wire: Wire) -> dict[str, Any]:
    """Run the trials of one agent; returns the last line."""
    from rlgrad.tuning.study import Study

    try:
        resolved = unpacked(task["what"])
        for module in resolved.env.modules:
            import_module(module)
        study = Study(Path(task["root"]) / safe_name(resolved.agent))
        signals = Signals(lambda line: None)
        try:
            with signals:
                _trials(study, resolved, task, wire, signals)
        finally:
            study.close()
        return {"run": str(study.folder), "signal": signals.number}
    except UsageError as error:
        return {"error": str(error)}
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}"}


def _trials(study: Any, base: Resolved, task: dict[str, Any], wire: Wire, signals: Signals) -> None:
    """Trials until there are enough, the CPU-seconds are used up, or a signal asks for the end."""
    agent, wanted, most = base.agent, task["trials"], task["cpu_seconds"]
    while not signals.number:
        done = study.trials()
        spent = sum(trial.cpu_seconds for trial in done)
        if len(done) >= wanted:
            return
        if most is not None and spent >= most:
            wire.send(
                say=f"{agent}: stopped after {len(done)} of {wanted} trials: its share of the "
                f"budget is used up ({spent / 3600:.3g} of {most / 3600:.3g} CPU-hours)"
            )
            return
        _one(study, base, task, wire, signals, len(done))


def _one(
    study: Any, base: Resolved, task: dict[str, Any], wire: Wire, signals: Signals, number: int
) -> None:
    """The next trial, told to the study and to whoever looks on."""
    from rlgrad.tuning.space import present, settings, space
    from rlgrad.tuning.trial import UnfitError, run, unfit

    about, reporter = study.about, Reporter(wire)
    config = Config(**check(about["config"], f"{study.folder}"))
    dimensions = space(config)
    trial = study.ask(dimensions, present(dimensions, config))
    chosen = check({**about["config"], **settings(trial.params)}, f"{study.folder}")
    resolved = replace(base, config=Config(**chosen), tuning={})

    def report(checkpoint: int, area: float) -> bool:
        trial.report(area, checkpoint)
        return bool(trial.should_prune())

    def update(status: Status) -> None:
        whole = number * status.total + status.step
        reporter.update(status._replace(step=whole, total=task["trials"] * status.total))

    try:
        found = run(
            resolved, task["seeds"], about["floor"], report, update, lambda: bool(signals.number)
        )
    except BaseException as error:
        if not (isinstance(error, UnfitError) and number):
            study.tell(trial, None)
            raise
        wire.send(say=f"{base.agent} trial {number} counts as random actions: {error}")
        found = unfit(about["floor"], len(task["seeds"]))
    study.tell(trial, found)
    if found is not None:
        ended = "given up, area so far" if found["pruned"] else "area"
        wire.send(say=f"{base.agent} trial {number}: {ended} {found['area']:.4g}")


if __name__ == "__main__":
    serve(_tune)
