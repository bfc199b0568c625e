#!/usr/bin/env bash
# What Kubernetes' Python client makes of a timeout that is no whole number, and of a log that happens to be JSON.
#
# Versions: kubernetes 30.1.0 and 37.0.2, urllib3 2.8.0.
# Seen: 2026-11-29, Python 3.11.7, Linux x86-64.
#
# Guess, before the first run: `_request_timeout=0.5` is half a second; a pod's log comes as the kubelet sent it.
#
# What the guess missed:
# - Version 30 takes a whole number of seconds or a pair of numbers, and passes over anything else without an error:
#   with `_request_timeout=0.5` there is no timeout at all, so that a server which hangs has its client hang for good. A
#   test with a timeout of 0.2 s stood still for ten minutes.
# - It parses a log that is one JSON document, and gives back what Python prints of it: true becomes True, null None,
#   quotes change, 1.50 becomes 1.5, the end of the line is lost. Two lines of JSON come as they are: so the log of a
#   program that logs JSON cannot be read after its first line, and can after its second.
# - Version 37 does neither. Whatever has kfp has version 30: kfp 2.17.3 requires kubernetes < 31.
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 143' INT TERM
cd "$work"

cat >ask.py <<'PY'
"""Asks a server of the standard library, which answers logs, or after two seconds."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from kubernetes import __version__, client

LOGS = {
    "words": "epoch 1\n",
    "json": '{"epoch": 1, "done": true, "loss": null}\n',
    "number": "1.50\n",
    "lines": '{"epoch": 1}\n{"epoch": 2}\n',
}


class Api(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.split("/")[-2]
        if name == "slow":
            time.sleep(2)
        text = LOGS.get(name, "late\n").encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        try:
            self.wfile.write(text)
        except OSError:
            pass

    def log_message(self, *words):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Api)
threading.Thread(target=server.serve_forever, daemon=True).start()
settings = client.Configuration(host=f"http://127.0.0.1:{server.server_port}")
settings.retries = False
core = client.CoreV1Api(client.ApiClient(settings))
print("kubernetes", __version__)
for timeout in (1, 0.5, (0.5, 0.5)):
    try:
        core.read_namespaced_pod_log("slow", "a", _request_timeout=timeout)
        print(f"_request_timeout={timeout}: answered after 2 s, no error")
    except Exception as error:
        print(f"_request_timeout={timeout}: {type(error).__name__}")
for name, text in LOGS.items():
    print(f"{text!r} is read as {core.read_namespaced_pod_log(name, 'a')!r}")
PY

for version in 30.1.0 37.0.2; do
    "${PYTHON:-python3}" -m venv "venv-$version"
    "venv-$version/bin/pip" install --quiet --disable-pip-version-check "kubernetes==$version" urllib3==2.8.0
    "venv-$version/bin/python" ask.py | tee "seen-$version"
done

cat >expected <<'TEXT'
kubernetes 30.1.0
_request_timeout=1: ReadTimeoutError
_request_timeout=0.5: answered after 2 s, no error
_request_timeout=(0.5, 0.5): ReadTimeoutError
'epoch 1\n' is read as 'epoch 1\n'
'{"epoch": 1, "done": true, "loss": null}\n' is read as "{'epoch': 1, 'done': True, 'loss': None}"
'1.50\n' is read as '1.5'
'{"epoch": 1}\n{"epoch": 2}\n' is read as '{"epoch": 1}\n{"epoch": 2}\n'
kubernetes 37.0.2
_request_timeout=1: ReadTimeoutError
_request_timeout=0.5: ReadTimeoutError
_request_timeout=(0.5, 0.5): ReadTimeoutError
'epoch 1\n' is read as 'epoch 1\n'
'{"epoch": 1, "done": true, "loss": null}\n' is read as '{"epoch": 1, "done": true, "loss": null}\n'
'1.50\n' is read as '1.50\n'
'{"epoch": 1}\n{"epoch": 2}\n' is read as '{"epoch": 1}\n{"epoch": 2}\n'
TEXT
cat seen-* | diff expected -
