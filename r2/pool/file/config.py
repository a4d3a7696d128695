"""The pool file: one TOML table per model, checked before anything is called.

Errors name the file, the line, the key and the next move. Secrets are named by their environment variable and never
held here. `load_pool` is the one way in; `PoolConfig.roster()` is what the reasoning gets to see of it. A file may also
list models of the catalogue (r2/pool/file/listed.py).
"""

import difflib
import hashlib
import json
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from r2.errors import ConfigError, PoolFileError
from r2.ledger import LongContextPrice, Price
from r2.policies.registry import Policy, Registry
from r2.pool.file.dated import ended
from r2.pool.file.entry_text import LIST_KEYS
from r2.pool.file.listed import written_out
from r2.pool.file.recording import recorded_pool
from r2.pool.file.secrets import line_of_login, secret_of_body, secret_of_endpoint, secret_of_variable
from r2.pool.file.tables import (
    BudgetTable,
    EndpointLimits,
    ModelTable,
    PoolTables,
    PriceTable,
    Rates,
    RouterTable,
    drop_later_defaults,
)
from r2.pool.file.vllm_table import VllmTable
from r2.roster import ModelCard, Roster
from r2.settings import parsed_toml
from r2.shipped.place import found


class PoolConfig:
    """A checked pool file. `digest` identifies what can change answers or costs: everything but limits and time-outs.

    `policies` says which version each `policy:` entry meant when the file was read; their weights are part of the
    digest, so that a promotion makes other runs of the same pool file.
    """

    def __init__(
        self,
        path: Path,
        tables: PoolTables,
        text: str,
        policies: Mapping[str, Policy] = MappingProxyType({}),
        policies_dir: Path = Path("policies"),
        weights: Mapping[str, str] | None = None,
    ) -> None:
        """`weights`: entry -> what answers; None: by the entries' endpoints."""
        self.path = path
        self.text = text
        self.tables = tables
        self.weights = weights or {name: _weights(name, model) for name, model in tables.models.items()}
        self.policies = policies
        self.policies_dir = policies_dir
        self.models: Mapping[str, ModelTable] = tables.models
        self.router = tables.router
        answers = tables.model_dump(
            exclude={
                "quotas": True,
                "vllm": True,
                "budget": True,
                "simulated_faults": True,
                "models": {
                    "__all__": {
                        "max_requests_per_minute",
                        "max_tokens_per_minute",
                        "max_in_flight",
                        "timeout_s",
                        "deadline_s",
                        "stream",
                        "quota",
                        "api_key_env",
                        "hidden_input_tokens",
                        "hidden_output_tokens",
                        "retires",
                        "lane",
                        "regions",
                        "retention",
                    }
                },
            }
        )
        for model in answers["models"].values():
            drop_later_defaults(model)
        if self.router.second_decomposer is None:
            del answers["router"]["second_decomposer"]  # it came later: pool files without it keep their digest
        if servers := {name: said for name, table in tables.vllm.items() if (said := table.identity())}:
            answers["vllm"] = servers
        identity = repr(sorted(answers.items()))
        if policies:
            identity += repr(sorted((name, p.ref, p.card.weights_sha256) for name, p in policies.items()))
        self.digest = hashlib.sha256(identity.encode()).hexdigest()[:16]

    def only(self, names: Collection[str]) -> "PoolConfig":
        """The same pool with these entries alone, for asking them and starting no other's server."""
        models = {name: model for name, model in self.models.items() if name in names}
        policies = {name: policy for name, policy in self.policies.items() if name in names}
        tables = self.tables.model_copy(update={"models": models})
        return PoolConfig(self.path, tables, self.text, policies, self.policies_dir, self.weights)

    def price(self, name: str) -> Price:
        table = self.models[name].price_usd_per_mtok
        long = tuple(LongContextPrice(each.above_tokens, _price(each, table)) for each in table.long)
        return replace(_price(table, table), long=long)

    def roster(self) -> Roster:
        """The pool without endpoints, keys and limits."""
        return Roster(
            ModelCard(
                name=name,
                tier=model.tier,
                price=self.price(name),
                prompt_mode=model.prompt_mode,
                examples=tuple((one.question, one.reply) for one in model.examples),
                context_tokens=model.context_tokens,
                states_context="context_tokens" in model.model_fields_set,
                skills=model.profile,
                profile_rows=model.profile_rows,
                has_logprobs=model.logprobs,
                guided=model.guided,
                is_solver=model.solver,
                weights=self.weights[name],
                sent_output_limit=model.sent_output_limit,
                max_output_tokens=model.max_output_tokens,
                thinking_tokens=model.thinking_tokens,
                further_input_tokens=model.hidden_input_tokens + _sent_beside(model.extra_body),
                hidden_output_tokens=model.hidden_output_tokens,
                takes_temperature=model.sampling,
            )
            for name, model in self.models.items()
        )

    def limits_of(self, name: str) -> tuple[str, EndpointLimits]:
        """(quota owner, its limits): the shared quota where the model names one, else the model itself."""
        model = self.models[name]
        if model.quota is not None:
            return f"quota:{model.quota}", self.tables.quotas[model.quota]
        limits_said = model.model_fields_set & EndpointLimits.model_fields.keys()
        if model.vllm_target is not None and not limits_said:  # one server: its entries share what it does at once
            server = self.vllm_server(model.vllm_target)
            return f"vllm:{self.digest}:{model.vllm_target}", EndpointLimits(max_in_flight=server.max_num_seqs)
        return f"model:{self.digest}:{name}", model

    def vllm_server(self, target: str) -> VllmTable:
        """How the server of the `vllm:` entries of this model is started."""
        return self.tables.vllm.get(target, VllmTable())

    def check_keys(self, environ: Mapping[str, str] = os.environ, today: date | None = None) -> None:
        """PoolFileError if a named key variable is not set, or the provider has ended a model or its price: better now
        than at the first paid call. `today` None: this day, UTC."""
        if over := ended(self.models, today or datetime.now(UTC).date()):
            raise PoolFileError(f"{self.path}: " + "\n".join(over))
        for name, model in self.models.items():
            if model.api_key_env is not None and not environ.get(model.api_key_env):
                line = _line_of(self.path.read_text("utf-8"), ("models", name, "api_key_env"))
                raise PoolFileError(
                    f"{self.path}:{line}: model {name!r} reads its key from ${model.api_key_env}, which is not set. "
                    f"Set it (export {model.api_key_env}=...), or remove the model from the pool."
                )


