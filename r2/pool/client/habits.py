"""What an endpoint turned out not to take, kept with its entry: for the next call of this process at once, and in a
file for the next session.

A refused parameter costs nothing: the same call is sent again without it. A refusal that comes again and again, and
that no change of ours heals, closes the entry: it would fail every question. None of this is a part of a run's
identity.
"""

import difflib
import fcntl
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final

import orjson

from r2.atomic import write_atomically
from r2.pool.client.dialects.text import as_json
from r2.pool.client.parameters import (
    LIMIT_FIELDS,
    OPTIONAL,
    SCHEMA_FIELDS,
    named_parameter,
    pool_key,
    pool_line,
    refused_parameter,
    sent_fields,
)
from r2.pool.file.tables import ModelTable

MOST_OMITTED: Final = 8
"""Fields of one entry that are left out. An endpoint that refuses more speaks another dialect."""
EQUAL_REFUSALS: Final = 5
"""So many equal refusals of requests of one form, none answered between them, close the entry."""
KEPT_DAYS: Final = 30
"""Then the endpoint is asked with the parameter once more."""
FILE: Final = "habits.json"


@dataclass(frozen=True, slots=True)
class Kept:
    """What the file knows of one entry. `on` is the day it was learned (YYYY-MM-DD)."""

    omit: frozenset[str] = frozenset()
    limit_field: str | None = None
    on: str = ""


