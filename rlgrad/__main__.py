"""``python -m rlgrad``, and the command ``rlgrad``."""

import sys


def main() -> int:
    """Run the command line; Ctrl-C while it is still being loaded is no error either."""
    try:
        from rlgrad.cli import main as command

        return command()
    except KeyboardInterrupt:
        print("rlgrad: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
