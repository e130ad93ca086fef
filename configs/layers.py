"""Put the layers of configuration together: flag > environment > file > profile > default.

A threshold goes with its score: where a layer turns to a strategy that asks by another one, and
brings no threshold, that of the layers below does not count.
"""

from __future__ import annotations

import difflib
import functools
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from ..common.errors import ConfigError
from ..common.files import read_bounded
from .config import Config, StrategyOptions
from .wording import requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FOLDER = Path(__file__).parent
_NOT_PROFILES = {"catalogue"}
_MOST = 1_000_000  # bytes of a file
_PAIRS = {"paper": "paper"}  # of the catalogue, to suggest for a profile; else a small one
_OTHER_VARIABLES = {
    "UHLM_API_KEY", "UHLM_SERVE_KEY", "UHLM_NO_CLOUD", "UHLM_CONFIG", "UHLM_PROFILE", "UHLM_MODELS",
}  # fmt: skip

Path_ = tuple[str, ...]
"""A key: ("device", "engine", "n_ctx")."""

_THRESHOLD: Path_ = ("strategy", "threshold")


@dataclass(frozen=True)
class Loaded:
    """A configuration, where each value that is no default came from, and what looks wrong."""

    config: Config
    origins: Mapping[Path_, str]
    warnings: tuple[str, ...] = ()

    def rows(self) -> Iterator[tuple[str, Any, str]]:
        """Each key with its value and where that came from."""
        for path, value in leaves(self.config):
            yield ".".join(path), value, self.origins.get(path, "default")


def profiles() -> list[str]:
    """The names of the profiles that come with the package."""
    return sorted({file.stem for file in _FOLDER.glob("*.toml")} - _NOT_PROFILES)


def keys() -> list[Path_]:
    """Every key that can be set."""
    return [path for path, _ in leaves(Config())]


def config_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Where the user's own files are: config.toml, calibrations."""
    base = environment.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "uhlm-edge"


