"""The policy registry: every trained model at every version, which one is promoted, and why.

    policies/<name>/v1/          card.json, and a PEFT adapter or full Hugging Face weights with their tokenizer
    policies/<name>/current      the promoted version, one line
    policies/<name>/history.jsonl  every promotion and rollback with time, reason and the decision behind it

A version is written once and never changed: it appears whole, by one rename, or not at all. Light on purpose: the pool
(`r2/pool/file/config.py`) reads cards to know what a `policy:` endpoint serves. Trainers write here; `r2 policy` shows
it.
"""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import orjson
from pydantic import Field, ValidationError

from r2.atomic import beside, refuse_address, write_atomically
from r2.errors import ConfigError
from r2.roster import PromptMode
from r2.settings import Frozen
from r2.shipped.place import shipped_root

CARD = "card.json"
CATALOGUE_NAME = {"smollm2": "smollm2-135m-instruct"}
"""Base as trainers call it -> the pool catalogue's name of the same weights. Other bases stand for themselves."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = re.compile(r"v[1-9][0-9]*")
_NOT_WEIGHTS = {CARD, "adapter.gguf", "README.md"}


class PolicyCard(Frozen):
    """What a policy is and where it comes from. The last three fields are filled in by `Registry.create` where they are
    empty."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    kind: Literal["decomposer", "allocator", "specialist", "scorer"]
    """A `scorer` (r2/answering/scorer.py) is no language model: no pool entry serves it."""
    base: str
    """`smollm2`, `tiny`, a catalogue name, or the path or hub id of the weights it was trained from; `numpy` of a
    scorer."""
    prompt_mode: PromptMode = "bare"
    """The mode its training prompts had, and so the one a pool entry must have."""
    parent: str = ""
    """Version it was trained on from (`v1`, or `name@v1` of another policy); "" for the base itself."""
    data_sha256: Mapping[str, str] = Field(default_factory=dict)
    """File or source of training data -> its sha256."""
    seed: int = 0
    config: Mapping[str, Any] = Field(default_factory=dict)
    metrics: Mapping[str, Any] = Field(default_factory=dict)
    git_commit: str = ""
    cost_usd: float = Field(default=0.0, ge=0)
    """What was paid to pools while training it; of a scorer, what its seconds of a core cost."""
    wall_s: float = Field(default=0.0, ge=0)
    version: str = Field(default="", pattern=r"^(v[1-9][0-9]*)?$")
    created_at: str = ""
    """ISO 8601, UTC."""
    files_sha256: Mapping[str, str] = Field(default_factory=dict)
    """Every file that decides what the policy answers (weights, their config, tokenizer) -> its sha256."""

    @property
    def weights_sha256(self) -> str:
        """One hash over `files_sha256`: two policies that share it answer alike."""
        return hashlib.sha256(orjson.dumps(sorted(self.files_sha256.items()))).hexdigest()


@dataclass(frozen=True, slots=True)
class Policy:
    """A version that is there: its folder and its card."""

    path: Path
    card: PolicyCard

    @property
    def ref(self) -> str:
        """`name@version`, which always means these weights."""
        return f"{self.card.name}@{self.card.version}"

    @property
    def is_adapter(self) -> bool:
        """True for a PEFT adapter, which needs its base; False for full weights."""
        return (self.path / "adapter_config.json").exists()

    def check_files(self) -> None:
        """ConfigError unless the folder holds the files of the card, unchanged, and no other that could be loaded.

        Called before anything of the folder is loaded: weights that were changed answer otherwise than the card says,
        and a file that nobody wrote (a pickle, a module) may run code.
        """
        found = {str(path.relative_to(self.path)) for path in self.path.rglob("*") if _is_loadable(path)}
        for name, expected in self.card.files_sha256.items():
            if name not in found:
                raise ConfigError(self._changed(name, "missing, or a link to another place"))
            if file_sha256(self.path / name) != expected:
                raise ConfigError(
                    self._changed(name, "not the file that was written: its sha256 differs from the card")
                )
        if foreign := sorted(found - set(self.card.files_sha256)):
            raise ConfigError(self._changed(foreign[0], "not a file of this version: its card does not name it"))

    def _changed(self, name: str, what: str) -> str:
        return (
            f"policy {self.ref}: {self.path / name}: {what}. A version is never changed after it was written; restore "
            "the folder, or use another version."
        )

    @property
    def catalogue_name(self) -> str:
        """The base's name in the pool catalogue, if it has one there."""
        return CATALOGUE_NAME.get(self.card.base, self.card.base)


