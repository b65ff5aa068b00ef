"""The server does what its OpenAPI document says: requests made from it get only answers that stand in it.

More of the same, by hand, against any server: `schemathesis run URL/openapi.json --phases coverage,fuzzing -c CHECKS`.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from serving import Server

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,negative_data_rejection,unsupported_method"
)


# of the bundled workflows' endpoints, which are all alike, these few
TOO_MANY = r"/v1/workflows/(?!(text_to_image|image_to_image|inpaint|\{name\})/).+/runs"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    # what is accepted need not run here, and nobody waits for it at the end
    with Server(tmp_path_factory.mktemp("openapi"), drain="0.5") as server:
        server.post("/v1/queue/pause")
        yield server


def test_no_request_made_from_the_document_gets_an_answer_that_is_not_in_it(server):
    program = Path(sys.executable).with_name("schemathesis")
    command = [
        program,
        "run",
        f"{server.url}/openapi.json",
        "--checks",
        CHECKS,
        "--phases",
        "examples,coverage,fuzzing",
    ]
    command += [
        "--exclude-path-regex",
        TOO_MANY,
        "--max-examples",
        "2",
        "--seed",
        "7",
        "--request-timeout",
        "10",
        "--no-color",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=server.folder)
    assert done.returncode == 0, done.stdout[-6000:]
