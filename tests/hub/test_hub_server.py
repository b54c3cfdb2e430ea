"""The Hub on loopback, through the unmodified clients: what it stores, whom it refuses and how it fails."""

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import huggingface_hub
import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, DiffusionPipeline, UNet2DModel
from hub_server import hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard, hf_hub_download
from huggingface_hub import snapshot_download as download
from huggingface_hub.utils import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

CARD = b"---\ntags: [wgan]\n---\n# A card\n"
FILES = {
    "README.md": CARD,
    "empty.bin": b"",
    "generator/config.json": b"{}",
    "generator/model.safetensors": bytes(range(256)) * 40,
    "images/grün & blau #1.png": b"\x89PNG",
}
OLD = huggingface_hub.__version__.startswith(("0.", "1."))
BROKEN = "disconnected|aborted|reset|closed|[Bb]roken pipe"  # in the words of what lies below the client


@pytest.fixture
def server(tmp_path):
    with hub(users={"hf_me": "me", "hf_you": "you"}) as server, server.online("hf_me", tmp_path / "cache"):
        yield server


@pytest.fixture
def me(server):
    return HfApi(endpoint=server.endpoint, token="hf_me")


@pytest.fixture
def you(server):
    return HfApi(endpoint=server.endpoint, token="hf_you")


@pytest.fixture
def anybody(server):
    return HfApi(endpoint=server.endpoint, token=False)


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path / "folder", FILES)


def write(folder, files):
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def read(folder):
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def call(server, method, path, body=b"", **headers):
    """Sends what no client would."""
    connection = HTTPConnection(urlsplit(server.endpoint).netloc)
    connection.request(method, path, body, {"Authorization": "Bearer hf_me", **headers})
    answer = connection.getresponse()
    status, data, found = answer.status, answer.read(), answer.headers
    connection.close()
    return status, data, found


def lines(*operations):
    header = {"key": "header", "value": {"summary": "by hand"}}
    return b"\n".join(json.dumps(line).encode() for line in (header, *operations))


def refusal(raised):
    return raised.value.response.status_code


def test_a_folder_comes_back_as_it_was_uploaded(server, me, folder):
    me.create_repo("me/model")
    info = me.upload_folder(repo_id="me/model", folder_path=folder)
    assert server.commits("me/model")[0] == info.oid
    assert server.files("me/model") == {".gitattributes": server.files("me/model")[".gitattributes"], **FILES}
    assert read(download("me/model", endpoint=server.endpoint)) == server.files("me/model")
    for name, data in FILES.items():
        assert Path(hf_hub_download("me/model", name, endpoint=server.endpoint)).read_bytes() == data


def test_large_files_go_by_lfs_and_only_they(server, me, folder):
    (folder / "long.txt").write_bytes(b"x" * 10_000_000)
    me.create_repo("me/model")
    me.upload_folder(repo_id="me/model", folder_path=folder)
    large = {"generator/model.safetensors", "images/grün & blau #1.png", "long.txt"}
    assert {file.rfilename for file in me.model_info("me/model", files_metadata=True).siblings if file.lfs} == large
    sent = [request for request in server.requests if request.startswith("PUT")]
    hashes = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in large]
    assert sorted(sent) == sorted(f"PUT /lfs/me/model/{sha}" for sha in hashes)
    assert not any("xet" in request for request in server.requests)


def test_what_has_not_changed_is_neither_sent_nor_committed_again(server, me, folder):
    me.create_repo("me/model")
    first = me.upload_folder(repo_id="me/model", folder_path=folder)
    before = len(server.requests)
    assert me.upload_folder(repo_id="me/model", folder_path=folder).oid == first.oid
    assert not any("PUT" in request or "/commit/" in request for request in server.requests[before:])


def test_the_log_has_the_requests_in_order(server, me):
    me.create_repo("me/model")
    me.upload_file(repo_id="me/model", path_in_repo="a.txt", path_or_fileobj=b"a", revision="main")
    assert [request for request in server.requests if request.startswith("POST")] == [
        "POST /api/repos/create",
        "POST /api/models/me/model/preupload/main",
        "POST /api/models/me/model/commit/main",
    ]


