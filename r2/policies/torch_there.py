"""Whether this environment can train policies, and serve those that are full weights. Both need torch, which the
default install leaves out."""

from importlib.util import find_spec

from r2.errors import ConfigError


def require_torch(what: str) -> None:
    """ConfigError, with what to install, where there is no torch. `what`: what needs it, as a sentence begins."""
    if find_spec("torch") is None:
        raise ConfigError(
            f"{what} needs torch, which is not installed here. It comes with the extra `train`: in a checkout "
            "pip install '.[train]' (docs/install.md)."
        )
