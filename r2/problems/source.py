"""Where problems come from, written in one word: `scan?split=length`, `gsm8k`, `gsm8k:my.jsonl`,
`rg:chain_sum?min_terms=3`, `file:q.csv`."""

from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from r2.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Source:
    """`name` before the colon, `place` after it ("" if there is none), `options` after the question mark."""

    name: str
    place: str = ""
    options: dict[str, str] = field(default_factory=dict)

    def number(self, option: str, default: int) -> int:
        """An option as a whole number. ConfigError if it is none."""
        text = self.options.get(option, str(default))
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"--problems {self}: {option}={text!r}: expected a whole number.") from None

    def only(self, *known: str) -> None:
        """ConfigError for an option that is not among `known`."""
        for option in self.options:
            if option not in known:
                raise ConfigError(f"--problems {self}: no option {option!r}. Known: {', '.join(known) or 'none'}.")

    def __str__(self) -> str:
        place = f":{self.place}" if self.place else ""
        options = "&".join(f"{key}={value}" for key, value in self.options.items())
        return f"{self.name}{place}{'?' + options if options else ''}"


def parse_source(text: str) -> Source:
    """Reads `NAME[:PLACE][?KEY=VALUE&...]`. ConfigError if there is no name or an option without a value."""
    head, _, query = text.partition("?")
    name, _, place = head.partition(":")
    try:
        options = dict(parse_qsl(query, strict_parsing=True)) if query else {}
    except ValueError:
        raise ConfigError(f"--problems {text}: options are written KEY=VALUE&KEY=VALUE.") from None
    if not name:
        raise ConfigError(f"--problems {text!r}: expected a benchmark's name, rg:TASK or file:PATH.")
    return Source(name, place, options)
