"""Forks with a transport in use: `httpx_forking.py CA PORT`. Both go on, each with connections of its own."""

import os
import sys

import httpx

import whimbrel.http

authority, port = sys.argv[1:]
url = f"https://127.0.0.1:{port}/"
with httpx.Client(transport=whimbrel.http.Transport(verify=authority)) as client:
    assert client.get(url).text == "hello"
    child = os.fork()
    assert client.get(url).text == "hello"
    if child == 0:
        client.close()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert client.get(url).text == "hello"
sys.stdout.write("both fine\n")
