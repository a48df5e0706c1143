#!/usr/bin/env bash
# web3 8.0.0 with requests 2.34.2: the number of the newest block, asked for again and again over one HTTPProvider.
# Guess: connection and settings are the session's, so that a call costs the same whatever variables the process has.
# What happens: the connection is kept, but each call reads the whole environment anew, several times, in search of
# proxies: with hundreds of variables, as in a container, that takes a good part of the call. To set trust_env of a
# session of one's own to False ends it, and with it proxies and certificates that the environment names.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check web3==8.0.0 requests==2.34.2
cat > "$folder/look.py" <<'PYTHON'
import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version

import requests
from web3 import HTTPProvider, Web3

connections = []


class Node(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        connections.append(self.client_address)
        super().setup()

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        answer = json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": "0x7"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


def measured(w3):
    """Variables read a call, and milliseconds of this thread."""
    w3.eth.block_number
    reads, kind = [0], type(os.environ)
    real = kind.__getitem__

    def counting(self, key):
        reads[0] += 1
        return real(self, key)

    kind.__getitem__ = counting
    for _ in range(10):
        assert w3.eth.block_number == 7
    kind.__getitem__ = real
    begun = time.thread_time()
    for _ in range(200):
        w3.eth.block_number
    return reads[0] // 10, 1e3 * (time.thread_time() - begun) / 200


node = ThreadingHTTPServer(("127.0.0.1", 0), Node)
threading.Thread(target=node.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{node.server_address[1]}"
deaf = requests.Session()
deaf.trust_env = False
for name in list(os.environ):
    if name not in ("PATH", "HOME"):
        del os.environ[name]
found = {}
for number in (20, 320):
    os.environ.update({f"SERVICE_{each}_PORT": "1" for each in range(number - len(os.environ))})
    found[number] = measured(Web3(HTTPProvider(url))), measured(Web3(HTTPProvider(url, session=deaf)))
print(*(f"{name} {version(name)}" for name in ("web3", "requests")), sep="\n")
for number, ((reads, took), (none, less)) in found.items():
    print(f"{number} variables: {reads} reads and {took:.2f} ms a call; with trust_env False {none} and {less:.2f} ms")
print(f"{len(connections)} connections in all")
(few, _), (few_deaf, _) = found[20]
(many, _), (many_deaf, _) = found[320]
sys.exit(0 if few >= 40 and many >= few + 2 * 300 and few_deaf == many_deaf == 0 and len(connections) <= 4 else 1)
PYTHON
"$folder/venv/bin/python" "$folder/look.py"
