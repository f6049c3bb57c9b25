"""The leader's engine and the others' session: one decides, all do the same.

The leader runs the session that a single process runs. The others wait after every iteration for
what it says: give your share of the state, wait on, go on, or end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rlgrad.captured.tally import STATUS
from rlgrad.clock import Seconds
from rlgrad.engine import Engine, Outcome, Watch, exit_status, is_logged
from rlgrad.infos import Taken
from rlgrad.ranks.launch import LostError
from rlgrad.ranks.many import Many
from rlgrad.signals import Signals
from rlgrad.store import Run

GO, STATE, WAIT, END = range(4)
_STATUS = (*STATUS, "interrupted")


class Orders:
    """What the leader says, in one message of a fixed size.

    Args:
        ranks: the processes.
        outcomes: of each seed; the leader's, written into those of the others.
    """

    def __init__(self, ranks: Many, outcomes: Sequence[Outcome]) -> None:
        self.ranks, self.outcomes = ranks, outcomes

    def say(self, what: int, number: int = 0) -> None:
        """Send an order, with a number that goes with it and where each seed stands."""
        seeds = [x for each in self.outcomes for x in (each.steps, _STATUS.index(each.status))]
        self.ranks.group.spread(torch.tensor([what, number, *seeds]))

    def hear(self) -> tuple[int, int]:
        """The next order and its number; seeds are taken to where the leader has them."""
        row = torch.zeros(2 + 2 * len(self.outcomes), dtype=torch.int64)
        what, number, *seeds = self.ranks.group.spread(row).tolist()
        for outcome, steps, status in zip(self.outcomes, seeds[::2], seeds[1::2], strict=True):
            outcome.steps, outcome.status = steps, _STATUS[status]
        return what, number


class Leading:
    """An ``Engine``: that of the leader, which takes the others along.

    Args:
        engine: of the leader's share of lanes.
        ranks: the processes.
        signals: of the leader; set by who makes the session.
    """

    def __init__(self, engine: Engine, ranks: Many) -> None:
        self.engine, self.ranks = engine, ranks
        self.outcomes, self.solved_at, self.notes = engine.outcomes, engine.solved_at, engine.notes
        self.where, self.vec, self.masked = engine.where, engine.vec, engine.masked
        self.together = engine.together
        self.orders = Orders(ranks, engine.outcomes)
        self.signals: Signals | None = None
        self._watch: Watch | None = None
        self._said, self._stop = time.monotonic(), False
        self._handled = sys.exception()  # by a caller that trains again after a fault

    def _order(self, what: int, number: int = 0) -> None:
        self.orders.say(what, number)
        self._said = time.monotonic()

    # As a ``Watch`` of its own engine, around that of the session.

    @property
    def stopped(self) -> bool:
        """As the others were told, so that all stop after the same iteration."""
        return self._stop

    def wants(self, steps: int) -> bool:
        """As the session wants."""
        assert self._watch is not None
        return self._watch.wants(steps)

    def after(self) -> None:
        """What the session does, then the order to go on."""
        assert self._watch is not None
        if self.signals is not None and self.ranks.signal:
            self.signals.note(self.ranks.signal)
        self._watch.after()
        self._go()

    def _go(self) -> None:
        assert self._watch is not None
        self._stop = self._watch.stopped
        self._order(GO, int(self._stop))

    def run(self, watch: Watch) -> None:
        """As the engine's, in all processes."""
        self._watch = watch
        self._go()
        self.engine.run(self)

    def beat(self) -> None:
        """Tell those who wait that there is something to wait for."""
        if time.monotonic() - self._said > self.ranks.group.timeout / 4:
            self._order(WAIT)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Of all lanes."""
        self._order(STATE)
        return self.engine.state()

    def numbers(self, i: int) -> Any:
        """As the engine's."""
        return self.engine.numbers(i)

    def seconds(self, i: int | None = None) -> Seconds:
        """As the engine's, with the CPU-seconds of the other processes."""
        return self.engine.seconds(i)

    def infos(self) -> Sequence[Taken]:
        """As the engine's."""
        return self.engine.infos()

    def close(self) -> None:
        """End all processes: well, or by the fault that ends this one."""
        fault = sys.exception()
        self.engine.close()
        if isinstance(fault, LostError) or self.ranks.group.broken:
            return
        if fault is not None and fault is not self._handled:
            self.ranks.group.fail(str(fault) or type(fault).__name__)
            return
        number = 0 if self.signals is None else self.signals.number
        self._order(END, number)
        self.ranks.group.leave()


class Following:
    """The session of a process that does not lead: it trains, and leaves all else to the leader.

    Args:
        engine: of its share of lanes.
        run: whose directory the leader writes.
        ranks: the processes.
        log_freq: env steps between logged points, which decide what is measured.
    """

    leads = False

    def __init__(self, engine: Engine, run: Run, ranks: Many, log_freq: int) -> None:
        self.engine, self.run, self.ranks, self.log_freq = engine, run, ranks, log_freq
        self.orders = Orders(ranks, engine.outcomes)
        self.signals = Signals(lambda line: None)
        ranks.asked = lambda: self.signals.number
        self.stopped, self._ended, self.signal = False, False, 0

    def go(self) -> None:
        """Train until the leader says that all is done."""
        fault = ""
        try:
            with self.signals:
                self.after()
                if not self._ended:
                    self.engine.run(self)
                while not self._ended:
                    self.after()
        except LostError as error:
            kept = f"; rlgrad resume {self.run.path} goes on from its last checkpoint"
            raise LostError(f"{error}{kept}") from None
        except BaseException as error:
            fault = str(error) or type(error).__name__
            raise
        finally:
            self.engine.close()
            if fault:
                self.ranks.group.fail(fault)
            self.ranks.group.leave()

    def wants(self, steps: int) -> bool:
        """As the leader's session wants, which knows the same."""
        return is_logged(
            self.engine.outcomes, self.log_freq, self.run.config.total_timesteps, steps
        )

    def after(self) -> None:
        """Do as the leader says until it says to go on, or to end."""
        while True:
            what, number = self.orders.hear()
            if what == STATE:
                self.engine.state()
            elif what == GO:
                self.stopped = bool(number)
                return
            elif what == END:
                self.signal, self._ended, self.stopped = number, True, True
                return

    def result(self) -> dict[str, Any]:
        """Nothing: the leader tells."""
        return {}

    @property
    def status(self) -> int:
        """Exit status, as the leader's."""
        return exit_status(self.signal, self.engine.outcomes)
