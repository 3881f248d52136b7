"""One of many processes that hammer one directory; tests/mount/hammer.rs starts them.

Every file is lines of 64 bytes, each with the seed of its file, its number, the number of lines, and a digest of the
three: a byte that is wrong, missing, or of another version shows in whatever was read. Files named f* are shared and
replaced by renaming only, so that every read of one shows one whole version; files named o* belong to one process,
which writes them in place and must find in them what it wrote.
"""

import errno
import hashlib
import json
import mmap
import os
import random
import sys
import time

directory, number, turn, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3], float(sys.argv[4])
os.chdir(directory)
chance = random.Random(f"{turn}/{number}")
LINE = 64
SHARED = [f"f{n:02}" for n in range(24)]
# Somebody else, here or elsewhere, may take away what is shared at any moment.
TAKEN_AWAY = (errno.ENOENT, errno.ESTALE)
done, slowest = {}, 0.0
own = {}


def line(seed, at, total):
    head = f"{seed:016x} {at:08x} {total:08x} "
    return head + hashlib.sha256(head.encode()).hexdigest()[:28] + "\n"


def content(seed, total):
    return "".join(line(seed, at, total) for at in range(total)).encode()


def fail(what, name, data=b""):
    sys.exit(f"{what}: {name} in {sorted(os.listdir('.'))}, {len(data)} bytes: {data[:200]!r}")


def check(name, data, whole=True):
    """Whole versions are lines of one seed; else each line is good by itself."""
    if len(data) % LINE and whole:
        fail("a torn line", name, data)
    lines = [data[at : at + LINE] for at in range(0, len(data) - len(data) % LINE, LINE)]
    for at, told in enumerate(lines):
        try:
            seed, place, total = (int(part, 16) for part in told.decode().split()[:3])
        except ValueError:
            fail(f"wrong bytes in line {at}", name, told)
        if told != line(seed, place, total).encode() or place != at:
            fail(f"a wrong line {at}", name, told)
    if whole and lines:
        seed, _, total = (int(part, 16) for part in lines[0].decode().split()[:3])
        if data != content(seed, total):
            fail("not one whole version", name, data)
    elif whole:
        fail("an empty file", name)


def read(name, pause=0.0):
    descriptor = os.open(name, os.O_RDONLY)
    try:
        parts = []
        while part := os.read(descriptor, chance.choice([LINE, 4096, 131072])):
            parts.append(part)
            if pause:
                time.sleep(pause)
                pause = 0.0
        return b"".join(parts)
    finally:
        os.close(descriptor)


def write(name, data, flags=os.O_TRUNC | os.O_CREAT, sync=False):
    descriptor = os.open(name, os.O_WRONLY | flags, 0o644)
    try:
        at = 0
        while at < len(data):
            at += os.write(descriptor, data[at : at + 65536])
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def version():
    return chance.getrandbits(60), chance.choice([1, 2, 7, 40, 40, 200, 1500])


def read_shared():
    check(name := chance.choice(SHARED), read(name))


def read_shared_slowly():
    check(name := chance.choice(SHARED), read(name, pause=0.2))


def map_own():
    # Not a shared one: a page of a file that was taken away meanwhile is a SIGBUS.
    if own:
        name = chance.choice(list(own))
        with open(name, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
            if pages[:] != content(*own[name]):
                fail("not what was written", name, pages[:])


def read_what_is_there():
    name = chance.choice(os.listdir("."))
    if not name.startswith("t"):
        check(name, read(name), whole=name.startswith(("f", "m")))


def replace_shared():
    temporary = f"t{number}"
    write(temporary, content(*version()))
    os.rename(temporary, chance.choice(SHARED))


def unlink_shared():
    os.unlink(chance.choice(SHARED))


def overwrite_own():
    name = f"o{turn}-{number}-{chance.randrange(3)}"
    own[name] = version()
    write(name, content(*own[name]), sync=chance.random() < 0.2)
    read_own(name)


def read_own(name=None):
    if own and (name := name or chance.choice(list(own))) and (data := read(name)) != content(*own[name]):
        fail("not what was written", name, data)


def rename_own():
    if own:
        old, new = chance.choice(list(own)), f"o{turn}-{number}-{chance.randrange(3)}"
        os.rename(old, new)
        own[new] = own.pop(old)
        read_own(new)


def unlink_own():
    if own:
        name = chance.choice(list(own))
        os.unlink(name)
        del own[name]
        if os.path.exists(name):
            fail("still there", name)


def list_all():
    names = [entry.name for entry in os.scandir(".") if entry.stat(follow_symlinks=False)]
    if missing := set(own) - set(names):
        fail("missing", missing)


WORK = {
    read_shared: 30,
    read_shared_slowly: 4,
    map_own: 6,
    read_what_is_there: 10,
    replace_shared: 8,
    unlink_shared: 2,
    overwrite_own: 12,
    read_own: 10,
    rename_own: 4,
    unlink_own: 2,
    list_all: 4,
}
end = time.monotonic() + seconds
while time.monotonic() < end:
    work = chance.choices(list(WORK), list(WORK.values()))[0]
    started = time.monotonic()
    try:
        work()
    except OSError as error:
        if "shared" not in work.__name__ and work not in (read_what_is_there, list_all) or error.errno not in TAKEN_AWAY:
            sys.exit(f"{work.__name__}: {error}")
    done[work.__name__] = done.get(work.__name__, 0) + 1
    slowest = max(slowest, time.monotonic() - started)
for name in own:
    read_own(name)
print(json.dumps({"done": done, "slowest": slowest, "own": own}))
