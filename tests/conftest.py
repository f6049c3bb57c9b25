"""Shapes in signatures are checked at run time in tests: jaxtyping's hook, before rlgrad loads."""

import signal

from jaxtyping import install_import_hook

install_import_hook("rlgrad", "beartype.beartype")
# A shell's background job ignores SIGINT, and nohup SIGHUP; processes that tests start inherit it.
for name, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    number = getattr(signal, name, None)  # no SIGHUP on Windows
    if number is not None and signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)
