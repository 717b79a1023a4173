"""An OAuth 2.0 token endpoint for the specs: client credentials in, a signed access token out.

    token_server.py KEY

KEY is the private key (PEM) that scripts/kafka makes. Prints its port, serves on loopback until it
is killed. The client is "moonbus" with the secret "client-secret"; its scopes are "events" and "admin".

    POST /token                     the endpoint
    GET  /set?mode=MODE&life=S      how it answers from now on; a request that waits gets its answer
    GET  /scopes                    the scope of each token it has issued

Modes: issue; refuse (401); unavailable (503); mute (no answer until the next /set); page (HTML);
empty (JSON without a token); opaque (a token that is no JWT); stranger (a token for another
audience); forged (a signature by another key).
"""

import base64
import json
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

CREDENTIALS = base64.b64encode(b"moonbus:client-secret").decode()

state = {"mode": "issue", "life": 3600}
issued = []
changed = threading.Condition()


def encode(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(text, mode):
    if mode == "forged":
        return encode(b"\x01" * 256)
    command = ["openssl", "dgst", "-sha256", "-sign", sys.argv[1], "-binary"]
    done = subprocess.run(command, input=text.encode(), stdout=subprocess.PIPE, check=True)
    return encode(done.stdout)


def token(mode, life, scope):
    now = int(time.time())
    claims = {
        "iss": "moonbus-tests",
        "aud": "somebody-else" if mode == "stranger" else "moonbus",
        "sub": "moonbus",
        "iat": now,
        "exp": now + life,
        "scope": scope,
    }
    header = {"alg": "RS256", "kid": "moonbus", "typ": "JWT"}
    text = ".".join(encode(json.dumps(part).encode()) for part in (header, claims))
    return f"{text}.{sign(text, mode)}"


class Endpoint(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def answer(self, code, body, kind="application/json"):
        data = body.encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def handle_one_request(self):
        try:
            super().handle_one_request()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # a client that waited too long is gone

    def do_GET(self):
        url = urlsplit(self.path)
        with changed:
            if url.path == "/set":
                for name, values in parse_qs(url.query).items():
                    state[name] = int(values[0]) if name == "life" else values[0]
                changed.notify_all()
            self.answer(200, json.dumps(issued))

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
        with changed:
            if state["mode"] == "mute":
                changed.wait_for(lambda: state["mode"] != "mute")
            mode, life = state["mode"], state["life"]
        form = parse_qs(body)
        right = self.headers.get("Authorization") == f"Basic {CREDENTIALS}"
        if mode == "refuse" or not right or form.get("grant_type") != ["client_credentials"]:
            refusal = {"error": "invalid_client", "error_description": "unknown client or secret"}
            return self.answer(401, json.dumps(refusal))
        scope = form.get("scope", ["events"])[0]
        if scope not in ("events", "admin"):
            return self.answer(400, '{"error":"invalid_scope"}')
        if mode == "unavailable":
            return self.answer(503, '{"error":"temporarily_unavailable"}')
        if mode == "page":
            return self.answer(200, "<html>Sign in</html>", "text/html")
        if mode == "empty":
            return self.answer(200, "{}")
        access = "no-jwt" if mode == "opaque" else token(mode, life, scope)
        with changed:
            issued.append(scope)
        self.answer(200, json.dumps({"access_token": access, "expires_in": life}))


server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
print(server.server_port, flush=True)
server.serve_forever()
