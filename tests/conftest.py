"""Signatures are checked at run time in tests: the hook of shapes.py, before rlgrad loads."""

import signal

import line_coverage

# A shell's background job ignores SIGINT, and nohup SIGHUP; processes that tests start inherit it.
for name, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    number = getattr(signal, name, None)  # no SIGHUP on Windows
    if number is not None and signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)


def pytest_addoption(parser):
    parser.addoption(
        "--line-coverage", action="store_true", help="measure which lines of rlgrad the tests run"
    )


def pytest_configure(config):
    measure = config.getoption("--line-coverage")
    line_coverage.install(measure)
    if measure:
        config.pluginmanager.register(line_coverage.Plugin())
