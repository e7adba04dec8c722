"""The handler on this machine, behind waitress: /ping and /invocations, on loopback alone.

And a page at / to try it in a browser, where try_page.html lies beside this file. It does not
travel into model folders, so that on an endpoint there is none.
"""

import base64
import hashlib
import http
import json
import re
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

HOST = "127.0.0.1"
MAX_BODY = 6_553_500  # bytes, which a body has to stay below; multi-model-server's own limit
MAX_THREADS = 4  # requests at once
JSON = "application/json"
PAGE = Path(__file__).with_name("try_page.html")

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class RequestContext:
    """What a model server hands to the handler: a request's id, and how to set its status."""

    def __init__(self) -> None:
        self.request_id = uuid.uuid4().hex
        self.status = 200

    def get_request_id(self, idx: int = 0) -> str:
        """Return the id, which the response's headers hold, too."""
        return self.request_id

    def set_response_status(self, code: int = 200, phrase: str = "", idx: int = 0) -> None:
        """Answer with this status."""
        self.status = code


@dataclass(frozen=True)
class Page:
    """The page at /, and the policy that lets in its style, its script and its server's answers.

    Args:
        text: HTML.
        policy: the Content-Security-Policy.
    """

    text: str
    policy: str

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What goes before the page: the policy, and that the next model's page is another one."""
        return [("Content-Security-Policy", self.policy), ("Cache-Control", "no-store")]


def make_page(template: str, name: str, counts: Sequence[int], tells_changes: bool) -> Page:
    """Return the page of a loaded model, which offers what this model can answer.

    Args:
        template: of try_page.html.
        name, counts, tells_changes: of the BinCounter.
    """
    hashes = {}
    for kind in ("style", "script"):
        (text,) = re.findall(f"<{kind}>(.*?)</{kind}>", template, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        hashes[kind] = f"{kind}-src 'sha256-{digest}'"
    policy = (
        f"default-src 'none'; {hashes['style']}; {hashes['script']}; connect-src 'self'; "
        "img-src blob: data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    facts = {
        "name": name,
        "counts": list(counts),
        "tells_changes": tells_changes,
        "max_body": MAX_BODY,
    }
    # The name is whatever the model folder says: it must not end the element that it stands in.
    harmless = json.dumps(facts).replace("<", "\\u003c")
    return Page(template.replace("{{model}}", harmless), policy)


def _page_of(counter: Any) -> Page:
    template = PAGE.read_text(encoding="utf-8")
    return make_page(template, counter.name, counter.counts, counter.tells_changes)


def make_app(
    handler: ModuleType, endpoint: Any, page: Page | None = None
) -> Callable[..., Iterable[bytes]]:
    """Return the handler as a WSGI application, with a page to try it if there is one."""
    methods = {"/ping": "GET", "/invocations": "POST"} | ({"/": "GET"} if page else {})

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        context = RequestContext()
        headers = [("X-Request-Id", context.request_id), ("X-Content-Type-Options", "nosniff")]
        path = environ["PATH_INFO"]
        text, content_type = "", JSON
        if path not in methods:
            context.status = 404
        elif environ["REQUEST_METHOD"] != methods[path]:
            context.status = 405
        elif page and path == "/":
            text, content_type = page.text, "text/html; charset=utf-8"
            headers += page.headers
        elif path == "/invocations":
            accept = environ.get("HTTP_ACCEPT")
            request = handler.input_fn(
                environ["wsgi.input"].read(), environ.get("CONTENT_TYPE"), context
            )
            answers = handler.predict_fn(request, endpoint, context)
            text = handler.output_fn(answers, accept, context)
            content_type = JSON if text.startswith("{") else "text/csv"
        phrase = http.HTTPStatus(context.status).phrase
        headers.append(("Content-Type", content_type))
        start_response(f"{context.status} {phrase}", headers)
        return [text.encode()]

    return app


def serve(handler: ModuleType, model_dir: str, port: int) -> None:
    """Serve until Ctrl-C.

    Raises: ValueError: no model. OSError: the port cannot be had. ImportError: no waitress.
    """
    import waitress

    endpoint = handler.model_fn(model_dir)
    page = _page_of(endpoint.counter) if PAGE.exists() else None
    try:
        server = waitress.create_server(
            make_app(handler, endpoint, page),
            host=HOST,
            port=port,
            threads=MAX_THREADS,
            max_request_body_size=MAX_BODY,
            ident=None,
            expose_tracebacks=False,
        )
    except OSError as error:
        raise OSError(
            f"port {port} cannot be had ({error.strerror}): name another, or 0 for a free one."
        ) from error
    url = f"http://{HOST}:{server.effective_port}"
    print(f"Serving {model_dir} ({endpoint.counter.runtime}) on {url}; Ctrl-C ends it.")
    command = f"curl -H 'Content-Type: image/jpeg' --data-binary @BIN.jpg {url}/invocations"
    in_browser = f"open {url} in a browser, or\n  " if page else ""
    print(f"Next: {in_browser}{command}", flush=True)
    server.run()
