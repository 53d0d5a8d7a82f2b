"""spaces.yaml, our deployment file: its strict schema, the YAML block of README.md that follows from it, and the files that a Space gets.

Knows files alone, no Hub. The platform reads the block, which is documented at
https://huggingface.co/docs/hub/spaces-config-reference, and never spaces.yaml.
"""

import re
from collections.abc import Hashable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, Strict, TypeAdapter, ValidationError, field_validator, model_validator

from app.adapter.hub import check_names, parse
from app.errors import ConfigError
from app.settings import ROOT, Settings

FILE = ROOT / "spaces.yaml"
FOLDERS = ("app", "assets")
FILES = ("LICENSE", "NOTICE")
README = "README.md"
REQUIREMENTS = "requirements.txt"
LOCK, CONSTRAINTS = "requirements.lock", "constraints.txt"

Hardware = Literal["cpu-basic", "zero-a10g", "t4-small", "a10g-small", "l4x1", "a100-large"]
# Free, and the platform alone says when a Space on them falls asleep.
FREE: set[str] = {"cpu-basic", "zero-a10g"}
NEVER = -1

# The settings that bound what visitors can have of the app: its numbers, and rates such as "10/minute".
LIMITS = {
    name: field
    for name, field in Settings.model_fields.items()
    if ({field.annotation, *get_args(field.annotation)} & {int, float} or name.endswith("_limit"))
    and name not in ("port", "threads", "look_minutes")
}

_NAME = r"^[A-Z][A-Z0-9_]*$"
_REPOSITORY = r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$"
_SECRET = re.compile(r"(^|_)(TOKEN|KEY|SECRET|PASSWORD)$")
_PRELOAD = rf"{_REPOSITORY[:-1]}( [^\s,]+(,[^\s,]+)*( [0-9a-f]{{40}})?)?$"
_BLOCK = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)

Color = Literal["red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"]
Variable = Annotated[str, Field(pattern=_NAME)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Page(_Strict):
    """How the Space is shown in lists."""

    title: str
    emoji: str
    colorFrom: Color
    colorTo: Color
    license: str
    short_description: str = Field(max_length=60)


class Space(_Strict):
    """See spaces.yaml, which explains every key."""

    repository: str = Field(pattern=_REPOSITORY)
    visibility: Literal["public", "private"]
    hardware: Hardware
    sleep_time: int | None = None
    adapter: str
    channel: str | None = Field(None, pattern=r"^[\w.-]+$")
    preload: list[Annotated[str, Field(pattern=_PRELOAD)]] = []
    login: bool = False
    login_organisation: str | None = None
    limits: dict[str, int | float | str] = {}
    variables: dict[Variable, str] = {}
    secrets: dict[Variable, Variable] = {}
    page: Page
    sdk: Literal["gradio"]
    sdk_version: str
    python_version: str
    app_file: Literal["app/__main__.py"]

    @field_validator("limits")
    @classmethod
    def _limits_of_the_app(cls, limits: dict[str, int | float | str]) -> dict[str, int | float | str]:
        for name, value in limits.items():
            if name not in LIMITS:
                raise ValueError(f"{name} is no limit of the app.{_nearest(name, LIMITS)} There are: {', '.join(LIMITS)}")
            field = LIMITS[name]
            try:
                TypeAdapter(Annotated[field.annotation, Strict(), *field.metadata]).validate_python(value)
            except ValidationError as error:
                raise ValueError(f"{name}: {error.errors()[0]['msg']}. {field.description}") from error
        return limits

    @model_validator(mode="after")
    def _one_thing_is_said_once(self) -> Self:
        if self.hardware in FREE and self.sleep_time is not None:
            raise ValueError(f"{self.hardware} falls asleep when the platform says so: leave sleep_time out")
        if self.hardware not in FREE and (self.sleep_time is None or (self.sleep_time != NEVER and self.sleep_time < 60)):
            raise ValueError(
                f"{self.hardware} costs money as long as it is awake: give sleep_time, 60 seconds or more, or {NEVER} for never"
            )
        if self.login_organisation and not self.login:
            raise ValueError("login_organisation says who may log in: switch login on, or leave it out")
        if self.channel and (parse(self.adapter) is None or "@" in self.adapter):
            raise ValueError("channel goes with an adapter of the form OWNER/NAME")
        taken = {"ADAPTER", "REQUIRE_LOGIN", "LOGIN_ORGANISATION", *(name.upper() for name in self.limits)}
        for name in self.variables:
            if name in taken:
                raise ValueError(f"variables: {name} is set by another key of this file: leave it out")
            if name in self.secrets or _SECRET.search(name) or self.variables[name].startswith("hf_"):
                raise ValueError(
                    f"variables: {name} would be read by everybody: name it under secrets, and keep its value in the environment"
                )
        return self

    @property
    def adapter_name(self) -> str:
        """The adapter as the app's settings name it."""
        return f"{self.adapter}@{self.channel}" if self.channel else self.adapter

    @property
    def environment(self) -> dict[str, str]:
        """Every variable that the Space gets; everybody can read them."""
        limits = {name.upper(): str(value) for name, value in self.limits.items()}
        login = {"REQUIRE_LOGIN": "true"} if self.login else {}
        if self.login_organisation:
            login["LOGIN_ORGANISATION"] = self.login_organisation
        return {"ADAPTER": self.adapter_name, **login, **limits, **self.variables}


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would forget the first."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key) for key, _ in node.value]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"{twice[0]} stands twice")
        return super().construct_mapping(node, deep)


def read(path: Path = FILE) -> Space:
    """Reads the deployment file.

    Raises:
        ConfigError: It is missing, or says something that is not allowed; the message names the key and what is.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except OSError as error:
        raise ConfigError(f"{path.name} cannot be read ({error.strerror}). Name the deployment file with --config.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name} is not valid YAML: {' '.join(str(error).split())[:300]}. Mend it and try again.") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path.name} holds no settings of the form `key: value`. See the one in the repository for an example.")
    try:
        return Space.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path.name}: {_sentence(error)}") from error


def _sentence(error: ValidationError) -> str:
    """The first thing wrong with the file."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"] if part != "[key]")
    if first["type"] == "extra_forbidden":
        known = Page if first["loc"][0] == "page" else Space
        return f"the key {place} is unknown.{_nearest(str(first['loc'][-1]), known.model_fields)} Correct it or leave it out."
    if first["type"] == "missing":
        return f"the key {place} is missing. Add it, as in the repository's own file."
    if first["type"] == "value_error":
        return f"{place + ': ' if place else ''}{first['ctx']['error']}."
    allowed = first.get("ctx", {}).get("expected", "").replace("'", "").replace(" or ", ", ").split(", ")
    # A secret's value may stand there by mistake.
    given = "" if first["loc"][0] in ("secrets", "variables") else f" = {str(first['input'])[:60]!r}"
    return f"{place}{given} is not allowed: {first['msg']}.{_nearest(str(first['input']), allowed)} Correct it."


