"""Login over HTTP against an OpenID provider of this test's own: what is closed without one, and who gets in."""

import re
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from joserfc import jwt
from joserfc.jwk import RSAKey
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from app.__main__ import OPTIONS
from app.engine.generation import LocalGenerator
from app.engine.model import LoadedModel
from app.errors import ConfigError
from app.settings import ROOT, Settings, load_settings
from app.web.login import CALLBACK, LOGIN, LOGOUT, public_address
from app.web.server import create_app
from tests.answers import PATIENCE, Steer
from tests.conftest import assert_is_for_people
from tests.page_client import PageClient
from tests.servers import SECURITY, ask

HTML = {"Accept": "text/html"}


class Provider:
    """A small OpenID provider: everybody who comes is `person`, unless `denies` is set."""

    def __init__(self) -> None:
        self.key = RSAKey.generate_key(2048, {"kid": "1", "use": "sig", "alg": "RS256"})
        self.person = {"sub": "1", "preferred_username": "ada", "orgs": [{"preferred_username": "ward-7"}]}
        self.denies, self.url, self.nonce = False, "", ""

    def app(self) -> Starlette:
        async def configuration(_: Request) -> Response:
            paths = {f"{name}_endpoint": f"{self.url}/{name}" for name in ("authorization", "token", "userinfo")}
            return JSONResponse(
                {"issuer": self.url, "jwks_uri": f"{self.url}/jwks", "id_token_signing_alg_values_supported": ["RS256"], **paths}
            )

        async def authorization(request: Request) -> Response:
            query = request.query_params
            self.nonce = query["nonce"]
            assert query["client_id"] == "client" and query["code_challenge_method"] == "S256"
            answer = {"error": "access_denied"} if self.denies else {"code": "code"}
            return RedirectResponse(f"{query['redirect_uri']}?{urllib.parse.urlencode({**answer, 'state': query['state']})}")

        async def token(request: Request) -> Response:
            form = await request.form()
            assert form["code"] == "code" and form["code_verifier"]
            now = int(time.time())
            claims = {"iss": self.url, "aud": "client", "exp": now + 60, "iat": now, "nonce": self.nonce, "sub": "1"}
            signed = jwt.encode({"alg": "RS256", "kid": "1"}, claims, self.key)
            return JSONResponse({"access_token": "hf_secret_token", "token_type": "bearer", "expires_in": 3600, "id_token": signed})

        async def userinfo(request: Request) -> Response:
            assert request.headers["Authorization"] == "Bearer hf_secret_token"
            return JSONResponse(self.person)

        async def jwks(_: Request) -> Response:
            return JSONResponse({"keys": [self.key.as_dict(private=False)]})

        routes = {"authorization": authorization, "userinfo": userinfo, "jwks": jwks, ".well-known/openid-configuration": configuration}
        return Starlette(
            routes=[*[Route(f"/{path}", handler) for path, handler in routes.items()], Route("/token", token, methods=["POST"])]
        )


@contextmanager
def serving(make: object, listener: socket.socket) -> Iterator[str]:
    server = uvicorn.Server(uvicorn.Config(make, log_config=None, timeout_graceful_shutdown=2))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    one = Provider()
    listener = socket.create_server(("127.0.0.1", 0))
    one.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with serving(one.app(), listener):
        yield one


@pytest.fixture(scope="module")
def url(loaded: LoadedModel, hooked: Steer, provider: Provider) -> Iterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    settings = load_settings(
        adapter=loaded.name,
        require_login=True,
        login_organisation="ward-7",
        public_url=f"http://127.0.0.1:{listener.getsockname()[1]}",
        oauth_client_id="client",
        oauth_client_secret=SecretStr("very secret"),
        openid_provider_url=provider.url,
    )
    generator = LocalGenerator(lambda name: loaded, loaded.name)
    generator.wait_until_ready(PATIENCE)
    with serving(create_app(settings, generator), listener) as address:
        yield address


@pytest.fixture
def person(url: str, provider: Provider) -> Iterator[httpx.Client]:
    provider.person["orgs"], provider.denies = [{"preferred_username": "ward-7"}], False
    with httpx.Client(base_url=url, timeout=PATIENCE, verify=False, follow_redirects=True) as client:
        yield client


