"""Downloads from a hub, with the real client, against a server on loopback: resumed, checked, refused clearly."""

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.hub_server import HubServer
from tests.unit.processes import end_of, start_child
from viarl.datasets.hub import client
from viarl.datasets.hub.client import HubError, Repository, matching, natural, safe_path

ID = "owner/data"
BIG = random.Random(1).randbytes(3_000_000)
FILES = {"README.md": b"small", "videos/a.zip": BIG, "videos/b_2.zip": BIG[:100_000], "videos/b_10.zip": BIG[:70_000]}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(client, "WAIT_S", 1e-5)  # times 3 to the 9th at most
    with HubServer() as server:
        server.add(ID, FILES)
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


def fetch(folder: Path, *patterns: str, revision: str = "main") -> list[Path]:
    repository = Repository(ID, revision)
    return repository.download(matching(repository.list_files(), patterns), folder)


def test_files_are_listed_with_their_checksums_page_by_page(hub: HubServer) -> None:
    hub.page = 2
    found = Repository(ID).list_files()
    assert [(file.path, file.size) for file in found] == sorted((path, len(data)) for path, data in FILES.items())
    assert [bool(file.sha256) for file in found] == [False, True, True, True]
    assert sum("/tree/" in request.path for request in hub.requests) == 3


def test_small_and_large_files_arrive_whole(hub: HubServer, tmp_path: Path) -> None:
    paths = fetch(tmp_path, "*")
    assert {path.relative_to(tmp_path).as_posix(): path.read_bytes() for path in paths} == FILES
    assert not [*tmp_path.rglob("*.part")]


def test_what_is_there_is_not_fetched_again_unless_damaged(hub: HubServer, tmp_path: Path) -> None:
    (path,) = fetch(tmp_path, "videos/a.zip")
    fetch(tmp_path, "videos/a.zip")
    assert sum(request.storage for request in hub.requests) == 1
    path.write_bytes(b"x" + BIG[1:])
    fetch(tmp_path, "videos/a.zip")
    assert path.read_bytes() == BIG


def test_a_connection_that_breaks_is_continued(hub: HubServer, tmp_path: Path) -> None:
    generator = random.Random(2)
    hub.cut = lambda size: generator.randrange(size) if size > 500_000 else None
    (path,) = fetch(tmp_path, "videos/a.zip")
    assert path.read_bytes() == BIG
    ranges = [request.range for request in hub.requests if request.range]
    assert len(ranges) >= 2
    assert hub.sent["videos/a.zip"] < len(BIG) + 2_000_000  # what was on the way is lost, what had arrived is not


def test_a_server_without_ranges_is_asked_from_the_beginning(hub: HubServer, tmp_path: Path) -> None:
    hub.ranges = False
    cuts = iter([1_000_000, None])
    hub.cut = lambda size: next(cuts)
    (path,) = fetch(tmp_path, "videos/a.zip")
    assert path.read_bytes() == BIG


def test_a_killed_client_goes_on_where_it_was(hub: HubServer, tmp_path: Path) -> None:
    """kill -9 in the middle: the next process asks for the rest alone."""
    hub.chunk_s = 0.003
    child = start_child(lambda: fetch(tmp_path, "videos/a.zip"))
    while not any(part.stat().st_size > 500_000 for part in tmp_path.rglob("*.part")):
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    assert end_of(child) == -signal.SIGKILL
    (part,) = tmp_path.rglob("*.part")
    there = part.stat().st_size
    assert 500_000 < there < len(BIG)
    hub.chunk_s = 0
    (path,) = fetch(tmp_path, "videos/a.zip")
    assert path.read_bytes() == BIG
    assert hub.requests[-1].range == f"bytes={there}-"


def test_what_was_begun_of_another_version_is_not_continued(hub: HubServer, tmp_path: Path) -> None:
    part = tmp_path / "videos/a.zip.0123456789abcdef.part"
    part.parent.mkdir()
    part.write_bytes(b"other")
    (path,) = fetch(tmp_path, "videos/a.zip")
    assert path.read_bytes() == BIG
    assert not part.exists()


def test_a_wrong_checksum_is_tried_once_more_and_then_told(hub: HubServer, tmp_path: Path) -> None:
    hub.lie = {"videos/a.zip": b"x" + BIG[1:]}
    with pytest.raises(HubError, match=r"videos/a.zip has another checksum than the hub states .*, twice") as told:
        fetch(tmp_path, "videos/a.zip")
    assert "\n" not in str(told.value)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(request.storage for request in hub.requests) == 2


def test_a_file_that_is_too_short_on_the_server_is_told(hub: HubServer, tmp_path: Path) -> None:
    hub.lie = {"videos/a.zip": BIG[:1000]}
    with pytest.raises(HubError, match=r"cannot be fetched .* 1000 of 3000000 bytes came"):
        fetch(tmp_path, "videos/a.zip")


