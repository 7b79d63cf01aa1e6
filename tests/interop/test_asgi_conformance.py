"""Starlette's own tests, fetched where they are run, with HTTP/3 between their client and their applications."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

# What those tests import beside Starlette.
NEEDED = ["httpx2", "itsdangerous", "jinja2", "python-multipart", "pyyaml"]

LEFT_OUT = {
    "tests/test_testclient.py": "is about the client that is replaced here",
    "tests/middleware/test_opentelemetry.py": "needs a package that nothing else here does",
}
INAPPLICABLE = {
    "test_received_bytes_are_counted_with_unreliable_content_length": "such a request is malformed over HTTP/3",
    "test_force_500_response": "asks for the content that the replaced client makes up for a failure",
    "test_request_headers": "asks for the Connection field",
    "test_websocket_headers": "asks for the Connection field",
    "test_request_send_push_promise": "needs server push",
    "test_non_standard_status_code": "takes an interim status for a final one",
    "test_response_phrase": "takes an interim status for a final one",
    "test_websocket_route_middleware": "asks for a field name in upper case",
    "test_rejected_connection": "asks for the code of a close before the handshake, which nothing carries",
    "test_receive_before_accept": "gives an application messages that only servers send",
    "test_receive_wrong_message_type": "gives an application messages that only servers send",
    "test_staticfiles_with_invalid_dir_permissions_returns_401": "needs a user who is not root",
}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Starlette's source distribution, of the version that is installed, and beside it what its tests need."""
    pytest.importorskip("hypercorn")
    version = importlib.metadata.version("starlette")
    folder = tmp_path_factory.mktemp("starlette")
    fetched = pip("download", "--no-deps", "--no-binary", ":all:", "--dest", str(folder), f"starlette=={version}")
    fetched = fetched and pip("install", "--target", str(folder / "needed"), *NEEDED)
    if not fetched:
        pytest.skip("Starlette's source distribution cannot be fetched from here")
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        content.extractall(folder, filter="data")
    return folder / f"starlette-{version}"


def pip(*arguments: str) -> bool:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def test_starlettes_own_tests_pass_over_http3(suite: Path) -> None:
    names = " or ".join(f"{name}[" for name in INAPPLICABLE)
    options = ["-p", "starlette_over_http3", "-p", "no:hypothesispytest", "-p", "no:cacheprovider", "-q", "--tb=short"]
    options += [f"--ignore={path}" for path in LEFT_OUT]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-k", f"not trio and not ({names})", "tests"],
        cwd=suite,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(suite.parent / "needed")])},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-20_000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 600
