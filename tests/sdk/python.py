"""The official Python SDK as a client of the emulator: what its users do, and what they do wrong.

OPENAI_BASE_URL and OPENAI_API_KEY lead to the server, MOUNT is a mount of it, PROFILE says which server it is. The server
knows the API file `file-abc123`, and its admin route is on.
"""

import asyncio
import hashlib
import io
import json
import os
import pathlib
import tempfile
import time
import urllib.request

import openai
from openai import AsyncOpenAI, OpenAI

MOUNT = pathlib.Path(os.environ["MOUNT"])
OPENAI_PROFILE = os.environ["PROFILE"] == "openai"
client = OpenAI(max_retries=0)
files = client.containers.files


def content(container, file):
    return files.content.retrieve(file.id, container_id=container.id).read()


def eventually(what, done):
    deadline = time.monotonic() + 20
    while not done():
        assert time.monotonic() < deadline, f"in vain: {what}"
        time.sleep(0.02)


def refused(kind, call, *words, code=None, param=None):
    try:
        call()
    except kind as error:
        assert error.request_id.startswith("req_"), error.request_id
        for word in words:
            assert word in error.message, error.message
        if code:
            assert (error.code, error.param) == (code, param), (error.code, error.param)
        assert error.type == "invalid_request_error", error.type
    else:
        raise AssertionError(f"it should have been refused with {kind.__name__}")


def a_container_is_created_with_every_parameter():
    made = client.containers.create(
        name="every parameter",
        expires_after={"anchor": "last_active_at", "minutes": 10},
        file_ids=["file-abc123"],
        memory_limit="4g",
        network_policy={
            "type": "allowlist",
            "allowed_domains": ["example.org", "pypi.org"],
            "domain_secrets": [{"domain": "example.org", "name": "TOKEN", "value": "hush-hush"}],
        },
        skills=[
            {"type": "skill_reference", "skill_id": "skill_1", "version": "2"},
            {
                "type": "inline",
                "name": "plots",
                "description": "draws",
                "source": {"type": "base64", "media_type": "application/zip", "data": "UEsFBg=="},
            },
        ],
    )
    assert made.id.startswith("cntr_") and made.object == "container" and made.status == "running"
    assert abs(made.created_at - time.time()) < 600 and made.last_active_at >= made.created_at
    assert (made.name, made.memory_limit) == ("every parameter", "4g")
    assert (made.expires_after.anchor, made.expires_after.minutes) == ("last_active_at", 10)
    assert made.network_policy.type == "allowlist"
    assert made.network_policy.allowed_domains == ["example.org", "pypi.org"]
    reply = client.containers.with_raw_response.retrieve(made.id)
    assert "hush-hush" not in reply.text and reply.headers["x-request-id"].startswith("req_")
    again = reply.parse()
    assert again.last_active_at >= made.last_active_at, "being looked at is a use"
    assert again.to_dict() | {"last_active_at": made.last_active_at} == made.to_dict()
    [attached] = files.list(made.id)
    assert attached.path == "/mnt/data/file-abc123-attached.txt" and attached.source == "user"
    assert content(made, attached) == b"of the Files API"
    assert client.containers.delete(made.id) is None
    refused(openai.NotFoundError, lambda: client.containers.retrieve(made.id), made.id, "not found")