def test_a_gated_source_says_what_to_accept(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repos[ID].gated = True
    hub.repos[ID].accepted = {"hf_good"}
    for token in ("", "hf_other"):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(HubError, match=rf"gated.*accept the conditions at {hub.endpoint}/datasets/{ID}.*HF_TOKEN"):
            fetch(tmp_path, "README.md")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    (path, large) = fetch(tmp_path, "README.md", "videos/a.zip")
    assert (path.read_bytes(), large.read_bytes()) == (b"small", BIG)


def test_the_token_stays_with_the_hub(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large files come from a storage elsewhere, to which the token must not go."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fetch(tmp_path, "videos/a.zip")
    assert {request.token for request in hub.requests if request.storage} == {""}
    assert {request.token for request in hub.requests if not request.storage} == {"hf_secret"}


@pytest.mark.parametrize(
    ("id", "revision", "told"),
    [
        ("owner/none", "main", "there is no such repository, or it is private or gated"),
        (ID, "v9", "has no revision 'v9'; correct hub.revisions"),
        (ID, "0" * 40, "has no revision '0000"),
    ],
)
def test_what_is_not_there_is_one_line(hub: HubServer, id: str, revision: str, told: str) -> None:
    with pytest.raises(HubError, match=told) as error:
        Repository(id, revision).list_files()
    assert "\n" not in str(error.value)


def test_a_file_that_went_is_one_line(hub: HubServer, tmp_path: Path) -> None:
    repository = Repository(ID)
    (file,) = matching(repository.list_files(), ["README.md"])
    del hub.repos[ID].commits[repository.commit]["README.md"]
    with pytest.raises(HubError, match=r"README.md: is not there at commit [0-9a-f]{40}"):
        repository.download([file], tmp_path)


def test_a_network_that_is_away_is_one_line(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository(ID)
    files = matching(repository.list_files(), ["README.md"])
    hub.__exit__()
    with pytest.raises(HubError, match=r"README.md cannot be fetched \(.*run this again when the network is back"):
        repository.download(files, tmp_path)
    with pytest.raises(HubError, match=r"cannot be reached .*; check the network and HF_ENDPOINT") as error:
        _ = Repository(ID).commit
    assert "\n" not in str(error.value)


def test_what_is_no_hub_is_one_line(hub: HubServer) -> None:
    commit = Repository(ID).commit
    hub.garbage = True
    for use in (lambda: Repository(ID).commit, Repository(ID, commit).list_files):
        with pytest.raises(HubError, match=r"answers as no hub does .*; check HF_ENDPOINT"):
            use()


def test_too_many_requests_are_spaced(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(client, "time", SimpleNamespace(sleep=waited.append))
    repository = Repository(ID)
    files = matching(repository.list_files(), ["README.md"])
    hub.down, hub.down_status = 2, 429
    assert repository.download(files, tmp_path)[0].read_bytes() == b"small"
    assert waited == [client.LIMITED_S] * 2


def test_a_hub_that_says_nothing_is_not_waited_for(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository(ID)
    assert repository.commit
    monkeypatch.setattr(client, "TIMEOUT_S", 0.1)
    monkeypatch.setattr("huggingface_hub.utils._http.time", SimpleNamespace(sleep=lambda seconds: None))  # its retries
    hub.silent_s = 1.0
    with pytest.raises(HubError, match="cannot be reached"):
        repository.list_files()


def test_a_server_that_is_overloaded_is_asked_again(hub: HubServer, tmp_path: Path) -> None:
    repository = Repository(ID)
    files = matching(repository.list_files(), ["README.md"])
    hub.down = 2
    assert repository.download(files, tmp_path)[0].read_bytes() == b"small"


def test_names_that_would_leave_the_folder_are_refused(hub: HubServer) -> None:
    hub.add("owner/evil", {"../../evil.txt": b"x"})
    with pytest.raises(HubError, match="would leave its folder"):
        Repository("owner/evil").list_files()


@pytest.mark.parametrize(
    "name", ["", "/a", "../a", "a/../../b", "a/..", "C:\\a", "C:/a", "a\\..\\b", "a\0b", "a\nb", "a" * 300, "~/../x"]
)
def test_unsafe_paths(name: str) -> None:
    assert safe_path(name) is None


@pytest.mark.parametrize("name", ["a", "data/ä b (1).mp4", "a..b/c", "...", "~/x"])
def test_safe_paths(name: str) -> None:
    assert str(safe_path(name)) == name


def test_numbers_in_names_are_counted() -> None:
    names = ["v_10.zip", "v_9.zip", "v_1.zip", "a.zip"]
    assert sorted(names, key=natural) == ["a.zip", "v_1.zip", "v_9.zip", "v_10.zip"]