class Registry:
    """The folder of policies. Every refusal is a ConfigError that says what to do.

    `load` also finds the policies that come with the program: a name or a version that the folder does not have is
    looked up among them. They are never promoted, rolled back or changed.
    """

    def __init__(self, root: Path | str) -> None:
        refuse_address(Path(root), "--policies-dir")
        self.root = Path(root)

    def names(self) -> list[str]:
        """Policies with at least one version, by name."""
        if not self.root.is_dir():
            return []
        return sorted(p.name for p in self.root.iterdir() if _NAME.fullmatch(p.name) and self.versions(p.name))

    def versions(self, name: str) -> list[str]:
        """Finished versions, oldest first; none for a name that is not there."""
        folder = self.root / name
        found = [p.name for p in folder.iterdir() if _is_version(p)] if folder.is_dir() else []
        return sorted(found, key=lambda version: int(version[1:]))

    def next_version(self, name: str) -> str:
        """The version `create` would give now: past everything that bears a version's name, finished or not."""
        folder = self.root / name
        taken = [int(p.name[1:]) for p in folder.iterdir() if _VERSION.fullmatch(p.name)] if folder.is_dir() else []
        return f"v{max(taken, default=0) + 1}"

    def create(self, name: str, card: PolicyCard, write: Callable[[Path], None]) -> Policy:
        """A new version: `write` fills a temporary folder, which gets its card and is renamed once all of it is on
        disk.

        `card.version` "" takes the next free one, also when another process takes one meanwhile; an existing version is
        a ConfigError. A kill leaves at most a folder whose name begins with a dot, which nothing reads.
        """
        if card.name != name:
            raise ConfigError(f"policy {name!r}: its card names {card.name!r}; give both the same name.")
        if card.version and (self.root / name / card.version).exists():
            raise ConfigError(
                f"policy {name}@{card.version} exists already in {self.root}; versions are never rewritten."
            )
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        temporary = beside(folder / "writing")
        temporary.mkdir()
        try:
            write(temporary)
            card = card.model_copy(
                update={
                    "files_sha256": _file_hashes(temporary),
                    "created_at": card.created_at or datetime.now(UTC).isoformat(timespec="seconds"),
                }
            )
            if not card.files_sha256:
                raise ConfigError(f"policy {name}: its writer wrote no file; expected an adapter or full weights.")
            return self._publish(folder, temporary, card)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _publish(self, folder: Path, temporary: Path, card: PolicyCard) -> Policy:
        while True:
            numbered = card.model_copy(update={"version": card.version or self.next_version(card.name)})
            (temporary / CARD).write_bytes(orjson.dumps(numbered.model_dump(mode="json"), option=orjson.OPT_INDENT_2))
            _sync_tree(temporary)
            target = folder / numbered.version
            try:
                temporary.rename(target)  # refuses a folder that holds something: create-if-absent
            except OSError as error:
                if not target.exists():
                    raise
                if card.version:
                    raise ConfigError(
                        f"policy {numbered.name}@{numbered.version} was written by another process meanwhile."
                    ) from error
                continue
            _sync(folder)
            return Policy(target, numbered)

    def load(self, ref: str | Path) -> Policy:
        """`NAME` (promoted), `NAME@v3`, or the path of a version's folder. ConfigError if there is none, saying what
        there is."""
        text = str(ref)
        name, _, version = text.partition("@")
        if isinstance(ref, Path) or "/" in text or not _NAME.fullmatch(name):
            return _read(Path(ref), f"policy {text}")
        own, shipped = self.versions(name), shipped_policies()
        is_own = version in own if version else bool(own)
        there = shipped.versions(name)
        if not is_own and (version in there if version else there):
            return shipped._load(text)
        return self._load(text)

    def _load(self, text: str) -> Policy:
        """A version that lies in this folder."""
        name, _, version = text.partition("@")
        known = self.versions(name)
        if not known:
            there = ", ".join(self.names()) or "nothing"
            raise ConfigError(
                f"policy {name!r}: not in {self.root} (there: {there}). Train it (r2 sft), or give another folder "
                "with --policies-dir or $R2_POLICIES_DIR."
            )
        if version and version not in known:
            raise ConfigError(f"policy {text}: no such version in {self.root}. Versions: {', '.join(known)}.")
        if not version:
            version = self.current(name) or ""
        if not version:
            raise ConfigError(
                f"policy {name!r}: no version is promoted. Versions: {', '.join(known)}. Run: r2 policy promote "
                f"{name} {known[-1]} --reason TEXT, or name one: {name}@{known[-1]}."
            )
        if version not in known:
            raise ConfigError(
                f"{self.root / name / 'current'}: names {version[:40]!r}, and no version of policy {name}. Versions: "
                f"{', '.join(known)}. Run: r2 policy promote {name} {known[-1]} --reason TEXT."
            )
        return _read(self.root / name / version, f"policy {name}@{version}")

    def current(self, name: str) -> str | None:
        """The promoted version; None before the first promotion."""
        path = self.root / name / "current"
        return path.read_text("utf-8", "replace").strip() if path.exists() else None

    def history(self, name: str) -> list[dict[str, Any]]:
        """Promotions and rollbacks, oldest first: `at`, `action`, `version`, `previous`, `reason`, `decision`."""
        path = self.root / name / "history.jsonl"
        entries = []
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                entries.append(orjson.loads(line))
            except orjson.JSONDecodeError:
                continue  # torn by a kill: `current` was not replaced then, and the promotion is made again
        return entries

    def promote(self, name: str, version: str, reason: str, decision: Mapping[str, Any] | None = None) -> Policy:
        """Makes `version` what `NAME` means. `decision` is kept as it is: the comparison, its interval, who decided.

        Again with the version that is promoted already: nothing changes. ConfigError for a version that is not there.
        """
        policy = self._load(f"{name}@{version}")
        if self.current(name) != version:
            self._move(name, "promote", version, reason, decision or {})
        return policy

    def rollback(self, name: str, reason: str = "") -> Policy:
        """Back to the version that was promoted before the present one; again, to the one before that. ConfigError if
        there is none."""
        present = self.current(name)
        stack = self._promoted(name)
        while stack and stack[-1] != present:  # entries of a promotion that a kill kept from taking effect
            stack.pop()
        if present is None or len(stack) < 2:
            raise ConfigError(
                f"policy {name!r}: nothing was promoted before {present or 'anything'}; r2 policy show {name} lists "
                "its history."
            )
        policy = self._load(f"{name}@{stack[-2]}")
        self._move(name, "rollback", stack[-2], reason, {})
        return policy

    def _promoted(self, name: str) -> list[str]:
        """Promoted versions as a stack: a promotion puts one on, a rollback takes one off."""
        stack: list[str] = []
        for entry in self.history(name):
            if entry["action"] == "rollback":
                while stack and stack[-1] != entry["version"]:
                    stack.pop()
            elif not stack or stack[-1] != entry["version"]:
                stack.append(entry["version"])
        return stack

    def _move(self, name: str, action: str, version: str, reason: str, decision: Mapping[str, Any]) -> None:
        """History first: a kill in between leaves a decision that was not carried out, never one
        that was not recorded."""
        folder = self.root / name
        entry = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "action": action,
            "version": version,
            "previous": self.current(name),
            "reason": reason,
            "decision": dict(decision),
        }
        with (folder / "history.jsonl").open("ab") as file:
            file.write(
                b"\n" * _is_torn(folder / "history.jsonl") + orjson.dumps(entry, option=orjson.OPT_APPEND_NEWLINE)
            )
            file.flush()
            os.fsync(file.fileno())
        write_atomically(folder / "current", f"{version}\n".encode())
        _sync(folder)