def files_go_up_and_come_down():
    container = client.containers.create(name="up and down")
    every_byte = bytes(range(256)) * 4099
    with tempfile.TemporaryDirectory() as directory:
        path = pathlib.Path(directory) / "on disk.bin"
        path.write_bytes(every_byte)
        uploads = {
            "tuple.bin": ("tuple.bin", every_byte),
            "stream.bin": ("stream.bin", io.BytesIO(every_byte), "application/x-anything"),
            "on disk.bin": path,
            'say "hi" – ünï 日本.txt': ('say "hi" – ünï 日本.txt', every_byte),
            "empty": ("empty", b""),
        }
        for name, upload in uploads.items():
            wanted = b"" if name == "empty" else every_byte
            file = files.create(container.id, file=upload)
            assert file.id.startswith("cfile_") and file.object == "container.file", file
            assert (file.bytes, file.source, file.container_id) == (len(wanted), "user", container.id)
            prefix, _, rest = file.path.removeprefix("/mnt/data/").partition("-" if OPENAI_PROFILE else "\0")
            assert (rest if OPENAI_PROFILE else prefix) == name, file.path
            assert len(prefix) == 32 or not OPENAI_PROFILE, file.path
            assert files.retrieve(file.id, container_id=container.id).to_dict() == file.to_dict()
            assert content(container, file) == wanted
        with open(path, "rb") as opened:
            assert files.create(container.id, file=opened).path.endswith("on disk.bin")
    attached = files.create(container.id, file_id="file-abc123")
    assert attached.path == "/mnt/data/file-abc123-attached.txt"
    streaming = files.content.with_streaming_response.retrieve(file.id, container_id=container.id)
    with streaming as reply:
        assert reply.headers["content-length"] == str(file.bytes)
        assert b"".join(reply.iter_bytes()) == b""
    nested = files.create(container.id, file=("deep/er/x.txt", b"x"))
    assert nested.path.endswith("-x.txt" if OPENAI_PROFILE else "/mnt/data/deep/er/x.txt"), nested.path
    assert files.delete(file.id, container_id=container.id) is None
    for call in [
        lambda: files.retrieve(file.id, container_id=container.id),
        lambda: content(container, file),
        lambda: files.delete(file.id, container_id=container.id),
    ]:
        refused(openai.NotFoundError, call, f"File {file.id} not found on container {container.id}.")
    client.containers.delete(container.id)
    refused(openai.NotFoundError, lambda: files.list(container.id), container.id)


def lists_are_paged_in_both_orders():
    container = client.containers.create(name="pages")
    made = [files.create(container.id, file=(f"{n}.txt", str(n).encode())).id for n in range(23)]
    for order, limit in [("asc", 7), ("desc", 7), ("asc", 23), ("desc", 100), ("asc", 1)]:
        listed = [file.id for file in files.list(container.id, order=order, limit=limit)]
        assert listed == (made if order == "asc" else made[::-1]), (order, limit)
    first = files.list(container.id)
    assert len(first.data) == 20 and first.has_more and first.data[0].id == made[-1]
    assert (first.first_id, first.last_id) == (first.data[0].id, first.data[-1].id)
    rest = first.get_next_page()
    assert [file.id for file in rest.data] == made[2::-1] and not rest.has_next_page()
    assert [file.id for file in files.list(container.id, after=made[20], order="asc")] == made[21:]

    names = ["twin", "other", "twin"]
    ids = [client.containers.create(name=name).id for name in names]
    for order in ["asc", "desc"]:
        listed = [item.id for item in client.containers.list(order=order, limit=1) if item.id in ids]
        assert listed == (ids if order == "asc" else ids[::-1])
    assert [item.id for item in client.containers.list(name="twin")] == [ids[2], ids[0]]
    for id in [*ids, container.id]:
        client.containers.delete(id)
    assert client.containers.list(name="twin").data == []


def what_is_wrong_is_told():
    create, list_ = client.containers.create, client.containers.list
    bad = openai.BadRequestError
    expires = {"anchor": "last_active_at", "minutes": 21}
    refused(bad, lambda: create(name="n", expires_after=expires), code="integer_above_max_value",
            param="expires_after.minutes")
    refused(bad, lambda: create(name="n", memory_limit="2g"), "'1g', '4g', '16g' and '64g'",
            code="invalid_value", param="memory_limit")
    refused(bad, lambda: create(name="n", network_policy={"type": "allowlist"}),
            code="missing_required_parameter", param="network_policy.allowed_domains")
    refused(bad, lambda: create(name="n", skills=[{"type": "inline", "name": "n"}]),
            code="missing_required_parameter", param="skills[0].description")
    refused(bad, lambda: create(name="n", extra_body={"colour": "red"}), code="unknown_parameter", param="colour")
    refused(bad, lambda: create(name=None), code="missing_required_parameter", param="name")
    refused(openai.NotFoundError, lambda: create(name="n", file_ids=["file-none"]), "file-none")
    refused(bad, lambda: list_(limit=0), code="integer_below_min_value", param="limit")
    refused(bad, lambda: list_(limit=101), code="integer_above_max_value", param="limit")
    refused(bad, lambda: list_(order="up"), code="invalid_value", param="order")
    refused(bad, lambda: list_(after="cntr_none"), "cntr_none", code="invalid_value", param="after")
    refused(openai.NotFoundError, lambda: client.containers.delete("cntr_none"), "cntr_none", "not found")
    container = create(name="wrong")
    refused(bad, lambda: files.create(container.id), "file")
    refused(openai.NotFoundError, lambda: files.create(container.id, file_id="file-none"), "file-none")
    refused(openai.NotFoundError, lambda: files.create("cntr_none", file=("x", b"x")), "cntr_none")
    if OPENAI_PROFILE:
        refused(bad, lambda: files.create(container.id, file=("x.svg", b"<svg/>")), "invalid file")
    client.containers.delete(container.id)
    assert not [item for item in list_() if item.name == "n"], "what is refused leaves nothing"