def test_datasets_are_kept_apart_from_models(server, me, folder):
    me.create_repo("me/same", repo_type="dataset")
    me.upload_folder(repo_id="me/same", folder_path=folder, repo_type="dataset")
    server.put("me/same", {"a.txt": b"a"})
    assert read(download("me/same", repo_type="dataset", endpoint=server.endpoint)).keys() > FILES.keys()
    assert read(download("me/same", endpoint=server.endpoint)) == {"a.txt": b"a"}


def test_trees_and_paths(server, me):
    server.put("me/model", {"a/b/c.txt": b"c", "a/d.png": b"dd", "e.txt": b"eee"})
    assert {file.path for file in me.list_repo_tree("me/model")} == {"a", "e.txt"}
    assert {file.path for file in me.list_repo_tree("me/model", "a")} == {"a/b", "a/d.png"}
    every = me.list_repo_tree("me/model", "a", recursive=True)
    assert {file.path for file in every} == {"a/b", "a/b/c.txt", "a/d.png"}
    assert me.list_repo_files("me/model") == ["a/b/c.txt", "a/d.png", "e.txt"]
    found = me.get_paths_info("me/model", ["a", "a/d.png", "nothing"])
    assert [entry.path for entry in found] == ["a", "a/d.png"] and found[1].size == 2 and found[1].lfs.size == 2
    with pytest.raises(EntryNotFoundError):
        list(me.list_repo_tree("me/model", "nothing"))


def test_parts_of_a_file(server):
    server.put("me/model", {"a.txt": b"0123456789"})
    for asked, part in [("2-4", b"234"), ("7-", b"789"), ("-3", b"789"), ("8-99", b"89")]:
        status, data, headers = call(server, "GET", "/me/model/resolve/main/a.txt", Range=f"bytes={asked}")
        assert (status, data) == (206, part) and headers["Content-Range"].endswith("/10")
    status, _, headers = call(server, "GET", "/me/model/resolve/main/a.txt", Range="bytes=10-")
    assert (status, headers["Content-Range"]) == (416, "bytes */10")


def test_any_name_can_be_put_and_clients_refuse_to_leave_their_folder(server, tmp_path):
    server.put("me/model", {"../../evil.py": b"evil"})
    with pytest.raises((ValueError, EntryNotFoundError)):
        download("me/model", endpoint=server.endpoint, local_dir=tmp_path / "a" / "b" / "c")
    assert not list(tmp_path.rglob("evil.py"))


def test_making_one_that_exists_is_a_conflict_unless_that_is_fine(server, me):
    assert me.create_repo("model").repo_id == "me/model"
    assert me.create_repo("me/model", exist_ok=True).repo_id == "me/model"
    with pytest.raises(HfHubHTTPError) as raised:
        me.create_repo("me/model")
    assert refusal(raised) == 409
    assert len(server.commits("me/model")) == 1


def test_one_that_is_deleted_is_gone(server, me):
    me.create_repo("me/data", repo_type="dataset")
    me.delete_repo("me/data", repo_type="dataset")
    with pytest.raises(RepositoryNotFoundError):
        me.dataset_info("me/data")
    with pytest.raises(RepositoryNotFoundError):
        me.delete_repo("me/data", repo_type="dataset")


def test_a_private_one_is_its_owners_only(server, me, you, anybody):
    me.create_repo("me/secret", private=True)
    assert me.model_info("me/secret").private
    for other, expected in [(you, 404), (anybody, 401)]:
        with pytest.raises(RepositoryNotFoundError) as raised:
            other.model_info("me/secret")
        assert refusal(raised) == expected
        with pytest.raises(RepositoryNotFoundError):
            other.hf_hub_download("me/secret", ".gitattributes")