def load_config(
    flags: Mapping[Path_, Any],
    profile: str | None = None,
    file: Path | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Loaded:
    """Read all layers.

    Args:
        flags: values from the command line; None means "not given".
        profile: name of a profile; None for UHLM_PROFILE, else `demo`.
        file: a config file; None for UHLM_CONFIG, else the user's config.toml if there is one.
        environment: of the process.

    Raises:
        ConfigError: an unknown profile, key or variable, or a value out of range.
    """
    name = profile or environment.get("UHLM_PROFILE") or "demo"
    if name not in profiles():
        raise ConfigError(f"no profile named {name!r}; there are: {', '.join(profiles())}")
    layers: list[tuple[str, dict[Path_, Any]]] = [
        (f"profile {name}", _read(_FOLDER / f"{name}.toml"))
    ]
    chosen = file or (Path(given) if (given := environment.get("UHLM_CONFIG")) else None)
    own = chosen or config_folder(environment) / "config.toml"
    if chosen is not None or own.exists():
        layers.append((str(own), _read(own)))
    variables, warnings = _from_environment(environment)
    layers.append(("environment", variables))
    layers.append(("flag", {k: v for k, v in flags.items() if v is not None}))

    merged: dict[Path_, Any] = {}
    origins: dict[Path_, str] = {}
    known = keys()
    for origin, values in layers:
        for path in values:
            if path not in known:
                raise ConfigError(_unknown(".".join(path), [".".join(k) for k in known], origin))
            origins[path] = origin
        old, merged = merged, _over(merged, values)
        if _THRESHOLD in old and _THRESHOLD not in merged:
            where, was, now = origins.pop(_THRESHOLD), _strategy(old), _strategy(merged)
            if now.score is not None:
                warnings.append(
                    f"the threshold {old[_THRESHOLD]} ({where}) is of {was.threshold_of}, and "
                    f"{now.name} decides by {now.score}: it does not count"
                )
    if name != "demo" and ("device", "model") not in origins:
        warnings.append(
            f"profile {name} names no models, so the small demo model runs: give --model and "
            f"--cloud, or for instance --pair {_PAIRS.get(name, 'qwen2.5')}"
        )
    return Loaded(_validated(merged, origins), origins, tuple(warnings))


def changed(config: Config, values: Mapping[Path_, Any], origin: str = "option") -> Config:
    """The same configuration with other values at some keys; a threshold goes with its score.

    Raises:
        ConfigError: an unknown key, or a value out of range.
    """
    sections: dict[str, Any] = dict(config)
    merged: dict[Path_, Any] = {}
    for name in {path[0] for path in values} & sections.keys():
        merged.update(leaves(sections[name], (name,)))
    for path in values:
        if path not in merged:
            raise ConfigError(_unknown(".".join(path), [".".join(k) for k in keys()], origin))
    # Sections without a change are valid already: a request to `serve` does not pay for them.
    return _validated(_over(merged, values), dict.fromkeys(values, origin), sections)


def _over(lower: Mapping[Path_, Any], upper: Mapping[Path_, Any]) -> dict[Path_, Any]:
    """A layer over what lies below it, without a threshold of another score."""
    merged = {**lower, **upper}
    if _THRESHOLD not in upper and _strategy(merged).threshold_of != _strategy(lower).threshold_of:
        merged.pop(_THRESHOLD, None)
    return merged


def _strategy(values: Mapping[Path_, Any]) -> StrategyOptions:
    """What says by which score is asked; not checked yet."""
    names = ("name", "ask_by")
    given = {name: values["strategy", name] for name in names if ("strategy", name) in values}
    return StrategyOptions.model_construct(**given)


def _validated(
    merged: Mapping[Path_, Any], origins: Mapping[Path_, str], others: Mapping[str, Any] = {}
) -> Config:
    try:
        config = Config.model_validate({**others, **_nested(merged)})
    except ValidationError as error:
        known = keys()
        wrong: dict[Path_, list[Any]] = {}  # a value of several types has an error for each
        for each in error.errors():
            loc = tuple(str(part) for part in each["loc"])
            path = next((k for k in known if loc[: len(k)] == k), loc)
            wrong.setdefault(path, []).append(each)
        path, errors = next(iter(wrong.items()))
        raise ConfigError(
            f"{'.'.join(path)} = {merged.get(path)!r} ({origins.get(path, 'default')}): "
            f"{requirement(errors)}"
        ) from None
    for path, value in merged.items():
        if isinstance(value, bool) and not isinstance(
            functools.reduce(getattr, path, config), bool
        ):
            origin = origins.get(path, "default")
            raise ConfigError(f"{'.'.join(path)} = {value} ({origin}): must be a number")
    return config


def as_environment(config: Config, section: str) -> dict[str, str]:
    """A section as the variables that set it, for a process of our own."""
    return {
        _variable(path): ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for path, value in leaves(config)
        if path[0] == section and value not in (None, ())
    }


def _variable(path: Path_) -> str:
    return "UHLM_" + "_".join(path).upper()


def _read(file: Path) -> dict[Path_, Any]:
    try:
        return dict(leaves(tomllib.loads(read_bounded(file, _MOST).decode("utf-8"))))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"config file {file}: {reason}") from None


def _from_environment(environment: Mapping[str, str]) -> tuple[dict[Path_, Any], list[str]]:
    """What the variables set, and what is wrong with their names: no reason to stop a command."""
    names = {_variable(path): path for path, _ in leaves(Config())}
    values: dict[Path_, Any] = {}
    warnings = []
    for variable, value in environment.items():
        if not variable.startswith("UHLM_") or variable in _OTHER_VARIABLES:
            continue
        if variable not in names:
            unknown = _unknown(variable, [*names, *_OTHER_VARIABLES], "environment")
            warnings.append(f"{unknown} (ignored)")
        elif value.strip():  # set to nothing means: not set
            values[names[variable]] = value
    if environment.get("UHLM_NO_CLOUD", "") not in ("", "0"):
        values["cloud", "offline"] = True
    return values, warnings


def _unknown(key: str, known: list[str], origin: str) -> str:
    if any(each.startswith(f"{key}.") for each in known):
        return f"{key} is a section ({origin}): write [{key}], and its keys below"
    close = difflib.get_close_matches(key, known, 1)
    hint = f"; did you mean {close[0]}?" if close else "; see `uhlm-edge config show`"
    return f"unknown key {key} ({origin}){hint}"


def leaves(tree: BaseModel | Mapping[str, Any], prefix: Path_ = ()) -> Iterator[tuple[Path_, Any]]:
    """Each value of sections within sections, and its key."""
    for name, value in dict(tree).items():
        if isinstance(value, (BaseModel, Mapping)):
            yield from leaves(value, (*prefix, name))
        else:
            yield (*prefix, name), value


def _nested(values: Mapping[Path_, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in values.items():
        node = tree
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
    return tree
