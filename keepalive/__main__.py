"""The command line: ``keepalive`` or ``python -m keepalive``."""

import sys

_EXTRA = frozenset({"click", "httptools", "rich"})


def main() -> None:
    """Run the command line; what it needs beyond the library comes with the ``cli`` extra."""
    try:
        from keepalive.cli.interrupts import quiet

        quiet()
        from keepalive.cli.app import cli
        from keepalive.cli.screen import prepare_streams
    except ModuleNotFoundError as exc:
        missing = (exc.name or "").partition(".")[0]
        if missing not in _EXTRA:
            raise
        sys.exit(f"keepalive: {missing} is missing; install it with: pip install 'keepalive-manager[cli]'")
    except KeyboardInterrupt:
        sys.exit(130)
    prepare_streams()
    cli(prog_name="keepalive")


if __name__ == "__main__":
    main()
