"""The command ``kq``, and ``python -m kq``.

1. It loads the command line, which needs more than the library does, and says in one line what is missing.
2. It runs the command and exits. Ctrl-C ends it in one line at any moment, while modules are loaded too.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

#: Exit code after Ctrl-C, as shells know it.
INTERRUPTED = 130


def main() -> None:
    """Run the command line and exit."""
    try:
        from kq.cli import main as cli

        code = cli.main()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"click", "rich"}:
            raise
        sys.exit('Error: the kq command needs click and rich: pip install "kq[cli]"')
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        code = INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    main()
