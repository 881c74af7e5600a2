"""The command ``kq``, and ``python -m kq``."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line and exit."""
    try:
        from kq import cli
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"click", "rich"}:
            raise
        sys.exit('Error: the kq command needs click and rich: pip install "kq[cli]"')
    sys.exit(cli.main())


if __name__ == "__main__":
    main()