def _sent_beside(extra_body: Mapping[str, Any]) -> int:
    """Bytes of the further fields: a server may take any of them into the prompt."""
    return (
        len(json.dumps(dict(extra_body), ensure_ascii=False, default=str).encode("utf-8", "replace"))
        if extra_body
        else 0
    )


def _price(rates: Rates | PriceTable, table: PriceTable) -> Price:
    cached = rates.input if rates.cached_input is None else rates.cached_input
    return Price(rates.input, cached, rates.output, table.date, table.source, rates.cache_write)


def load_pool(path: Path | str, policies_dir: Path | str | None = None) -> PoolConfig:
    """Reads and checks a pool file, or for `recording:FILE` the pool of a recorded run, every entry of it replayed.

    `policies_dir` is where `policy:NAME` is looked up; None: $R2_POLICIES_DIR, else `policies` beside the current
    directory. A pool file that is not there may be a shipped one (r2/shipped/place.py). Raises PoolFileError with file,
    line, key and what to change.
    """
    kind, _, recording = str(path).partition(":")
    if kind == "recording":
        return _replayed(Path(recording))
    path = found(Path(path))
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise PoolFileError(
            f"{path}: no such pool file. Shipped ones: pools/local.toml, pools/simulated.toml."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise PoolFileError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    tables, whole = _checked(path, text)
    _refuse_secrets(path, text, tables)
    registry = policy_registry(policies_dir)
    return PoolConfig(path, tables, whole, _policies(path, text, tables, registry), registry.root)


def policy_registry(policies_dir: Path | str | None = None) -> Registry:
    """Where policies are looked up by name: `policies_dir`, else $R2_POLICIES_DIR, else `policies` here."""
    return Registry(policies_dir or os.environ.get("R2_POLICIES_DIR") or "policies")


def _refuse_secrets(path: Path, text: str, tables: PoolTables) -> None:
    """PoolFileError, which does not repeat it, for a secret in the file: the whole of it is stored with every run. And
    for names that would steer the terminal they are shown on."""
    for name, table in tables.models.items():
        if not name.isprintable():
            raise PoolFileError(f"{path}: the model's name {name!r} holds a control character. Take it out.")
        for field, said in (
            ("endpoint", secret_of_endpoint(table.endpoint)),
            ("extra_body", secret_of_body(table.extra_body)),
            ("api_key_env", secret_of_variable(table.api_key_env)),
        ):
            if said is not None:
                line = _line_of(text, ("models", name, field))
                raise PoolFileError(
                    f"{path}:{line}: models.{name}.{field}: {said}. This file is stored with every run: take it out, "
                    'put the key into an environment variable, and name that: api_key_env = "NAME".'
                )
    if (login_line := line_of_login(text)) is not None:
        raise PoolFileError(
            f"{path}:{login_line}: an address with a user name or a password, and this file is stored with every run. "
            "Take "
            'them out; keys are named by their environment variable: api_key_env = "NAME".'
        )


def _policies(path: Path, text: str, tables: PoolTables, registry: Registry) -> dict[str, Policy]:
    """What each `policy:` entry and each adapter means now. PoolFileError if there is none, if it is not of the weights
    beside it, or if the entry asks it in words it was not trained on."""
    policies: dict[str, Policy] = {}
    for name, table in tables.models.items():
        field = "endpoint" if table.adapter is None else "adapter"
        if field == "endpoint" and not table.endpoint.startswith("policy:"):
            continue
        line = _line_of(text, ("models", name, field))
        try:
            policies[name] = policy = registry.load(table.adapter or table.endpoint.partition(":")[2])
        except ConfigError as error:
            raise PoolFileError(f"{path}:{line}: models.{name}.{field}: {error}") from None
        if table.adapter is not None and not (
            policy.is_adapter and table.vllm_target in (policy.catalogue_name, policy.card.base)
        ):
            what = f"an adapter of {policy.catalogue_name}" if policy.is_adapter else "full weights"
            raise PoolFileError(
                f"{path}:{line}: models.{name}.adapter: {policy.ref} is {what}, and the server loads "
                f"{table.vllm_target}. An adapter fits the weights it was trained on; full weights are served by "
                f'endpoint = "policy:{table.adapter}".'
            )
        if policy.card.kind == "scorer":
            raise PoolFileError(
                f"{path}:{line}: models.{name}.{field}: {policy.ref} is a scorer, which says who is asked and answers "
                f"nothing itself. Take the entry out, and give: r2 answer --scorer {policy.card.name}."
            )
        if table.prompt_mode != policy.card.prompt_mode:
            line = _line_of(text, ("models", name, "prompt_mode"))
            raise PoolFileError(
                f"{path}:{line}: models.{name}.prompt_mode = {table.prompt_mode!r}, but {policy.ref} was trained on "
                f'{policy.card.prompt_mode!r} prompts. Set prompt_mode = "{policy.card.prompt_mode}".'
            )
    return policies


def _replayed(path: Path) -> PoolConfig:
    text = recorded_pool(path)
    tables, _ = _checked(path, text)
    replay = {"endpoint": f"recording:{path.resolve()}", "api_key_env": None}
    models = {name: model.model_copy(update=replay) for name, model in tables.models.items()}
    replayed = tables.model_copy(update={"models": models, "budget": BudgetTable()})
    answered = {name: _weights(name, model) for name, model in tables.models.items()}
    return PoolConfig(path, replayed, text, weights=answered)


def _weights(name: str, model: ModelTable) -> str:
    """Equal for entries that ask the same model. A server that is not told a model's name is asked for the entry's."""
    kind = model.endpoint.partition(":")[0]
    if kind == "recording":
        return name
    if kind == "vllm":
        return model.endpoint if model.adapter is None else f"{model.endpoint} {model.adapter}"
    return f"{model.endpoint} {model.served_model or name}" if kind in ("http", "https") else model.endpoint


def _checked(path: Path, text: str) -> tuple[PoolTables, str]:
    """The tables, and the text that says all of them: `text` itself, unless it lists models of the catalogue."""
    try:
        document = parsed_toml(text)
    except ValueError as error:
        raise PoolFileError(f"{path}: not valid TOML: {error}{_list_and_tables(text)}") from error
    if (whole := written_out(path, text, document, datetime.now(UTC).date())) is not None:
        document = parsed_toml(whole)
    try:
        return PoolTables.model_validate(document), whole or text
    except ValidationError as error:
        raise PoolFileError("\n".join(_explain(path, text, dict(e)) for e in error.errors())) from None


def _list_and_tables(text: str) -> str:
    """What to do where a file has both a list and tables called `models`, which TOML does not take."""
    has_list = re.search(r"^\s*models\s*=\s*\[", text, re.MULTILINE)
    if has_list and re.search(r"^\s*\[models\.", text, re.MULTILINE):
        return ". Beside [models.NAME] tables the list of models is called `catalogue`: catalogue = [...]"
    return ""


def _explain(path: Path, text: str, error: dict[str, Any]) -> str:
    location = tuple(str(part) for part in error["loc"])
    where = f"{path}:{_line_of(text, location)}: {'.'.join(location) or 'pool'}"
    if error["type"] == "extra_forbidden" and isinstance(error["input"], dict) and len(location) > 2:
        return f'{where}: a name with a dot needs quotes: [{location[0]}."{".".join(location[1:])}"].'
    if error["type"] == "extra_forbidden" and location[-1] in LIST_KEYS and isinstance(error["input"], list):
        return f"{where}: a list of models stands above the first [table] of the file. Move the line to the top."
    if error["type"] == "extra_forbidden":
        known = _known_keys(location)
        close = difflib.get_close_matches(location[-1], known, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Known keys: {', '.join(known)}."
        return f"{where}: unknown key. {hint}"
    if error["type"] == "missing" and location[-1] == "endpoint" and "/" in location[1]:
        return (
            f'{where}: missing; add it, or if this is a model of the catalogue list it: catalogue = ["{location[1]}"] '
            "at the top of the file."
        )
    if error["type"] == "missing" and location[-1] == "price_usd_per_mtok":
        return (
            f"{where}: missing price. A model without a price would make every total wrong; add "
            'price_usd_per_mtok = {input = ..., output = ..., date = "YYYY-MM-DD", source = "..."}.'
        )
    if error["type"] == "missing":
        return f"{where}: missing; add it."
    got = _without_secrets(location, f"{error['input']!r:.60}")
    return f"{where}: {error['msg'].removeprefix('Value error, ')}{got}"


def _without_secrets(location: tuple[str, ...], got: str) -> str:
    """What a field holds, for a message; nothing where it may be a key or an address with one."""
    is_open = not {"endpoint", "api_key_env", "extra_body"} & set(location) and line_of_login(got) is None
    return f" (got {got})" if is_open else ""


def _known_keys(location: tuple[str, ...]) -> list[str]:
    tables: dict[str, type[BaseModel]] = {
        "models": ModelTable,
        "quotas": EndpointLimits,
        "router": RouterTable,
        "budget": BudgetTable,
        "vllm": VllmTable,
    }
    if "price_usd_per_mtok" in location:
        return list(PriceTable.model_fields)
    return list(tables.get(location[0], PoolTables).model_fields if len(location) > 1 else PoolTables.model_fields)


def _line_of(text: str, location: tuple[str, ...]) -> int:
    """1-based line of the deepest part of `location` that the text has; tomllib keeps no positions, so we look for
    them."""
    lines = text.splitlines()
    best, start = 1, 0
    for depth in range(1, len(location) + 1):
        if location[depth - 1].isdigit():  # the number of a [[table]]
            each = re.compile(r"^\s*\[" + _header(location[: depth - 1]) + r"\]")
            tables = [number for number, line in enumerate(lines) if each.match(line)]
            if int(location[depth - 1]) < len(tables):
                start = tables[int(location[depth - 1])]
                best = start + 1
            continue
        header = re.compile(r"^\s*" + _header(location[:depth]))
        key = re.compile(
            rf'^\s*"?{re.escape(location[depth - 1])}"?\s*[=.]|[{{,]\s*"?{re.escape(location[depth - 1])}"?\s*='
        )
        for number in range(start, len(lines)):
            is_next_table = depth > 1 and number > start and lines[number].lstrip().startswith("[") and best > 1
            if header.match(lines[number]) or (
                key.search(lines[number]) and not lines[number].lstrip().startswith("#")
            ):
                best, start = number + 1, number
                break
            if is_next_table and not header.match(lines[number]) and depth == len(location):
                break
    return best


def _header(location: tuple[str, ...]) -> str:
    """A pattern of a table's name in brackets."""
    return r"\[\s*" + r"\s*\.\s*".join(f'"?{re.escape(part)}"?' for part in location) + r"\s*\]"


Endpoint = Literal["http", "local", "policy", "vllm", "simulated", "recording"]


def endpoint_kind(endpoint: str) -> Endpoint:
    """Which of the kinds an `endpoint` value is. Raises PoolFileError for anything else."""
    scheme = endpoint.split(":", 1)[0]
    kinds: dict[str, Endpoint] = {
        "http": "http",
        "https": "http",
        "local": "local",
        "policy": "policy",
        "vllm": "vllm",
        "simulated": "simulated",
        "recording": "recording",
    }
    if scheme not in kinds:
        raise PoolFileError(
            f"endpoint {endpoint!r}: expected http(s)://..., local:NAME, policy:NAME, vllm:MODEL, simulated:NAME or "
            "recording:FILE"
        )
    return kinds[scheme]