def test_nobody_writes_to_what_is_anothers(server, you, anybody):
    server.put("me/model", {"a.txt": b"a"})
    with pytest.raises(HfHubHTTPError, match="rights to write") as raised:
        you.upload_file(repo_id="me/model", path_in_repo="a.txt", path_or_fileobj=b"b")
    assert refusal(raised) == 403
    with pytest.raises(HfHubHTTPError) as raised:
        you.create_repo("me/another")
    assert refusal(raised) == 403
    with pytest.raises(RepositoryNotFoundError) as raised:
        anybody.upload_file(repo_id="me/model", path_in_repo="a.txt", path_or_fileobj=b"b")
    assert refusal(raised) == 401
    assert server.files("me/model") == {"a.txt": b"a"}


def test_an_unknown_token_opens_nothing(server):
    server.put("me/model", {"a.txt": b"a"})
    with pytest.raises(HfHubHTTPError, match="Invalid credentials") as raised:
        HfApi(endpoint=server.endpoint, token="hf_wrong").model_info("me/model")
    assert refusal(raised) == 401


def test_what_is_missing_is_said_to_be_missing(server, me, anybody):
    server.put("me/model", {"a.txt": b"a"})
    for name, file, revision, error in [
        ("me/nothing", "a.txt", "main", RepositoryNotFoundError),
        ("me/model", "a.txt", "nothing", RevisionNotFoundError),
        ("me/model", "nothing.txt", "main", EntryNotFoundError),
    ]:
        with pytest.raises(error):
            hf_hub_download(name, file, revision=revision, endpoint=server.endpoint)
    with pytest.raises(RepositoryNotFoundError) as raised:
        anybody.model_info("me/nothing")
    assert refusal(raised) == 401
    with pytest.raises(RevisionNotFoundError):
        me.upload_file(repo_id="me/model", path_in_repo="b.txt", path_or_fileobj=b"b", revision="nothing")


def test_every_commit_has_its_own_sha_and_stays_readable(server, me):
    old, new, same = (server.put("me/model", {"a.txt": data}) for data in (b"old", b"new", b"new"))
    assert server.commits("me/model") == [same, new, old] and len({old, new, same}) == 3
    assert [commit.commit_id for commit in me.list_repo_commits("me/model")] == [same, new, old]
    assert read(download("me/model", revision=old, endpoint=server.endpoint)) == {"a.txt": b"old"}
    assert me.model_info("me/model", revision=new).sha == new


def test_a_branch_grows_without_touching_main(server, me):
    server.put("me/model", {"a.txt": b"a"})
    me.create_branch("me/model", branch="feature/new")
    me.create_branch("me/model", branch="feature/new", exist_ok=True)
    with pytest.raises(HfHubHTTPError) as raised:
        me.create_branch("me/model", branch="feature/new")
    assert refusal(raised) == 409
    with pytest.raises(HfHubHTTPError, match="Invalid branch name"):
        me.create_branch("me/model", branch="refs/pr/5")
    me.upload_file(repo_id="me/model", path_in_repo="b.txt", path_or_fileobj=b"b", revision="feature/new")
    assert read(download("me/model", revision="feature/new", endpoint=server.endpoint)).keys() == {"a.txt", "b.txt"}
    assert server.files("me/model") == {"a.txt": b"a"}
    assert server.commits("me/model", "feature/new")[1:] == server.commits("me/model")
    assert {branch.name for branch in me.list_repo_refs("me/model").branches} == {"main", "feature/new"}


def test_anyone_may_propose_changes(server, you, folder):
    server.put("me/model", {"a.txt": b"a"})
    info = you.upload_folder(repo_id="me/model", folder_path=folder, delete_patterns="*.txt", create_pr=True)
    assert info.pr_revision == "refs/pr/1" and info.pr_url == f"{server.endpoint}/me/model/discussions/1"
    assert server.files("me/model") == {"a.txt": b"a"}
    assert server.files("me/model", "refs/pr/1") == FILES
    assert read(download("me/model", revision="refs/pr/1", endpoint=server.endpoint)) == FILES
    refs = you.list_repo_refs("me/model", include_pull_requests=True)
    assert [proposal.ref for proposal in refs.pull_requests] == ["refs/pr/1"]