class HabitFile:
    """`habits.json` in the state folder: names of parameters by address and model. Any number of processes share it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def read(self) -> dict[str, Kept]:
        """By `key_of`; what cannot be read, or is older than `KEPT_DAYS`, is not there."""
        try:
            document = as_json(self.path.read_bytes())
        except OSError:
            return {}
        if not isinstance(document, dict):
            return {}
        found = ((key, _kept(value)) for key, value in document.items())
        return {key: kept for key, kept in found if kept is not None}

    def add(self, key: str, kept: Kept) -> None:
        """Adds to what the file has of this entry now. OSError where the folder cannot be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked():
            every = self.read()
            before = every.get(key, Kept())
            every[key] = Kept(before.omit | kept.omit, kept.limit_field or before.limit_field, kept.on)
            document = {
                name: {"omit": sorted(one.omit), "limit_field": one.limit_field, "on": one.on}
                for name, one in every.items()
            }
            write_atomically(self.path, orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        lock = os.open(self.path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def key_of(url: str, served_model: str, effort: str | None) -> str:
    """What an entry's habits go by: they change with the effort, as models take a temperature with one and not with
    another."""
    return f"{url} {served_model}" + (f" {effort}" if effort else "")


class Habits:
    """One entry's. `omitted` are the fields that its requests do not have, those of the pool file's `omit` among them;
    `limit_field` is the name of the output limit, None for the dialect's own. `why_closed` is "" while it is asked;
    `unasked_schemas` are those that the endpoint refused: the prompt alone says what is wanted.
    `closed_as` is the error type of calls that find it closed. `has_answered`: in this process."""

    def __init__(
        self,
        name: str,
        table: ModelTable,
        *,
        model: str = "",
        url: str = "",
        dialect: str = "compatible",
        kept: Kept | None = None,
        keep: Callable[[Kept], None] = lambda kept: None,
        say: Callable[[str], None] = lambda line: None,
        pool_path: Path = Path("the pool file"),
    ) -> None:
        """`model`, `url` and `dialect` are what is asked; `keep` stores what is learned; `say` gets the one line about
        it."""
        kept = kept or Kept()
        self.omitted = frozenset(table.omit) | kept.omit
        self.limit_field = table.limit_field or kept.limit_field
        self.why_closed = ""
        self.closed_as = "misconfigured"
        self.unasked_schemas: set[str] = set()
        self.has_answered = False
        self._model, self._url, self._dialect = model or name, url, dialect
        self._last_served = ""
        self._has_warned = False
        self._name, self._table, self._pool_path = name, table, pool_path
        self._keep, self._say = keep, say
        self._n_omitted = len(kept.omit)
        self._has_renamed = False
        self._refusals: dict[tuple[frozenset[str], str], int] = {}

    @property
    def learned(self) -> tuple[str, ...]:
        """What is left out or renamed beside what the pool file says."""
        names = sorted(self.omitted - frozenset(self._table.omit))
        if self.limit_field is not None and self.limit_field != self._table.limit_field:
            names.append(f"{LIMIT_FIELDS[self.limit_field]} as {self.limit_field}")
        return tuple(names)

    def learns(self, status: int, refusal: bytes, body: bytes, message: str) -> bool:
        """Whether the refusal of `body` names a parameter that further requests do not have, or have under another
        name. Then the same call may be sent again."""
        sent = sent_fields(body)
        habit = refused_parameter(status, refusal, sent)
        if habit is None:
            return False
        if habit.limit_field is not None:
            if self.limit_field == habit.limit_field:
                return True  # another call has learned it since this one was sent
            if self._has_renamed or self._table.sent_output_limit is not None:
                return False
            self._has_renamed, self.limit_field = True, habit.limit_field
            what = f"{habit.named} is sent as {habit.limit_field}"
        else:
            new = habit.omit - self.omitted
            if not new:
                return True
            if self._n_omitted + len(new) > MOST_OMITTED:
                return False
            self._n_omitted += len(new)
            self.omitted |= new
            what = f"{' and '.join(sorted(new))} {'is' if len(new) == 1 else 'are'} left out"
        self._say(
            f"{self._name}: the endpoint refuses {habit.named} ({message}). From now on {what}. In the pool file: "
            f"{pool_line(habit, self._table.omit)} in [models.{self._name}] of {self._pool_path}."
        )
        try:
            self._keep(Kept(habit.omit, habit.limit_field, datetime.now(UTC).date().isoformat()))
        except OSError as error:
            self._say(f"{self._name}: this could not be kept for the next session: {error}")
        return True

    def refused(self, refusal: bytes, body: bytes, message: str) -> bool:
        """Counts a refusal that nothing heals. Whether the entry is closed by now for ones like it."""
        sent = sent_fields(body)
        n_equal = self._refusals[sent, message] = self._refusals.get((sent, message), 0) + 1
        if n_equal < EQUAL_REFUSALS:
            return False
        if not self.why_closed:
            named = named_parameter(refusal, sent)
            place = f"[models.{self._name}] of {self._pool_path}"
            about = f"It names {named}: see {pool_key(named)} in {place}." if named else f"See {place}."
            self.why_closed = (
                f"{self._name} refused {n_equal} requests in the same words and answered none between them: {message}. "
                f"{about} It gets no further call in this session."
            )
        return True

    def refuses_schema(self, status: int, refusal: bytes, body: bytes, schema: str | None, message: str) -> bool:
        """Whether the refusal is of this schema, as the request had it. Then it is asked for no more in this session:
        the same call may be sent again without it, and the answer is checked here."""
        sent = sent_fields(body)
        if schema is None or status not in (400, 422) or not sent & SCHEMA_FIELDS or b"schema" not in refusal.lower():
            return False
        if schema not in self.unasked_schemas:
            self.unasked_schemas.add(schema)
            self._say(
                f"{self._name}: the endpoint does not take this JSON schema ({message}). From now on only the prompt "
                "says what is wanted, and answers are checked against the schema here."
            )
        return True

    def does_not_know(self, message: str) -> str:
        """Closes the entry, whose model or address is not there; why, with the key to change and the nearest names."""
        if not self.why_closed:
            self.closed_as = "unknown_model"
            self.why_closed = (
                f"{message}. {self._name} asks {self._url} for {self._model!r}: see served_model and endpoint in "
                f"[models.{self._name}] of {self._pool_path}. {_nearest(self._dialect, self._model)}"
                "It gets no further call in this session."
            )
        return self.why_closed

    def answered(self, body: bytes, response_model: str) -> None:
        """A request like this was taken after all, by `response_model`."""
        self.has_answered = True
        if response_model != self._last_served:
            self._last_served = response_model
            self._compare(response_model)
        if self._refusals:
            sent = sent_fields(body)
            self._refusals = {key: n for key, n in self._refusals.items() if key[0] != sent}

    def _compare(self, response_model: str) -> None:
        """Says once that another model answers than was asked for: its price may be another, too."""
        is_named = self._dialect in _SAY_WHO_ANSWERS
        if self._has_warned or not is_named or not response_model or is_same_model(self._model, response_model):
            return
        self._has_warned = True
        self._say(
            f"{self._name}: {self._model!r} was asked for, and {response_model!r} answers. What is charged goes by the "
            f"price of [models.{self._name}] in {self._pool_path}: check it, or ask for {response_model!r}."
        )


_SAY_WHO_ANSWERS: Final = frozenset(
    {"openai", "anthropic", "gemini", "openrouter", "deepseek", "mistral", "groq", "together", "fireworks", "xai"}
)
"""Dialects whose replies name the model itself, and no deployment, alias or file of somebody's own."""
_VERSION = re.compile(r"[-@:](?:\d|preview\b|exp\b|latest\b|beta\b)")


def is_same_model(asked: str, served: str) -> bool:
    """Whether a reply's model is the one that was asked for, or a dated version of it."""
    short, long = sorted((_bare(asked), _bare(served)), key=len)
    return long == short or (long.startswith(short) and _VERSION.match(long[len(short) :]) is not None)


def _bare(model: str) -> str:
    return model.lower().rsplit("/", 1)[-1].removesuffix("-latest").removesuffix(":free")


def _nearest(dialect: str, model: str) -> str:
    """Names that our table of models has, as a sentence; "" where it has none of this provider."""
    # Here and not above: the catalogue takes a while to import, which pools without this failure need not wait for.
    from r2.pool.file.catalogue import providers

    provider = providers().get(dialect)
    known = {} if provider is None else provider.models
    if model in known and (after := known[model].successor) is not None:
        return f"Its successor is {after!r}. "
    close = difflib.get_close_matches(model, [name for name in known if name != model], n=3, cutoff=0.5)
    return f"Nearest names: {', '.join(close)}. " if close else ""


def _kept(value: object) -> Kept | None:
    if not isinstance(value, Mapping):
        return None
    omit, limit_field, on = value.get("omit"), value.get("limit_field"), value.get("on")
    try:
        age = datetime.now(UTC).date() - date.fromisoformat(str(on))
    except ValueError:
        return None
    if age.days > KEPT_DAYS:
        return None
    names = frozenset(omit) & OPTIONAL if isinstance(omit, list) and all(isinstance(n, str) for n in omit) else None
    return Kept(names or frozenset(), limit_field if limit_field in LIMIT_FIELDS else None, str(on))
