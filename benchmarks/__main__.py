import sys
from importlib.util import find_spec

if missing := [name for name in ("rich", "anyio") if find_spec(name) is None]:
    sys.exit(f"benchmarks need {', '.join(missing)}: pip install -e '.[bench]'")

from benchmarks.cli import main

if __name__ == "__main__":
    sys.exit(main())
