"""Behind nginx, as docs/deploying.md shows it: below a path, with TLS, nothing held back, and clients told apart by what nginx saw.

The certificate is made for the run; nginx and the app are real processes.
"""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from app.settings import ROOT
from tests.page_client import PageClient
from tests.web.test_server import HTTP, SECURITY, ask, free_port, ready, start, wait_for

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
BELOW = "/qa"
ASKED = 4  # questions that one client may ask

# What docs/deploying.md shows, to be put between the lines that give nginx a place of its own.
SHOWN = re.search(r"```nginx\n(.*?)```", (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8"), flags=re.DOTALL)[1]
AROUND = """
daemon off;
pid FOLDER/nginx.pid;
error_log FOLDER/error.log;
worker_processes 1;
events {}
http {
    access_log off;
    client_body_temp_path FOLDER/body;
    proxy_temp_path FOLDER/proxy;
    fastcgi_temp_path FOLDER/fastcgi;
    uwsgi_temp_path FOLDER/uwsgi;
    scgi_temp_path FOLDER/scgi;
    server {
        listen 127.0.0.1:PORT ssl;
        ssl_certificate FOLDER/certificate.pem;
        ssl_certificate_key FOLDER/key.pem;
        SITE
    }
}
"""


def proxy(folder: Path, port: int, app: str) -> "subprocess.Popen[bytes]":
    """nginx on a port of its own, with a certificate made now."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost -keyout key.pem"
    subprocess.run([*command.split(), "-out", "certificate.pem"], cwd=folder, capture_output=True, check=True)
    site = SHOWN.replace("127.0.0.1:7860", f"127.0.0.1:{app.rpartition(':')[2]}")
    text = AROUND.replace("SITE", site).replace("PORT", str(port)).replace("FOLDER", str(folder))
    (folder / "nginx.conf").write_text(text, encoding="utf-8")
    return subprocess.Popen([str(NGINX), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")])


@pytest.fixture(scope="module")
def site(adapter: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The app's address at nginx."""
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    url = f"https://127.0.0.1:{port}{BELOW}"
    app = start(["-m", "app", "--adapter", adapter], PUBLIC_URL=url, TRUSTED_HOPS="1", CLIENT_LIMIT=f"{ASKED}/hour")
    nginx = proxy(folder, port, app.url)
    try:
        wait_for(lambda: ready(url) or app.popen.poll() is not None or nginx.poll() is not None, 200)
        assert app.popen.poll() is None, app.popen.communicate()[0]
        assert nginx.poll() is None, (folder / "error.log").read_text()
        yield url
    finally:
        nginx.terminate()
        nginx.wait(10)
        app.popen.kill()
        app.popen.communicate()


pytestmark = pytest.mark.nginx


@pytest.fixture(scope="module", autouse=True)
def _nginx() -> None:
    if not NGINX or not shutil.which("openssl"):
        pytest.skip("nginx or openssl is not installed")


def test_the_page_and_all_that_it_loads_lie_below_the_path(site: str) -> None:
    page = HTTP.get(f"{site}/")
    assert page.status_code == 200
    assert SECURITY.items() <= dict(page.headers).items()
    config = HTTP.get(f"{site}/config").json()
    assert config["root"] == site
    assert f'"root":"{site}"' in page.text
    assets = [link for link in re.findall(r'(?:src|href)="([^"#]+)"', page.text) if not link.startswith("data:")]
    # Gradio's template names a manifest at the root, for an app that one installs; there is none.
    loaded = {str(httpx.URL(f"{site}/").join(link)) for link in assets} - {str(httpx.URL(site).join("/manifest.json"))}
    assert any(address.endswith(".js") for address in loaded)
    for address in loaded:
        assert address.startswith(f"{site}/"), address
        assert HTTP.get(address).status_code == 200, address


LONG = "What is asthma?"  # the base model alone writes on to the limit


def under_way(site: str) -> bool:
    return "app_queue_length 1.0" in HTTP.get(f"{site}/metrics").text


def bytes_until_the_first_piece(site: str) -> int:
    """What has arrived when the first piece of an answer is read, of which the rest is then left."""
    body = ask(LONG, stream=True, temperature=0, max_tokens=512) | {"model": "base"}
    with HTTP.stream("POST", f"{site}/v1/chat/completions", json=body) as response:
        assert response.status_code == 200
        assert SECURITY.items() <= dict(response.headers).items()
        assert any('"content":"' in line and '"content":""' not in line for line in response.iter_lines())
        return response.num_bytes_downloaded


def test_the_first_piece_of_an_answer_does_not_wait_for_a_full_buffer(site: str) -> None:
    # nginx hands on what it buffers in blocks of 4,096 bytes or more; asked twice, since a reader that is slow itself gets more at once.
    assert any(bytes_until_the_first_piece(site) < 4096 for _ in range(2))
    assert wait_for(lambda: not under_way(site), 30), "nginx did not hand on that the reader had gone"


def test_the_page_gets_an_answer_in_pieces(site: str) -> None:
    client, kinds = PageClient(site), []
    for event in client.told(LONG, **{"Use the adapter": False, "Maximum tokens": 512}):
        kinds.append(json.loads(event)["msg"])
        if kinds.count("process_generating") == 3:
            assert under_way(site)
            break
    assert "process_completed" not in kinds


def test_a_client_is_who_nginx_saw_whatever_it_says_of_itself(site: str) -> None:
    codes = []
    for number in range(ASKED + 1):  # the tests above have asked, too
        said = {"X-Forwarded-For": f"6.6.6.{number}", "X-Real-IP": f"6.6.6.{number}", "Forwarded": f"for=6.6.6.{number}"}
        codes.append(HTTP.post(f"{site}/v1/chat/completions", json=ask(max_tokens=1), headers=said).status_code)
    assert codes[-1] == 429
    transport = httpx.HTTPTransport(local_address="127.0.0.2", verify=False)
    with httpx.Client(transport=transport, timeout=30) as other:
        assert other.post(f"{site}/v1/chat/completions", json=ask(max_tokens=1)).status_code == 200