def test_a_proposal_can_be_continued(server, me):
    server.put("me/model", {"a.txt": b"a"})
    for options in ({"create_pr": True}, {"revision": "refs/pr/1"}):
        name = f"{len(server.requests)}.txt"
        me.upload_file(repo_id="me/model", path_in_repo=name, path_or_fileobj=b"b", **options)
    assert len(server.files("me/model", "refs/pr/1")) == 3 and len(server.commits("me/model", "refs/pr/1")) == 3


def test_what_is_deleted_is_gone_from_then_on(server, me, folder):
    server.put("me/model", {".gitattributes": b"", "a.txt": b"a", "old/b.bin": b"b", "old/c.bin": b"c", "d.bin": b"d"})
    me.delete_folder("old", "me/model")
    me.delete_file("a.txt", "me/model")
    assert server.files("me/model").keys() == {".gitattributes", "d.bin"}
    me.upload_folder(repo_id="me/model", folder_path=folder, delete_patterns="*")
    assert server.files("me/model").keys() == {".gitattributes", *FILES}
    assert len(server.commits("me/model")) == 4


def test_a_commit_on_a_stale_parent_changes_nothing(server, me):
    stale, head = server.put("me/model", {"a.txt": b"a"}), server.put("me/model", {"a.txt": b"b"})
    upload = {"repo_id": "me/model", "path_in_repo": "c.txt", "path_or_fileobj": b"c"}
    with pytest.raises(HfHubHTTPError) as raised:
        me.upload_file(**upload, parent_commit=stale)
    assert refusal(raised) == 412
    assert server.commits("me/model") == [head, stale]
    me.upload_file(**upload, parent_commit=head)
    assert len(server.commits("me/model")) == 3


def test_a_commit_of_which_one_part_is_wrong_changes_nothing(server, me):
    server.put("me/model", {"a.txt": b"a"})
    operations = [CommitOperationAdd("b.txt", b"b"), CommitOperationDelete("nothing.txt")]
    with pytest.raises(EntryNotFoundError):
        me.create_commit("me/model", operations, commit_message="half right")
    fine = {"key": "file", "value": {"path": "b.txt", "content": "Yg==", "encoding": "base64"}}
    for wrong in [
        {"key": "file", "value": {"path": "c.txt", "content": "no base64!", "encoding": "base64"}},
        {"key": "file", "value": {"path": "../c.txt", "content": "Yg=="}},
        {"key": "lfsFile", "value": {"path": "c.bin", "algo": "sha256", "oid": "0" * 64, "size": 1}},
        {"key": "unheard-of", "value": {"path": "c.txt"}},
    ]:
        assert call(server, "POST", "/api/models/me/model/commit/main", lines(fine, wrong))[0] == 400
    assert server.files("me/model") == {"a.txt": b"a"}
    assert call(server, "POST", "/api/models/me/model/commit/main", lines(fine))[0] == 200


def test_bytes_that_were_not_announced_are_refused(server):
    server.put("me/model", {"a.txt": b"a"})
    sha = hashlib.sha256(b"right").hexdigest()
    assert call(server, "PUT", f"/lfs/me/model/{sha}", b"right")[0] == 400
    check = json.dumps({"oid": sha, "size": 5})
    for size, data, expected in [(5, b"wrong", 400), (6, b"right", 400), (5, b"right", 200)]:
        batch = json.dumps({"operation": "upload", "objects": [{"oid": sha, "size": size}], "ref": {"name": "main"}})
        assert json.loads(call(server, "POST", "/me/model.git/info/lfs/objects/batch", batch)[1])["transfer"] == "basic"
        assert call(server, "PUT", f"/lfs/me/model/{sha}", data)[0] == expected
        assert call(server, "POST", f"/lfs/me/model/{sha}/verify", check)[0] == (200 if expected == 200 else 404)


