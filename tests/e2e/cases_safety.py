# SPDX-License-Identifier: MIT
"""Data safety: gazda is killed (SIGKILL) at random moments under a guest that writes with fsync. What the guest was told
is on the disk must be there, now and after the next kills; the file system and the image must be sound."""
import os
import random
import re
import struct
import subprocess
import time
import zlib

from cases_virtio import tool
from machine import Fail, Skip
from registry import add

MIB = 1 << 20
BLOCK, SMALL, SLOTS = 4096, 1000, 64
SEED = 20


def call(*argv, ok=(0,)):
    r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if r.returncode not in ok:
        raise Fail("%s: status %d: %s" % (" ".join(argv), r.returncode, r.stdout[-700:]))
    return r


def writer(b):
    """An initrd with the writer and its script; the round comes over the kernel's command line."""
    top = os.path.join(b.tmp, "initrd")
    os.makedirs(os.path.join(top, "safety"))
    call("gcc", "-std=gnu17", "-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror", "-o",
         os.path.join(top, "safety", "durable"), os.path.join(b.top, "tests", "e2e", "guest", "durable.c"))
    with open(os.path.join(top, "safety", "run"), "w", encoding="ascii") as f:
        f.write("for w in $(cat /proc/cmdline); do case $w in round=*) round=${w#*=} ;; esac; done\n"
                "[ $((round % 2)) = 0 ] && options=-odiscard\n"
                "mkdir -p /mnt && mount -t ext4 $options /dev/vda /mnt && /safety/durable /mnt $round\n")
    out = os.path.join(b.tmp, "safety.cpio")
    call(os.path.join(b.top, "tools", "mkcpio"), out, top)
    return out


def record(data, at, size):
    """(round, worker, number) of a sound record, else None."""
    raw = data[at:at + size]
    if len(raw) < size:
        return None
    crc, rnd, worker, number = struct.unpack_from("<IIII", raw)
    return (rnd, worker, number) if zlib.crc32(raw[4:]) == crc else None


