"""What sets the options of a server: triptych.toml, then the environment, then flags; the later one wins.

`python -m server.settings` prints the table of docs/configuration.md.
"""

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from encoder.jobs import usable_processors
from server.config import Option, ServerConfig, checked_tenant, options
from store.home import Home

PREFIX = "TRIPTYCH_"
HOME = f"{PREFIX}HOME"
FILE_NAME = "triptych.toml"


class WrongSettingError(ValueError):
    """A setting cannot be used; the message says which, where it stands, and what is wrong with it."""


@dataclass(frozen=True)
class SettingsSource:
    """Where the settings of a server come from; they can be read again.

    Attributes:
        home: the home directory.
        file: triptych.toml; None for the one in the home, where there is one.
        flags: values from the command line, by option.
        with_tenants: whether `home` is a folder of homes, one for each tenant.
    """

    home: Path
    file: Path | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)
    with_tenants: bool = False

    def load(self) -> ServerConfig:
        """Read the settings.

        Raises:
            WrongSettingError: an option is unknown, or its value cannot be used.
            FileNotFoundError: the file that was named, the home or a tenant's is not there.
            BadTenantError: a folder of homes has one whose name is none of a tenant.
        """
        if not self.home.is_dir():
            raise FileNotFoundError(
                f"there is no directory {self.home} to serve: run `triptych import` first"
            )
        beside = self.home / FILE_NAME
        file = self.file or (beside if beside.exists() else None)
        in_file = {} if file is None else _read(file)
        values = _validated(self.flags, in_file, file)
        tenants = _tenants(self.home) if self.with_tenants else ()
        return ServerConfig(Home(self.home), tenants, **values)


def _tenants(folder: Path) -> tuple[str, ...]:
    """Return the names of the homes in a folder.  Raises: FileNotFoundError, BadTenantError."""
    names = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    if not names:
        raise FileNotFoundError(f"{folder} has no folder with a home in it")
    return tuple(map(checked_tenant, names))


def _read(file: Path) -> dict[str, Any]:
    """Return the values in a file by option; relative paths are those beside the file.

    Raises:
        WrongSettingError: it is no TOML, or has an option that is unknown.
    """
    try:
        tables = tomllib.loads(file.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WrongSettingError(f"{file} is no TOML: {error}") from error
    known = {(one.table, one.key): one for one in options()}
    values: dict[str, Any] = {}
    for table, content in tables.items():
        if not isinstance(content, dict):
            raise WrongSettingError(f"{file}: {table} stands in no table{_nearest('', table)}")
        for key, value in content.items():
            if (table, key) not in known:
                raise WrongSettingError(f"{file}: there is no option [{table}] {key}{_nearest(table, key)}")
            one = known[table, key]
            if isinstance(value, bool) != (one.kind is bool):  # True would count as 1
                raise WrongSettingError(f"{_place(one, file)} is {value!r}, not {_words_of(one)}")
            values[one.name] = file.parent / value if one.kind is Path and isinstance(value, str) else value
    return values


def _nearest(table: str, key: str) -> str:
    """Return the question whether the option with the nearest name is meant."""
    names = {f"{one.table} {one.key}": one for one in options()}
    by_key = [name for name, one in names.items() if one.key == key]
    found = difflib.get_close_matches(f"{table} {key}".strip(), by_key or names, n=1, cutoff=0.0)
    return f"; the nearest one is [{names[found[0]].table}] {names[found[0]].key}"


def _validated(flags: Mapping[str, Any], in_file: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
    """Return the values of all options by attribute.  Raises: WrongSettingError."""
    # Not needed by query processes, which get their settings ready-made.
    from pydantic import BeforeValidator, Field, ValidationError, create_model  # noqa: PLC0415
    from pydantic_settings import (  # noqa: PLC0415
        BaseSettings,
        InitSettingsSource,
        PydanticBaseSettingsSource,
        SettingsConfigDict,
    )

    class Base(BaseSettings):
        model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True)

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
            file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, dict(in_file))

    kinds: dict[str, Any] = {}
    for one in options():
        checks = Field(ge=one.least, le=one.most, allow_inf_nan=False if one.kind is float else None)
        checked: Any = Annotated[one.kind, checks]  # None has no bounds
        kind = checked if one.default is not None else checked | None
        kinds[one.name] = (Annotated[kind, BeforeValidator(_check_words(one))], one.default)
    try:
        made = create_model("Settings", __base__=Base, **kinds)(**flags)
    except ValidationError as error:
        raise WrongSettingError(_said_of(error.errors()[0], flags, file)) from error
    return {one.attribute: getattr(made, one.name) for one in options()}


def _check_words(one: Option) -> Any:
    def check(value: Any) -> Any:
        if one.kind is int and value in one.words:
            return usable_processors()
        if one.kind is str and one.words and value not in one.words:
            raise ValueError(f"not one of {', '.join(one.words)}")
        if one.kind is str and isinstance(value, str):
            one.check(value)
        return value

    return check


def _said_of(error: Any, flags: Mapping[str, Any], file: Path | None) -> str:
    """Return where a value stands that cannot be used, and what is wrong with it."""
    one = next(one for one in options() if one.name == error["loc"][0])
    variable = f"{PREFIX}{one.name.upper()}"
    if one.name in flags:
        place = flag_of(one)
    elif os.environ.get(variable):
        place = variable
    else:
        place = _place(one, file)
    if error["type"] == "value_error" and not one.words:
        return f"{place}: {error['ctx']['error']}"
    return f"{place} is {error['input']!r}, not {_words_of(one)}"


def _place(one: Option, file: Path | None) -> str:
    return f"{file}: [{one.table}] {one.key}"


def _words_of(one: Option) -> str:
    """Return which values an option may have."""
    if one.kind is str and one.words:
        return " or ".join(one.words)
    words = "".join(f"{word} or " for word in one.words)
    if one.least is not None and one.most is not None:
        return f"{words}a number in {one.least:g}..{one.most:.10g}"
    return {bool: "true or false", Path: "a path", str: "a text"}.get(one.kind, f"{words}a number")


def flag_of(one: Option) -> str:
    """Return the flag of an option."""
    return f"--{one.name.replace('_', '-')}"


def options_table() -> str:
    """Return all options as a table in Markdown."""
    rows = ["| option | flag, environment | default | meaning |", "|---|---|---|---|"]
    for one in options():
        default = "" if one.default is None else f"`{_toml(one.default)}`"
        flag = flag_of(one) + (f", --no-{one.name.replace('_', '-')}" if one.kind is bool else "")
        again = " ⟳" if one.reread else ""
        may_be = "" if one.kind in (bool, Path) or (one.kind is str and not one.words) else _words_of(one)
        meaning = one.meaning + (f" ({may_be})" if may_be else "")
        names = f"`{flag}`, `{PREFIX}{one.name.upper()}`"
        rows.append(f"| `[{one.table}] {one.key}`{again} | {names} | {default} | {meaning} |")
    return "\n".join(rows) + "\n"


def _toml(value: Any) -> str:
    return (
        str(value).lower()
        if isinstance(value, bool)
        else f'"{value}"'
        if isinstance(value, str)
        else str(value)
    )


if __name__ == "__main__":
    print(options_table(), end="")