def test_many_at_once_lose_nothing(server, me):
    me.create_repo("me/model")

    def upload(number):
        me.upload_file(repo_id="me/model", path_in_repo=f"{number}.bin", path_or_fileobj=b"%d" % number)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(upload, range(16)))
    assert len(server.files("me/model")) == len(server.commits("me/model")) == 17
    for request in ("PUT", "POST .*/commit/main"):
        assert len([line for line in server.requests if re.match(request, line)]) == 16


def test_cards_load(server):
    server.put("me/model", {"README.md": CARD})
    assert ModelCard.load("me/model").data.tags == ["wgan"]


@pytest.mark.skipif(OLD, reason="whatever the endpoint, it validates cards at the public Hub")
def test_cards_are_pushed(server):
    server.put("me/model", {"README.md": CARD})
    card = ModelCard.load("me/model")
    card.data.tags.append("more")
    card.push_to_hub("me/model")
    assert ModelCard.load("me/model").data.tags == ["wgan", "more"]


@pytest.mark.parametrize(
    "metadata, message",
    [
        ("license: mine", "license"),
        (": [", "Not YAML"),
        ("tags: [1]", "tags"),
        ("datasets: [a/b/c]", "names on the Hub"),
        ("model-index: [{name: a, results: [{task: {type: t}, metrics: [{type: m, value: 1}]}]}]", "dataset"),
        (
            "model-index: [{name: a, results: [{task: {type: t}, dataset: {type: d, name: d}, "
            "metrics: [{type: m, value: good}]}]}]",
            "must be a number",
        ),
    ],
)
def test_metadata_is_validated_before_a_commit(metadata, message, server):
    api = HfApi(endpoint=server.endpoint, token="hf_me")
    api.create_repo("me/model")
    card = f"---\n{metadata}\n---\n# Card\n".encode()
    with pytest.raises(ValueError, match=message):
        api.upload_file(path_or_fileobj=card, path_in_repo="README.md", repo_id="me/model")
    assert len(server.commits("me/model")) == 1


def test_pipelines(server):
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (8,)}
    unet = UNet2DModel(8, in_channels=1, out_channels=1, layers_per_block=1, norm_num_groups=2, **blocks)
    DDPMPipeline(unet, DDPMScheduler()).push_to_hub("me/pipeline", private=True)
    loaded = DiffusionPipeline.from_pretrained("me/pipeline")
    assert isinstance(loaded, DDPMPipeline)
    assert torch.equal(loaded.unet.conv_in.weight, unet.conv_in.weight)
    assert DDPMScheduler.from_pretrained("me/pipeline", subfolder="scheduler").config.num_train_timesteps == 1000


def test_another_process(server, folder):
    script = """
import sys
from huggingface_hub import create_repo, model_info, upload_folder
create_repo("me/model", private=True)
upload_folder(repo_id="me/model", folder_path=sys.argv[1])
print(len(model_info("me/model").siblings))
"""
    environment = {**os.environ, **server.environment("hf_me")}
    done = subprocess.run([sys.executable, "-c", script, folder], env=environment, capture_output=True, text=True)
    assert done.stdout == "6\n", done.stderr
    assert server.files("me/model").keys() > FILES.keys()


@pytest.mark.parametrize("when, landed", [("before", 0), ("during", 0), ("after", 1)])
def test_a_commit_whose_connection_breaks_is_made_or_not_but_never_half(when, landed, server, me, folder):
    start = server.put("me/model", {"a.txt": b"a"})
    server.drop(when=when, pattern="POST .*/commit/")
    with pytest.raises(Exception, match=BROKEN):
        me.upload_folder(repo_id="me/model", folder_path=folder, delete_patterns="*")
    assert server.files("me/model") == (FILES if landed else {"a.txt": b"a"})
    assert len(server.commits("me/model")) == 1 + landed and server.commits("me/model")[-1] == start
    me.upload_folder(repo_id="me/model", folder_path=folder)
    assert server.files("me/model").keys() >= FILES.keys() and len(server.commits("me/model")) == 2


