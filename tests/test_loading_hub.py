"""Files are found in a directory, on a hub and in its cache; a failure is one line that says why."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from huggingface_hub import constants

from squeezebert_fast.errors import CheckpointError
from squeezebert_fast.storage import hub as hub_module
from squeezebert_fast.storage import reach
from squeezebert_fast.storage.hub import pinned_revision, resolve_file
from tests.fake_hub import FakeHub, point_huggingface_hub_at

REPO = "team/model"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "default_cache"))
    with FakeHub() as fake:
        fake.use(monkeypatch)
        yield fake


def read(name: str, filename: str, **options: object) -> bytes:
    path = resolve_file(name, filename, **options)  # type: ignore[arg-type]
    assert path is not None
    return path.read_bytes()


def assert_one_line(error: pytest.ExceptionInfo[CheckpointError], *parts: str) -> None:
    text = str(error.value)
    assert "\n" not in text
    for part in parts:
        assert part in text, text


# A directory


def test_a_file_of_a_directory_is_found_without_the_hub(tmp_path: Path, hub: FakeHub) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.json").write_bytes(b"{}")
    assert resolve_file(tmp_path, "config.json", subfolder="sub") == tmp_path / "sub" / "config.json"
    assert resolve_file(str(tmp_path), "nothing.json", required=False) is None
    assert hub.requests == []


def test_a_directory_that_exists_is_never_taken_for_a_hub_id(
    tmp_path: Path, hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push(REPO, {"config.json": b"of the hub"})
    (tmp_path / REPO).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as error:
        resolve_file(REPO, "config.json")
    assert_one_line(error, REPO, "has no file config.json")
    assert hub.requests == []


@pytest.mark.parametrize(
    "name",
    ["./nowhere", "../nowhere", "/no/where", "~/nowhere", "a/b/c", "nowhere/", "a\\b", Path("nowhere")],
)
def test_what_looks_like_a_path_but_does_not_exist_is_not_asked_of_the_hub(
    name: str | Path, hub: FakeHub
) -> None:
    with pytest.raises(CheckpointError) as error:
        resolve_file(name, "config.json", required=False)
    assert_one_line(error, "nowhere" if "nowhere" in str(name) else "", "not a directory on this machine")
    assert hub.requests == []


def test_a_file_in_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError) as error:
        resolve_file(tmp_path / "model.bin", "config.json")
    assert_one_line(error, "model.bin is a file", "expected a model's directory or a hub id")


# The hub


def test_each_revision_has_its_own_file(hub: FakeHub) -> None:
    old = hub.push(REPO, {"config.json": b"old"}, revision="v1")
    new = hub.push(REPO, {"config.json": b"new"})
    assert read(REPO, "config.json") == b"new"
    assert read(REPO, "config.json", revision="v1") == b"old"
    assert read(REPO, "config.json", revision=new) == b"new"
    path = resolve_file(REPO, "config.json", revision="v1")
    assert path is not None
    assert pinned_revision(path) == old
    assert pinned_revision(Path("model/config.json")) is None


def test_a_subfolder_of_a_repository_is_read(hub: FakeHub) -> None:
    hub.push(REPO, {"sub/config.json": b"inside"})
    assert read(REPO, "config.json", subfolder="sub") == b"inside"


def test_cache_dir_receives_the_download_and_serves_it_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.push(REPO, {"config.json": b"{}"})
    path = resolve_file(REPO, "config.json", cache_dir=tmp_path / "mine")
    assert path is not None
    assert path.is_relative_to(tmp_path / "mine")
    assert resolve_file(REPO, "config.json", cache_dir=tmp_path / "mine") == path
    assert [r.split()[0] for r in hub.requests] == ["HEAD", "GET", "HEAD"]


def test_local_files_only_reads_the_cache_and_never_the_network(hub: FakeHub) -> None:
    hub.push(REPO, {"config.json": b"{}"})
    with pytest.raises(CheckpointError) as error:
        resolve_file(REPO, "config.json", local_files_only=True)
    assert_one_line(error, REPO, "config.json", "not in the local cache", "local_files_only")
    assert hub.requests == []
    resolve_file(REPO, "config.json")
    asked = len(hub.requests)
    assert read(REPO, "config.json", local_files_only=True) == b"{}"
    assert resolve_file(REPO, "other.json", local_files_only=True, required=False) is None
    assert len(hub.requests) == asked


def test_a_cached_file_is_served_when_the_hub_is_down(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.push(REPO, {"config.json": b"{}"})
    resolve_file(REPO, "config.json")
    point_huggingface_hub_at("http://127.0.0.1:1", monkeypatch)
    assert read(REPO, "config.json") == b"{}"


@pytest.mark.parametrize("required", [True, False])
def test_an_unreachable_hub_is_not_a_missing_file(
    required: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    point_huggingface_hub_at("http://127.0.0.1:1", monkeypatch)
    with pytest.raises(CheckpointError) as error:
        resolve_file(REPO, "config.json", cache_dir=tmp_path, required=required)
    assert_one_line(error, REPO, "config.json is not cached", "the hub could not be asked: Connect")


@contextmanager
def mute_hub() -> Iterator[str]:
    """The address of a hub that no connection comes through to: its queue is full, as if packets were dropped."""
    with ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:1", "http://nowhere.invalid"])
def test_without_a_network_a_hub_is_asked_once(
    endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """huggingface_hub tries again for 23 seconds; here it pauses no more (`time.sleep`), and isn't asked at all."""
    point_huggingface_hub_at(endpoint, monkeypatch)
    monkeypatch.setattr(
        hub_module, "hf_hub_download", lambda *_, **__: pytest.fail("it would try again and again")
    )
    with pytest.raises(CheckpointError) as error:
        resolve_file(REPO, "config.json", cache_dir=tmp_path)
    assert_one_line(error, "team/model: config.json is not cached and the hub could not be asked: Connect")


