"""The child of `r2/problems/math_process.py`: compares pairs of answers by math-verify. Never imported by anything.

Reads JSON lines {"answer", "target"} on stdin until it ends, writes `true` or `false` for each. Here the comparison
runs in a main thread, the only place where math-verify's own time limits, which are signals, work.
"""

import json
import logging
import sys

from math_verify import parse, verify

SECONDS = 2


def main() -> None:
    """One verdict a line."""
    logging.getLogger("math_verify").setLevel(logging.CRITICAL)
    for line in sys.stdin:
        pair = json.loads(line)
        gold, found = (parse(pair[side], parsing_timeout=SECONDS) for side in ("target", "answer"))
        is_same = bool(gold) and bool(found) and bool(verify(gold, found, timeout_seconds=SECONDS))
        sys.stdout.write("true\n" if is_same else "false\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