def test_a_commit_cut_off_half_way_changes_nothing(server):
    server.put("me/model", {"a.txt": b"a"})
    body = lines({"key": "file", "value": {"path": "a.txt", "content": "Yg=="}}, {"key": "file", "value": {}})
    connection = HTTPConnection(urlsplit(server.endpoint).netloc)
    connection.putrequest("POST", "/api/models/me/model/commit/main")
    connection.putheader("Authorization", "Bearer hf_me")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[: body.rindex(b"\n")])
    connection.close()
    time.sleep(0.1)
    assert server.requests == ["POST /api/models/me/model/commit/main"]
    assert len(server.commits("me/model")) == 1


@pytest.mark.parametrize("fault", ["before", "during", "after", 503])
def test_the_client_heals_an_upload_that_fails(fault, server, me, folder):
    me.create_repo("me/model")
    if fault == 503:
        server.fail("PUT", fault, times=2)
    else:
        server.drop(pattern="PUT", when=fault, times=2)
    me.upload_folder(repo_id="me/model", folder_path=folder)
    assert server.files("me/model").keys() > FILES.keys() and len(server.commits("me/model")) == 2
    assert len([request for request in server.requests if request.startswith("PUT")]) == 4


@pytest.mark.skipif(OLD, reason="it does not resume")
def test_the_client_resumes_a_download_that_breaks_off(server):
    data = os.urandom(100_000)
    server.put("me/model", {"a.bin": data})
    server.drop(pattern="GET .*/resolve/", when="during")
    assert Path(hf_hub_download("me/model", "a.bin", endpoint=server.endpoint)).read_bytes() == data
    assert [request.split()[0] for request in server.requests] == ["HEAD", "GET", "GET"]


def test_requests_are_counted_from_the_call_on(server, me):
    server.put("me/model", {"a.txt": b"a"})
    me.model_info("me/model")
    server.drop(at=2, times=2)
    outcomes = []
    for _ in range(4):
        try:
            outcomes.append(me.model_info("me/model").id)
        except Exception as error:
            outcomes.append(type(error).__name__)
    assert [outcome == "me/model" for outcome in outcomes] == [True, False, False, True]


def test_a_fault_for_ever_lasts_until_it_is_healed(server, me):
    server.put("me/model", {"a.txt": b"a"})
    server.drop(times=None)
    for _ in range(3):
        with pytest.raises(Exception, match=BROKEN):
            me.model_info("me/model")
    server.heal()
    assert me.model_info("me/model").id == "me/model"


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_a_status_is_given_as_often_as_told(status, server, me):
    server.put("me/model", {"a.txt": b"a"})
    server.fail("GET /api/models/", status, times=2)
    for _ in range(2):
        with pytest.raises(HfHubHTTPError) as raised:
            me.model_info("me/model")
        assert refusal(raised) == status
    assert ("Retry-After" in raised.value.response.headers) == (status == 429)
    assert me.model_info("me/model").id == "me/model"


def test_a_failing_commit_is_not_made(server, me):
    server.put("me/model", {"a.txt": b"a"})
    server.fail("POST .*/commit/", 503)
    with pytest.raises(HfHubHTTPError):
        me.upload_file(repo_id="me/model", path_in_repo="b.txt", path_or_fileobj=b"b")
    assert server.files("me/model") == {"a.txt": b"a"}


def test_a_delay(server, me):
    server.delay("whoami", seconds=0.3)
    start = time.monotonic()
    assert me.whoami()["name"] == "me"
    assert time.monotonic() - start >= 0.3


def test_after_the_end_nobody_answers(server):
    with hub({"me/other": {"main": {"a.txt": b"a"}}}) as other:
        api = HfApi(endpoint=other.endpoint, token="hf_me")
        assert api.model_info("me/other").id == "me/other"
    with pytest.raises(Exception, match=f"{BROKEN}|refused"):
        api.model_info("me/other")