def test_a_hub_to_which_there_is_no_connection_is_waited_for_two_seconds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert reach.SECONDS_TO_CONNECT == 2
    monkeypatch.setattr(reach, "SECONDS_TO_CONNECT", 0.2)
    with mute_hub() as endpoint:
        point_huggingface_hub_at(endpoint, monkeypatch)
        with pytest.raises(CheckpointError) as error:
            resolve_file(REPO, "config.json", cache_dir=tmp_path)
    assert_one_line(error, f"{endpoint} doesn't answer; without a network, HF_HUB_OFFLINE=1 says so at once")


def test_a_slow_hub_is_waited_for(monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    hub.push(REPO, {"config.json": b"{}"})
    hub.seconds_to_answer = 0.5
    monkeypatch.setattr(reach, "SECONDS_TO_CONNECT", 0.1)
    assert read(REPO, "config.json") == b"{}"


def test_a_hub_that_answers_no_more_than_an_error_is_there(hub: FakeHub) -> None:
    assert reach.why_out_of_reach() is None
    assert hub.endpoint in reach._reached


def test_what_the_cache_knows_is_enough_without_a_network(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also that there is no such file."""
    hub.push(REPO, {"config.json": b"{}"})
    read(REPO, "config.json")
    assert resolve_file(REPO, "modules.json", required=False) is None
    point_huggingface_hub_at("http://127.0.0.1:1", monkeypatch)
    assert read(REPO, "config.json") == b"{}"
    assert resolve_file(REPO, "modules.json", required=False) is None
    with pytest.raises(CheckpointError) as error:
        resolve_file(REPO, "modules.json")
    assert_one_line(error, "modules.json is not cached and the hub could not be asked")


def test_a_proxy_is_what_must_be_reached(monkeypatch: pytest.MonkeyPatch, hub: FakeHub) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", hub.endpoint)
    connected = threading.Event()
    reach._connect("http://nowhere.invalid", connected)
    assert connected.wait(10)


def test_a_missing_file_is_none_when_optional_and_named_when_required(hub: FakeHub) -> None:
    hub.push(REPO, {"config.json": b"{}"})
    assert resolve_file(REPO, "model.safetensors", required=False) is None
    with pytest.raises(CheckpointError) as error:
        resolve_file(REPO, "model.safetensors")
    assert_one_line(error, f"{REPO} has no file model.safetensors on the hub")


def test_a_missing_repository_a_missing_revision_and_a_gated_one_are_told_apart(hub: FakeHub) -> None:
    hub.push(REPO, {"config.json": b"{}"})
    hub.push("team/secret", {"config.json": b"hidden"}, gated=True)
    with pytest.raises(CheckpointError) as error:
        resolve_file("team/nothing", "config.json", required=False)
    assert_one_line(error, "'team/nothing'", "nor a repository of the hub")
    with pytest.raises(CheckpointError) as error:
        resolve_file(REPO, "config.json", revision="v9", required=False)
    assert_one_line(error, REPO, "has no revision 'v9'")
    with pytest.raises(CheckpointError) as error:
        resolve_file("team/secret", "config.json", token=False)
    assert_one_line(error, "team/secret is gated", "token=")
    assert read("team/secret", "config.json", token="hf_test") == b"hidden"


@pytest.mark.parametrize("name", ["", "a--b/c", "white space", "name!"])
def test_a_name_that_no_repository_can_have_is_refused(name: str, hub: FakeHub) -> None:
    with pytest.raises(CheckpointError) as error:
        resolve_file(name, "config.json")
    assert_one_line(error, repr(name) if name else "name is empty", "directory", "hub id")
    assert hub.requests == []


def test_a_download_cut_short_leaves_no_file(hub: FakeHub) -> None:
    content = bytes(range(256)) * 8
    hub.push(REPO, {"weights.bin": content})
    hub.cut_short["weights.bin"] = 1000
    with pytest.raises(CheckpointError) as error:
        resolve_file(REPO, "weights.bin")
    assert_one_line(error, REPO, "downloading weights.bin failed", "2048", "1000")
    assert resolve_file(REPO, "weights.bin", local_files_only=True, required=False) is None
    hub.cut_short.clear()
    assert read(REPO, "weights.bin") == content


def test_a_download_that_breaks_off_is_resumed_at_once_or_when_asked_again(hub: FakeHub) -> None:
    content = bytes(range(256)) * 8
    hub.push(REPO, {"weights.bin": content})
    hub.break_once_after["weights.bin"] = 700
    try:
        received = read(REPO, "weights.bin")
    except CheckpointError:  # huggingface_hub before 1.0 leaves the next attempt to its caller
        received = read(REPO, "weights.bin")
    assert received == content


# Environment variables, which huggingface_hub reads when it is imported

SCRIPT = """
import sys
from squeezebert_fast.errors import CheckpointError
from squeezebert_fast.storage.hub import resolve_file
try:
    print(resolve_file("team/model", sys.argv[1]).read_text())
except CheckpointError as error:
    print("CheckpointError:", error)
"""


def run_script(filename: str, **environment: str) -> str:
    command = [sys.executable, "-c", SCRIPT, filename]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_hf_endpoint_hf_home_and_hf_hub_offline_are_honoured(tmp_path: Path) -> None:
    home = str(tmp_path / "home")
    with FakeHub() as hub:
        hub.push(REPO, {"config.json": b"from the fake hub"})
        assert run_script("config.json", HF_ENDPOINT=hub.endpoint, HF_HOME=home) == "from the fake hub"
        asked = len(hub.requests)
        offline = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": home, "HF_HUB_OFFLINE": "1"}
        assert run_script("config.json", **offline) == "from the fake hub"
        answer = run_script("other.json", **offline)
        assert len(hub.requests) == asked
    assert answer.startswith("CheckpointError: team/model: other.json is not in the local cache")
