"""Waits for an answer until Ctrl-C comes, and goes on: `httpx_interrupted.py CA PORT`. Closes nothing at its end."""

import sys

import httpx

import whimbrel.http

authority, port = sys.argv[1:]
client = httpx.Client(transport=whimbrel.http.Transport(verify=authority), timeout=60)
try:
    client.get(f"https://127.0.0.1:{port}/long")
except KeyboardInterrupt:
    sys.stdout.write("interrupted\n")
assert client.get(f"https://127.0.0.1:{port}/").text == "hello"
sys.stdout.write("usable\n")