EVERYTHING = """/ /readyz /metrics /config /theme.css /v1/models /v1/nothing /nothing
/gradio_api/startup-events /gradio_api/queue/data?session_hash=x
/gradio_api/heartbeat/x /gradio_api/user /gradio_api/app_id /assets/index.js /healthz/ //healthz /oauth /oauth/huggingface/other"""


@pytest.mark.parametrize("path", EVERYTHING.split())
def test_without_a_login_every_route_but_health_is_closed(person: httpx.Client, path: str) -> None:
    person.follow_redirects = False
    for method in ("GET", "POST", "PUT", "HEAD"):
        response = person.request(method, str(person.base_url).rstrip("/") + path)
        assert response.status_code in (401, 404), (method, path)
        assert "gradio" not in response.text
        assert SECURITY.items() <= dict(response.headers).items()
    assert person.get(path).status_code == 401 or path.startswith("//")


def test_without_a_login_nothing_is_answered_and_health_is(person: httpx.Client) -> None:
    refused = person.post("/v1/chat/completions", json=ask())
    assert refused.status_code == 401
    assert_is_for_people(refused.json()["error"]["message"])
    assert person.post("/gradio_api/queue/join", json={}).status_code == 401
    assert person.get("/healthz").status_code == 200


def test_the_page_offers_a_login_and_then_works(person: httpx.Client, url: str) -> None:
    offered = person.get("/", headers=HTML)
    assert offered.status_code == 401
    link = re.search(r'href="([^"]+)"', offered.text).group(1)
    assert link == LOGIN
    page = person.get(link, headers=HTML)
    assert page.status_code == 200
    assert "gradio_config" in page.text
    cookie = person.cookies["medical_qa"]
    assert "hf_secret_token" not in cookie
    assert person.post("/v1/chat/completions", json=ask()).status_code == 200
    assert person.post("/v1/chat/completions", json=ask(), headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert "process_completed" in PageClient(url, Cookie=f"medical_qa={cookie}").ask("What is asthma?")
    person.get(LOGOUT)
    assert person.get("/config").status_code == 401


def test_who_is_no_member_stays_out(person: httpx.Client, provider: Provider) -> None:
    for orgs in ([], None, [{"preferred_username": "ward-8"}]):
        provider.person["orgs"] = orgs
        refused = person.get(LOGIN)
        assert refused.status_code == 403
        assert "members of ward-7" in refused.text
        assert person.get("/config").status_code == 401


def test_a_login_that_was_denied_or_made_up_lets_nobody_in(person: httpx.Client, provider: Provider) -> None:
    provider.denies = True
    assert person.get(LOGIN).status_code == 400
    for query in ("", "?code=code", "?code=code&state=guessed", "?error=x&state=guessed"):
        assert person.get(CALLBACK + query).status_code == 400
    person.cookies.set("medical_qa", "eyJ1c2VyIjogeyJuYW1lIjogImEiLCAidW50aWwiOiA5OTk5OTk5OTk5fX0=.aaaa.bbbb")
    assert person.get("/config").status_code == 401


def test_login_wants_all_that_it_needs_and_knows_a_spaces_address() -> None:
    with pytest.raises(ConfigError, match="PUBLIC_URL, OAUTH_CLIENT_ID, OAUTH_CLIENT_SECRET") as missing:
        public_address(load_settings(require_login=True))
    assert_is_for_people(missing.value)
    space = {"space_host": "a-b.hf.space,qa.example.org", "oauth_client_id": "x", "oauth_client_secret": "y"}
    assert public_address(load_settings(require_login=True, **space)) == "https://a-b.hf.space"


def test_secrets_come_from_the_environment_alone_and_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = {name for name, field in Settings.model_fields.items() if field.annotation is SecretStr}
    assert {"engine_key", "metrics_key", "oauth_client_secret"} == secret
    assert not secret & set(OPTIONS)
    assert not [name for name in Settings.model_fields if re.search("secret|key|token$|password", name) and name not in secret]
    for name in secret:
        monkeypatch.setenv(name.upper(), "hidden-value")
    settings = load_settings()
    assert all(getattr(settings, name).get_secret_value() == "hidden-value" for name in secret)
    assert "hidden-value" not in f"{settings!r} {settings} {settings.model_dump()}"
    for path in (ROOT / "spaces.yaml", ROOT / "README.md"):
        assert not re.search(r"\bhf_[A-Za-z0-9]{20,}", path.read_text(encoding="utf-8"))
