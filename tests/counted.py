"""Imported by programs that tests start, before the package: see ``line_coverage.follow``."""

from __future__ import annotations

import line_coverage

line_coverage.follow()
