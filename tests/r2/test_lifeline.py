"""Child processes do not hear the terminal. That they end with their parent: tests/r2/pool/test_local.py."""

import os
import subprocess
import sys

from r2.lifeline import end, spawn

CHILD = (
    "from r2.lifeline import die_with_parent; die_with_parent(); import time; print('up', flush=True); time.sleep(60)"
)


def test_a_child_does_not_get_what_the_terminal_sends_to_the_command():
    child = spawn([sys.executable, "-c", CHILD], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    try:
        assert os.getpgid(child.pid) == child.pid != os.getpgid(0)
        assert os.getsid(child.pid) == child.pid
    finally:
        end(child, 1.0)