def shipped_policies() -> Registry:
    """The policies that come with the program."""
    return Registry(shipped_root() / "policies")


def git_commit() -> str:
    """The commit of the code that runs, with `+` for uncommitted changes; "" outside a git checkout."""
    root = Path(__file__).parent.parent.parent
    if not (root / ".git").exists():  # installed: a checkout around it is another project's
        return ""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
            capture_output=True,
            text=True,
            check=False,
            cwd=root,
        )
    except OSError:
        return ""
    return described.stdout.strip()


def file_sha256(path: Path) -> str:
    """Of a file's bytes; for the data of a card."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_version(path: Path) -> bool:
    return _VERSION.fullmatch(path.name) is not None and (path / CARD).exists()


def _read(path: Path, what: str) -> Policy:
    try:
        card = PolicyCard.model_validate_json((path / CARD).read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{what}: {path} holds no {CARD}; expected the folder of one version.") from None
    except (OSError, ValidationError) as error:
        raise ConfigError(f"{what}: {path / CARD} is not a policy card: {error}") from None
    return Policy(path, card)


def _is_loadable(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.name not in _NOT_WEIGHTS


def _file_hashes(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file() and p.name not in _NOT_WEIGHTS)
    return {str(path.relative_to(folder)): file_sha256(path) for path in sorted(files)}


def _is_torn(path: Path) -> bool:
    content = path.read_bytes() if path.exists() else b""
    return bool(content) and not content.endswith(b"\n")


def _sync_tree(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