class Safety:
    def __init__(self, b, kind, rng):
        self.b, self.rng = b, rng
        self.fmt = "qcow2" if kind == "overlay" else kind
        self.image, self.raw = os.path.join(b.tmp, "disk." + self.fmt), os.path.join(b.tmp, "raw")
        self.disk = self.image
        self.told = {}  # round: {worker: the last number that was told to be durable}
        self.leaks = self.replays = self.cut = 0
        with open(self.raw, "wb") as f:
            f.truncate(96 * MIB)
        call(tool("mkfs.ext4"), "-q", self.raw)
        if kind == "overlay":
            base = os.path.join(b.tmp, "base")
            call("cp", self.raw, base)
            self.disk = "%s,overlay=%s" % (base, self.image)
        else:
            call(tool("qemu-img"), "convert", "-f", "raw", "-O", kind, self.raw, self.image)
        self.initrd = writer(b)

    def run(self, n):
        """One life and death of a machine."""
        kernel, initrd, _ = self.b.kernel("cloud-amd64", "pvh")
        m = self.b.start("--kernel", kernel, "--initrd", initrd, "--initrd", self.initrd, "--mem", "256M", "--cpus",
                         str(1 + n % 2), "--disk", self.disk + self.rng.choice(("", ",io=threads")), "--append",
                         "console=ttyS0 quiet panic=-1 gazda.run=/safety/run round=%d" % n)
        with m:
            early = self.rng.random() < 0.1
            if early:  # while it mounts, or before
                end = time.monotonic() + self.rng.uniform(0.3, 2.0)
            else:
                m.expect("writing", 120)
                end = time.monotonic() + self.rng.choice((0.1, 0.6, 2.0)) * self.rng.random() * self.b.scale
            while time.monotonic() < end and m.pump(max(0.0, end - time.monotonic())):
                pass
            if m.proc.poll() is not None:
                raise Fail("gazda ended by itself: %s; %s" % (m.stderr()[-400:], m.ending()))
            m.proc.kill()
            m.proc.wait()
            while m.pump(0.2):
                pass
        for worker, number in re.findall(r"durable (\d) (\d+)\r*\n", m.text):
            self.told.setdefault(n, {})[int(worker)] = int(number)
        trouble = re.search(r"(EXT4-fs error|I/O error|Kernel panic|fsync:|write:)[^\n]*", m.text)
        if trouble:
            raise Fail("the guest complains: " + trouble.group(0))

    def check_image(self):
        """Also leaves a raw copy of the image."""
        if not os.path.exists(self.image):
            return  # killed before the overlay was made
        if self.fmt != "raw":
            r = call(tool("qemu-img"), "check", "-f", self.fmt, self.image, ok=(0, 3))  # 3: leaks, which are no errors
            leaked = re.search(r"(\d+) leaked clusters", r.stdout)
            self.leaks = max(self.leaks, int(leaked.group(1)) if leaked else 0)
        call(tool("qemu-img"), "convert", "-f", self.fmt, "-O", "raw", self.image, self.raw)

    def check_files(self):
        journal = call(tool("e2fsck"), "-E", "journal_only", "-y", self.raw, ok=(0, 1)).stdout
        self.replays += "recovering journal" in journal
        # Without -n it would mend the superblock's count of free blocks, which ext4 only keeps at unmount.
        call(tool("e2fsck"), "-fn", self.raw)

    def file(self, name):
        path = os.path.join(self.b.tmp, "dump")
        if os.path.exists(path):
            os.unlink(path)
        call(tool("debugfs"), "-R", "dump /%s %s" % (name, path), self.raw)
        if not os.path.exists(path):
            return b""
        with open(path, "rb") as f:
            return f.read()

    def check_appended(self, n, worker, last):
        data, size = self.file("a%d-%d" % (worker, n)), SMALL if worker else BLOCK
        for i in range(last + 1):
            if record(data, i * size, size) != (n, worker, i):
                raise Fail("round %d: record %d of file a%d-%d is lost, %d was durable; the file has %d bytes" % (
                    n, i, worker, n, last, len(data)))

    def check_slots(self, now):
        """Every slot holds what was durable in it, or the one record that came after the last."""
        data, rounds = self.file("slots"), [n for n in sorted(self.told) if 2 in self.told[n]]
        if not rounds:
            return
        n = rounds[-1]
        last = self.told[n][2]
        for i in range(max(0, last - SLOTS + 1), last + 1):
            got = record(data, i % SLOTS * BLOCK, BLOCK)
            if got is None and i % SLOTS == (last + 1) % SLOTS:
                self.cut += 1  # was being overwritten
            elif got is None and n < now and i % SLOTS == 0:
                self.cut += 1  # by the next round, which was told of none
            elif got is None or got[1] != 2 or got < (n, 2, i) or (got[0] == n and got[2] % SLOTS != i % SLOTS):
                raise Fail("round %d: slot %d has record %s, %d of round %d was durable" % (now, i % SLOTS, got, i, n))

    def check(self, n):
        self.check_image()
        self.check_files()
        for old in (n - 1, n):
            for worker, last in self.told.get(old, {}).items():
                # The next round removes the files of those before the last.
                if worker < 2:
                    self.check_appended(old, worker, last)
        self.check_slots(n)


def safety(b, fmt, rounds):
    rounds = int(os.environ.get("GAZDA_SAFETY_ROUNDS", rounds))
    seed = int(os.environ.get("GAZDA_SAFETY_SEED", SEED))
    s = Safety(b, fmt, random.Random(seed))
    for n in range(rounds):
        try:
            s.run(n)
        except Fail as e:
            if "only raw images are supported" in str(e):
                raise Skip("this gazda has no %s" % fmt) from e
            raise
        s.check(n)
    told = sum(last + 1 for t in s.told.values() for last in t.values())
    print("# %s: %d rounds, %d durable records, %d journals replayed, at most %d clusters leaked, %d cut slots" % (
        fmt, rounds, told, s.replays, s.leaks, s.cut), flush=True)
    if not told:
        raise Fail("no round came to write")


for _fmt in ("raw", "qcow2", "overlay"):
    add("safety:" + _fmt, safety, _fmt, 3 if _fmt == "overlay" else 4, seconds=300)
    add("safety:%s-200" % _fmt, safety, _fmt, 200, seconds=3600, nightly=True)
