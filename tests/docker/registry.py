#!/usr/bin/env python3
"""A registry of one image that asks for a password: registry.py USER PASSWORD FILE. Serves FILE as the one file of hello:1 on a port of loopback, which it prints."""

import base64
import gzip
import hashlib
import io
import json
import sys
import tarfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

user, password, file = sys.argv[1:]
wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


tar = io.BytesIO()
with tarfile.open(fileobj=tar, mode="w") as archive:
    archive.add(file, "bin/busybox")
    for name in ("sh", "sleep"):
        link = tarfile.TarInfo("bin/" + name)
        link.type, link.linkname = tarfile.SYMTYPE, "busybox"
        archive.addfile(link)
layer = gzip.compress(tar.getvalue(), 1)
config = json.dumps({"architecture": "amd64", "os": "linux", "config": {"Cmd": ["sleep", "600"], "Env": ["PATH=/bin"]},
                     "rootfs": {"type": "layers", "diff_ids": [digest(tar.getvalue())]}}).encode()
KIND = "application/vnd.docker."
manifest = json.dumps({"schemaVersion": 2, "mediaType": KIND + "distribution.manifest.v2+json",
                       "config": {"mediaType": KIND + "container.image.v1+json", "size": len(config), "digest": digest(config)},
                       "layers": [{"mediaType": KIND + "image.rootfs.diff.tar.gzip", "size": len(layer), "digest": digest(layer)}]}).encode()
files = {"/v2/": b"{}", "/v2/hello/manifests/1": manifest, "/v2/hello/manifests/" + digest(manifest): manifest,
         "/v2/hello/blobs/" + digest(config): config, "/v2/hello/blobs/" + digest(layer): layer}


class Registry(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.headers.get("Authorization") != wanted:
            self.answer(401, b"{}", ("WWW-Authenticate", 'Basic realm="test"'))
        elif self.path in files:
            data = files[self.path]
            self.answer(200, data, ("Docker-Content-Digest", digest(data)), ("Content-Type", KIND + "distribution.manifest.v2+json" if data is manifest else "application/octet-stream"))
        else:
            self.answer(404, b"{}")

    do_HEAD = do_GET

    def answer(self, status, data, *headers):
        self.send_response(status)
        for name, value in headers + (("Content-Length", str(len(data))), ("Docker-Distribution-Api-Version", "registry/2.0")):
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Registry)
print(server.server_port, flush=True)
server.serve_forever()
