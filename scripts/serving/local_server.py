"""The handler on this machine, behind waitress: /ping and /invocations, on loopback alone."""

import http
import uuid
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import Any

HOST = "127.0.0.1"
MAX_BODY = 6_553_500  # bytes; multi-model-server's own limit
MAX_THREADS = 4  # requests at once
JSON = "application/json"

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


def make_app(handler: ModuleType, endpoint: Any) -> Callable[..., Iterable[bytes]]:
    """Return the handler as a WSGI application."""

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        context = RequestContext()
        headers = [("X-Request-Id", context.request_id), ("X-Content-Type-Options", "nosniff")]
        route = (environ["REQUEST_METHOD"], environ["PATH_INFO"])
        text, content_type = "", JSON
        if route == ("POST", "/invocations"):
            accept = environ.get("HTTP_ACCEPT")
            request = handler.input_fn(
                environ["wsgi.input"].read(), environ.get("CONTENT_TYPE"), context
            )
            answers = handler.predict_fn(request, endpoint, context)
            text = handler.output_fn(answers, accept, context)
            content_type = JSON if text.startswith("{") else "text/csv"
        elif route != ("GET", "/ping"):
            context.status = 405 if route[1] in ("/ping", "/invocations") else 404
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
    try:
        server = waitress.create_server(
            make_app(handler, endpoint),
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
    print(
        f"Next: curl -H 'Content-Type: image/jpeg' --data-binary @BIN.jpg {url}/invocations",
        flush=True,
    )
    server.run()
