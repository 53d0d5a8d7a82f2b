"""The chat app: `python -m app`, or `uvicorn app:app [--reload --reload-dir app]` for the same page in a server of your own.

Importing the package costs nothing: the attribute `app` is built when it is first asked for.
"""

import importlib
import os
from contextlib import suppress
from typing import Any

from app import quiet


def prepare_environment() -> None:
    """Keeps libraries from sending statistics and from saying what is of no use; they read these variables when they are imported."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    # Where JAX is installed, as on Colab, bm25s calls it at import, and JAX then takes three quarters of the card for itself.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if os.environ.get("SPACES_ZERO_GPU"):
        # The platform's package replaces parts of PyTorch and wants to be there before anything uses them.
        with suppress(ImportError):
            importlib.import_module("spaces")
    quiet.prepare()


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    prepare_environment()
    from app.errors import UserError

    try:
        from app.logs import configure
        from app.settings import load_settings
        from app.web.server import create_app

        settings = load_settings()
        if settings.log_format == "json":  # else uvicorn's own configuration stands
            configure("json")
        application = create_app(settings)
    except UserError as error:
        raise SystemExit(str(error)) from error  # a sentence for whoever starts uvicorn
    except AttributeError as error:
        # uvicorn would take it for a missing attribute of this module and hide where it came from.
        raise RuntimeError(f"The app could not be built: {error}") from error
    globals()["app"] = application
    return application
