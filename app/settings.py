"""Every setting once: read from the environment, a `.env` file and the command line, in rising order of precedence."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from limits import parse_many
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
DEMO_ADAPTER = "assets/demo/adapter"


class Settings(BaseSettings):
    """Settings of the app; `ADAPTER=outputs/mine` in the environment is `--adapter outputs/mine` on the command line."""

    model_config = SettingsConfigDict(env_file=".env", extra="forbid", frozen=True, populate_by_name=True)

    adapter: str = Field(
        DEMO_ADAPTER, description="Adapter to chat with: a folder, or OWNER/NAME[@CHANNEL_OR_REVISION] of a Hub repository."
    )
    base_folder: str = Field(
        "", description="Folder of the base model, where it does not lie where the adapter says; recognised by the hash of its weights."
    )
    more_adapters: str = Field(
        "", description="Further adapters to offer on the page, separated by commas: folders or OWNER/NAME[@REVISION]."
    )
    look_minutes: float = Field(
        0.0, ge=0, description="Minutes between looks for a newer commit of a Hub adapter; 0 looks when asked only."
    )
    adapters_folder: Path = Field(Path("outputs"), description="Adapter directories in this folder are offered on the page, too.")
    engine_url: str = Field("", description="Address of an OpenAI-compatible server that makes the answers, such as http://gpu:8000/v1.")
    engine_model: str = Field("", description="That server's name for the adapter; looked up when empty.")
    engine_base: str = Field("", description="That server's name for the base model; looked up when empty.")
    engine_key: SecretStr = Field(SecretStr(""), description="That server's key, where it wants one.")
    feedback_folder: Path = Field(
        Path("outputs/feedback"), description="Ratings that visitors agree to store are written into this folder."
    )
    feedback_repo: str | None = Field(None, description="Private dataset, OWNER/NAME, that takes the ratings on a Space.")
    host: str = Field("127.0.0.1", validation_alias=AliasChoices("APP_HOST", "GRADIO_SERVER_NAME"), description="Address to listen on.")
    port: int = Field(
        7860, ge=0, le=65535, validation_alias=AliasChoices("APP_PORT", "GRADIO_SERVER_PORT"), description="Port to listen on."
    )
    max_question_chars: int = Field(4000, ge=1, description="Characters a question may have.")
    max_messages: int = Field(100, ge=1, description="Messages a conversation may have.")
    max_new_tokens: int = Field(512, ge=1, description="Most tokens that an answer may be asked to have.")
    deadline: float = Field(120.0, gt=0, description="Seconds an answer may take once it has begun.")
    max_queue: int = Field(32, ge=1, description="Questions that may wait.")
    max_wait: float = Field(300.0, gt=0, description="Seconds a question may wait before it is answered.")
    max_body_bytes: int = Field(1_000_000, ge=1000, description="Bytes a request may have.")
    client_limit: str = Field("", description='How often one client may ask, such as "10/minute;100/day"; no limit when empty.')
    total_limit: str = Field("", description="How often all clients together may ask, in the same form.")
    daily_tokens: int = Field(0, ge=0, description="Tokens that may be generated a day, which begins at midnight UTC; 0 sets no limit.")
    require_login: bool = Field(False, description="Whether people must log in with a Hugging Face account.")
    login_organisation: str = Field("", description="Organisation on Hugging Face whose members alone may log in; everybody when empty.")
    public_url: str = Field(
        "", description="Where browsers reach the app, such as https://example.org/qa behind a proxy; a Space knows it by itself."
    )
    space_host: str = Field("", description="Set by a Space: its host.")
    oauth_client_id: str = Field("", description="Set by a Space with hf_oauth; elsewhere that of your own OAuth application.")
    oauth_client_secret: SecretStr = Field(SecretStr(""), description="The same application's secret.")
    oauth_scopes: str = Field("openid profile", description="Set by a Space with hf_oauth: what the login asks for.")
    openid_provider_url: str = Field("https://huggingface.co", description="Set by a Space with hf_oauth: who knows the accounts.")
    shutdown_seconds: float = Field(
        20.0, ge=0, description="Seconds that answers under way may take to end after SIGTERM; new questions are refused meanwhile."
    )
    trusted_hops: int = Field(
        0, ge=0, le=10, description="Proxies of yours before the app, whose X-Forwarded-For says who asks; 0 takes whoever connects."
    )
    log_format: Literal["text", "json"] = Field("text", description="Log lines: text for people, json for machines.")
    metrics_key: SecretStr = Field(SecretStr(""), description="Where set, /metrics wants it: Authorization: Bearer KEY.")
    country: str = Field("", pattern="^([A-Z]{2})?$", description="Whose numbers notices give, as in GB or US; several when empty.")
    withhold: bool = Field(True, description="Whether the page shows a notice of an emergency instead of the model's answer.")
    show_withheld: bool = Field(False, description="Whether readers may have a withheld answer shown with one click, for testing.")
    api_withhold: bool = Field(True, description="Whether the API withholds such answers, too; its notices come either way.")
    threads: int = Field(1, ge=1, description="CPU threads for the model; one is fastest for the demo model.")

    @field_validator("client_limit", "total_limit")
    @classmethod
    def _rates(cls, value: str) -> str:
        try:
            parse_many(value or "1/second")
        except ValueError as error:
            raise PydanticCustomError("rate", "Write it like 10/minute or 10/minute;100/day") from error
        return value


def load_settings(**overrides: Any) -> Settings:
    """Reads the settings.

    Args:
        overrides: Values of the command line; None values are left out.

    Raises:
        ConfigError: A value is out of range, or the file `.env` cannot be read or holds an unknown key; the message names it.
    """
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})
    except UnicodeDecodeError as error:
        raise ConfigError(f"The file .env here is not UTF-8 text (byte {error.start}). Save it as UTF-8 and try again.") from error
    except OSError as error:
        raise ConfigError(f"The file .env here cannot be read ({error.strerror}). Make it readable, or remove it.") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0]) if first["loc"] else "setting"
        if first["type"] == "extra_forbidden":
            near = get_close_matches(key.lower(), Settings.model_fields, 1, 0.8)
            meant = f" Did you mean {near[0].upper()}?" if near else ""
            raise ConfigError(
                f"The file .env here has the unknown key {key.upper()[:100]}.{meant} Correct it or take it out; what other programs read "
                "belongs into the environment."
            ) from error
        field = Settings.model_fields.get(key.lower())
        raise ConfigError(
            f"{key} = {first.get('input')!r} is not allowed: {first['msg']}. {field.description if field else ''}".strip()
        ) from error
