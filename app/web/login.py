"""Login with a Hugging Face account, where `REQUIRE_LOGIN=true`: nobody gets anything but `/healthz` and the way to log in without one.

OpenID Connect by Authlib, as Gradio and huggingface_hub do it. Theirs is not used because off a Space both log everybody in as the
owner; here the same code runs everywhere, with an OAuth application of one's own off a Space. The session is a signed cookie that
holds a name and an end, no token. What a Space provides: https://huggingface.co/docs/hub/spaces-oauth
"""

import hashlib
import html
import logging
import time
from typing import Any

import httpx
from authlib.integrations.base_client.errors import OAuthError
from authlib.integrations.starlette_client import OAuth
from starlette.datastructures import Headers
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import ConfigError
from app.settings import Settings
from app.web.api import error_response

log = logging.getLogger(__name__)

# The paths that huggingface_hub's own login uses: a Space's OAuth application allows them.
LOGIN, CALLBACK, LOGOUT = (f"/oauth/huggingface/{name}" for name in ("login", "callback", "logout"))
SESSION_SECONDS = 8 * 3600


def public_address(settings: Settings) -> str:
    """Where people's browsers reach the app, without a slash at the end.

    Raises:
        ConfigError: Login is on and something that it needs is not set.
    """
    host = settings.space_host.split(",")[0].strip()  # with a domain of its own, a Space names two
    needed = {
        "PUBLIC_URL": settings.public_url or host,
        "OAUTH_CLIENT_ID": settings.oauth_client_id,
        "OAUTH_CLIENT_SECRET": settings.oauth_client_secret.get_secret_value(),
    }
    if missing := [name for name, value in needed.items() if not value]:
        raise ConfigError(
            f"REQUIRE_LOGIN is on, but {', '.join(missing)} is not set. On a Space switch login on in spaces.yaml; elsewhere make an "
            f"OAuth application on huggingface.co whose redirect is PUBLIC_URL{CALLBACK}, and set them in the environment."
        )
    return settings.public_url.rstrip("/") or f"https://{host}"


class Gate:
    """Lets nobody pass who has not logged in.

    Args:
        app: The application behind it.
        settings: `login_organisation` and the key of `/metrics`, which opens that route without a login.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self._inner = app
        self._open = {"/healthz", LOGIN, CALLBACK, LOGOUT}
        if settings.metrics_key.get_secret_value():
            self._open.add("/metrics")
        secure = public_address(settings).startswith("https://")
        self.app = SessionMiddleware(
            self._pass,
            secret_key=hashlib.sha256(f"medical-qa {settings.oauth_client_secret.get_secret_value()}".encode()).hexdigest(),
            session_cookie="medical_qa",
            max_age=SESSION_SECONDS,
            same_site="none" if secure else "lax",  # Hugging Face shows a Space in a frame of its own site
            https_only=secure,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        await (self._inner if scope["type"] == "lifespan" else self.app)(scope, receive, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        user = scope["session"].get("user")
        if scope["type"] == "http" and scope["method"] != "GET" and Headers(scope=scope).get("Sec-Fetch-Site") == "cross-site":
            # The cookie comes with requests from other sites, too, since a Space lives in a frame of one.
            await error_response(403, "Another site may not ask in your name.", code="cross_site")(scope, receive, send)
        elif path in self._open or (user and user["until"] > time.time()):
            await self._inner(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _refusal(Request(scope))(scope, receive, send)


def _refusal(request: Request) -> Response:
    if request.method == "GET" and "text/html" in request.headers.get("Accept", ""):
        return _page("Please log in to ask questions.", 401, request)
    return error_response(401, "Log in first: open the page in a browser.", code="login")


def _page(sentence: str, status: int, request: Request) -> Response:
    # In a new tab: huggingface.co does not let itself be shown in the frame that a Space lives in.
    link = f"{request.scope.get('root_path', '').rstrip('/')}{LOGIN}"
    return HTMLResponse(
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        "<title>Medical Q&amp;A</title><style>:root{color-scheme:light dark}body{font:1.1rem/1.5 system-ui,sans-serif;max-width:30rem;"
        "margin:20vh auto;padding:0 1rem}</style><main><h1>Medical Q&amp;A</h1>"
        f'<p>{html.escape(sentence)}</p><p><a href="{html.escape(link)}" target="_blank" rel="noopener">Log in with Hugging Face</a></p>'
        "</main></html>",
        status,
        {"Cache-Control": "no-store"},
    )


def login_routes(settings: Settings) -> list[BaseRoute]:
    """Login, the way back from it, and logout."""
    address = public_address(settings)
    oauth = OAuth()
    oauth.register(
        name="huggingface",
        client_id=settings.oauth_client_id,
        client_secret=settings.oauth_client_secret.get_secret_value(),
        client_kwargs={"scope": settings.oauth_scopes, "code_challenge_method": "S256"},
        server_metadata_url=f"{settings.openid_provider_url.rstrip('/')}/.well-known/openid-configuration",
    )
    provider: Any = oauth.huggingface

    async def login(request: Request) -> Response:
        request.session.clear()  # states of logins that were never finished would fill the cookie
        try:
            response: Response = await provider.authorize_redirect(request, address + CALLBACK)
        except httpx.HTTPError:
            return _page("Hugging Face does not answer at the moment. Try again in a minute.", 503, request)
        return response

    async def callback(request: Request) -> Response:
        try:
            token = await provider.authorize_access_token(request)
            person = await provider.userinfo(token=token)
        except (OAuthError, httpx.HTTPError, KeyError, ValueError) as error:
            log.warning("a login failed: %s", type(error).__name__)
            return _page("The login did not work. Try once more.", 400, request)
        request.session.clear()
        wanted = settings.login_organisation
        if wanted and wanted not in {organisation.get("preferred_username") for organisation in person.get("orgs") or []}:
            return _page(f"This page is for members of {wanted}. Log in with an account that is one.", 403, request)
        request.session["user"] = {"name": person.get("preferred_username"), "until": time.time() + SESSION_SECONDS}
        return RedirectResponse(address + "/", 303)

    async def logout(request: Request) -> Response:
        request.session.clear()
        return RedirectResponse(address + "/", 303)

    return [Route(LOGIN, login), Route(CALLBACK, callback), Route(LOGOUT, logout)]