def a_key_is_needed():
    wrong = "sk-test-wrong-0123456789abcdef"
    stranger = OpenAI(api_key=wrong, max_retries=0)
    try:
        stranger.containers.list()
    except openai.AuthenticationError as error:
        assert error.code == "invalid_api_key" and wrong not in error.message
    else:
        raise AssertionError("a wrong key is no key")


def a_server_that_is_busy_is_asked_again():
    rule = {"kind": "list_containers", "times": 2, "fault": {"type": "status", "code": 503, "headers": {"retry-after-ms": "5"}}}
    admin = os.environ["OPENAI_BASE_URL"].removesuffix("/v1") + "/_admin/faults"
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {client.api_key}"}
    request = urllib.request.Request(admin, json.dumps(rule).encode(), headers)
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request).close()
    try:
        client.containers.list()
    except openai.InternalServerError as error:
        assert error.status_code == 503
    else:
        raise AssertionError("the fault was not injected")
    OpenAI(max_retries=2).containers.list()


async def many_at_once():
    async with AsyncOpenAI() as many:
        container = await many.containers.create(name="at once")
        uploads = [many.containers.files.create(container.id, file=(f"{n}", b"%d" % n * 5000)) for n in range(40)]
        for n, file in enumerate(await asyncio.gather(*uploads)):
            reply = await many.containers.files.content.retrieve(file.id, container_id=container.id)
            assert await reply.aread() == b"%d" % n * 5000
        assert len([file async for file in many.containers.files.list(container.id, limit=9)]) == 40
        await many.containers.delete(container.id)


def the_mount_and_the_sdk_see_each_others_files():
    container = client.containers.create(name="python-and-mount")
    there = MOUNT / container.name
    eventually("the mount shows the container", there.is_dir)
    noise = hashlib.sha256(b"seed").digest() * 9000
    file = files.create(container.id, file=("from sdk.bin", noise))
    eventually("the mount shows the upload", (there / "from sdk.bin").exists)
    assert (there / "from sdk.bin").read_bytes() == noise
    assert os.getxattr(there / "from sdk.bin", "user.containerfs.id").decode() == file.id
    (there / "from mount.bin").write_bytes(noise[::-1])
    [mine] = [file for file in files.list(container.id) if file.path.endswith("from mount.bin")]
    assert (mine.source, mine.bytes) == ("user", len(noise)) and content(container, mine) == noise[::-1]
    (there / "from sdk.bin").write_bytes(b"shorter")
    [mine] = [file for file in files.list(container.id) if file.path.endswith("from sdk.bin")]
    assert mine.id != file.id and content(container, mine) == b"shorter"
    files.delete(mine.id, container_id=container.id)
    eventually("the mount shows that it is gone", lambda: not (there / "from sdk.bin").exists())
    (there / "from mount.bin").unlink()
    assert files.list(container.id).data == []
    there.rmdir()
    refused(openai.NotFoundError, lambda: client.containers.retrieve(container.id), container.id)


for test in [
    a_container_is_created_with_every_parameter,
    files_go_up_and_come_down,
    lists_are_paged_in_both_orders,
    what_is_wrong_is_told,
    a_key_is_needed,
    a_server_that_is_busy_is_asked_again,
    lambda: asyncio.run(many_at_once()),
    the_mount_and_the_sdk_see_each_others_files,
]:
    test()
assert client.containers.list().data == [], "every container was deleted"
print(f"openai {openai.__version__} for Python: all is well")