def _nearest(word: str, known: Any) -> str:
    found = get_close_matches(word, list(known), n=1)
    return f" Did you mean {found[0]}?" if found else ""


def block(space: Space) -> str:
    """The YAML block of README.md, with its two lines of dashes."""
    values: dict[str, Any] = {key: getattr(space.page, key) for key in ("title", "emoji", "colorFrom", "colorTo")}
    values |= {key: getattr(space, key) for key in ("sdk", "sdk_version", "python_version", "app_file")}
    values["suggested_hardware"] = space.hardware
    reference = parse(space.adapter)
    models = ([reference[0]] if reference else []) + [entry.split()[0] for entry in space.preload]
    if models:
        values["models"] = list(dict.fromkeys(models))
    if space.preload:
        values["preload_from_hub"] = space.preload
    if space.login:
        values["hf_oauth"] = True
    if space.login_organisation:
        values["hf_oauth_authorized_org"] = space.login_organisation
    values |= {key: getattr(space.page, key) for key in ("license", "short_description")}
    return f"---\n{yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=200)}---\n"


def readme(space: Space, root: Path = ROOT) -> str:
    """README.md with the block that follows from the deployment file in place of its own."""
    return block(space) + _BLOCK.sub("", (root / README).read_text(encoding="utf-8"), count=1)


def requirements(space: Space, root: Path = ROOT) -> str:
    """requirements.txt of the Space: every version of the lock, without its hashes, which the platform's own packages lack.

    PyTorch is a range on ZeroGPU, which brings one of its own, and the version that was tested elsewhere.

    Raises:
        ConfigError: The deployment file names another Gradio.
        OSError: A file is missing.
    """
    pins = re.findall(r"^[a-z0-9][^\\\n]*", (root / LOCK).read_text(encoding="utf-8"), flags=re.MULTILINE)
    versions = dict(pin.strip().split("==", 1) for pin in pins)
    if space.sdk_version != versions["gradio"]:
        raise ConfigError(
            f"sdk_version = {space.sdk_version[:20]!r} is not allowed: {LOCK} pins Gradio {versions['gradio']}, and a Space has one. "
            f"Give that one, or move the pin with `make lock ARGS=--upgrade-package=gradio`."
        )
    ranges = (root / (REQUIREMENTS if space.hardware == "zero-a10g" else CONSTRAINTS)).read_text(encoding="utf-8")
    torch = re.findall(r"^torch[^\w-].*$", ranges, flags=re.MULTILINE)
    return "".join(f"{line.strip()}\n" for line in [*pins, *torch])


def content(space: Space, root: Path = ROOT) -> dict[str, bytes]:
    """Every file that the Space gets, by its path: the app, its assets, the pinned requirements and the licences, and nothing else.

    Raises:
        ConfigError: A file is missing, the adapter is a folder that is not among them, or Gradio has two versions.
        UnsafeAdapter: A file could run code when opened.
    """
    paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*")) if path.is_file() and not path.is_symlink()]
    names = {path.relative_to(root).as_posix(): path for path in paths}
    hidden = {name for name in names if any(part.startswith((".", "__pycache__")) for part in name.split("/")) or name.endswith(".pyc")}
    check_names(root.name, list(names))
    try:
        files = {name: path.read_bytes() for name, path in names.items() if name not in hidden}
        files |= {name: (root / name).read_bytes() for name in FILES}
        files[REQUIREMENTS] = requirements(space, root).encode()
        files[README] = readme(space, root).encode()
    except OSError as error:
        raise ConfigError(f"{error.filename} cannot be read ({error.strerror}). Run this in a whole copy of the repository.") from error
    if parse(space.adapter) is None and f"{space.adapter.rstrip('/')}/adapter_config.json" not in files:
        raise ConfigError(
            f"adapter: {space.adapter[:100]} is no adapter that goes with the Space. "
            "Publish it with `python -m finetune push` and name its repository, or give a folder below assets/."
        )
    return files
