"""Environments of the clients that ours is held against: each has its own, made on first use and kept.

They lie in a folder of the user's choice. A peer that cannot be installed is left out of the measurement, with the
reason.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.figures import say

PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check")
INSTALL_S = 900


@dataclass(frozen=True, slots=True)
class Peer:
    """A client, what its environment needs, and how many requests it gets where ours gets one: slow ones get fewer."""

    name: str
    environment: str
    requirements: tuple[str, ...]
    share: float


PEERS = (
    Peer("openai SDK", "openai", ("openai==3.57.0", "uvloop==0.23.0"), 0.2),
    Peer("litellm", "litellm", ("litellm==1.110.2", "uvloop==0.23.0"), 0.1),
    Peer("litellm Router", "litellm", ("litellm==1.110.2", "uvloop==0.23.0"), 0.1),
    Peer("inspect_ai", "inspect", ("inspect-ai==0.3.285", "openai==3.57.0", "uvloop==0.23.0"), 0.1),
    Peer("bespokelabs-curator", "curator", ("bespokelabs-curator==0.1.31",), 0.1),
)
"""Ours is held against all of them in the same run. Where the caller chooses the event loop it is uvloop, as ours."""


class NotInstalledError(Exception):
    """Why a peer has no environment: the last line that pip said."""


def python_of(peer: Peer, folder: Path) -> Path:
    """The interpreter of the peer's environment, which is made where it is not there as it should be."""
    home = folder / peer.environment
    done, python = home / "requirements.json", home / "bin" / "python"
    wanted = json.dumps(peer.requirements)
    if done.exists() and done.read_text("utf-8") == wanted:
        return python
    say(f"{peer.name}: installs {', '.join(peer.requirements)} into {home}")
    shutil.rmtree(home, ignore_errors=True)
    for command in ([sys.executable, "-m", "venv", str(home)], [str(python), *PIP, *peer.requirements]):
        try:
            made = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSTALL_S)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise NotInstalledError(str(error)) from error
        if made.returncode:
            said = [line for line in made.stderr.splitlines() if line.strip()]
            raise NotInstalledError(said[-1] if said else f"exit code {made.returncode}")
    done.write_text(wanted, "utf-8")
    return python
