# SPDX-License-Identifier: MIT
"""Devices as a stock kernel's drivers see them."""
import os
import pty
import re
import tty

from machine import Fail, unix_connect
from registry import case


@case("serial:file")
def serial_file(b):
    path = os.path.join(b.tmp, "console")
    with b.boot("--serial", "file:" + path, "--append", "console=ttyS0 gazda.run=/etc/profile", flavour="cloud-amd64",
                stdio=False) as m:
        m.ends(0, 300)
        if m.text:
            raise Fail("something came out on stdout: %r" % m.text[:200])
    with open(path, encoding="utf-8", errors="replace") as f:
        text = f.read()
    if "Linux version" not in text or "Power down" not in text:
        raise Fail("the console in the file is not whole: %r" % text[-200:])


@case("serial:unix")
def serial_unix(b):
    path = os.path.join(b.tmp, "console.sock")
    with b.boot("--serial", "unix:" + path, flavour="cloud-amd64", stdio=False) as m:
        s = unix_connect(path, 30)
        m.use(s.fileno())
        m.send("\n")
        m.shell()
        m.ok("uname -a")
        m.poweroff()
        s.close()
    if os.path.exists(path):
        raise Fail("the socket is left behind")


@case("serial:pty")
def serial_pty(b):
    with b.boot("--serial", "pty", flavour="cloud-amd64", stdio=False) as m:
        # The name of the pty is told on stderr (or stdout).
        for _ in range(300):
            m.pump(0.1)
            found = re.search(r"/dev/pts/\d+", m.stderr() + m.text)
            if found:
                break
        else:
            raise Fail("gazda does not say which pty it uses: %r" % m.stderr())
        fd = os.open(found.group(0), os.O_RDWR | os.O_NOCTTY)
        tty.setraw(fd)
        m.use(fd)
        m.send("\n")
        m.shell()
        m.ok("uname -a")
        m.poweroff()
        os.close(fd)


@case("serial:terminal")
def serial_terminal(b):
    """On a terminal: raw while it runs, restored after; the escape key leaves."""
    master, slave = pty.openpty()
    before = tty.tcgetattr(slave)
    kernel, initrd, _ = b.kernel("cloud-amd64", "bz")
    import subprocess
    p = subprocess.Popen([b.gazda, "run", "--kernel", kernel, "--initrd", initrd], stdin=slave, stdout=slave,
                         stderr=subprocess.PIPE)
    try:
        with b.boot("--serial", "null", flavour="cloud-amd64", stdio=False) as carrier:
            # Only its console reader is used.
            carrier.proc.kill()
            carrier.proc.wait()
            carrier.use(master)
            carrier.text = ""
            carrier.shell()
            carrier.ok("uname -a")
            if tty.tcgetattr(slave)[3] == before[3]:
                raise Fail("the terminal is not in raw mode")
            # Ctrl-C is the guest's: it ends the guest's sleep (once that has begun), not gazda.
            carrier.shell(60)
            carrier.send("sleep 1000; echo =''=slept=$?\n")
            for _ in range(20):
                carrier.pump(1)
                carrier.send("\x03")
                if carrier.at < len(carrier.text) and "gazda:" in carrier.text[carrier.at:].split("slept", 1)[-1]:
                    break
            carrier.ok("true")
            carrier.send("\x01x")
            p.wait(30 * b.scale)
            if tty.tcgetattr(slave) != before:
                raise Fail("the terminal is not restored")
    finally:
        p.kill()
        p.wait()
        os.close(master)
        os.close(slave)


@case("serial:bulk")
def serial_bulk(b):
    """16 KiB typed in one go arrive whole: the host side waits for the guest."""
    with b.boot(flavour="cloud-amd64") as m:
        m.shell()
        m.send("stty -echo; while read -r l; do [ \"$l\" = END ] && break; echo \"$l\"; done >/tmp/f; stty echo\n")
        m.pump(1)
        lines = ["%06d %s" % (i, "x" * 57) for i in range(256)]
        m.send("\n".join(lines) + "\nEND\n")
        import hashlib
        want = hashlib.sha256(("\n".join(lines) + "\n").encode()).hexdigest()
        got = m.ok("sha256sum /tmp/f; wc -c /tmp/f", 120)
        if want not in got:
            raise Fail("what arrived differs: %s" % got)
        m.poweroff()


@case("virtio:disk")
def disk(b):
    path = os.path.join(b.tmp, "disk")
    with open(path, "wb") as f:
        f.truncate(64 << 20)
    with b.boot("--disk", path, "--cpus", "2") as m:
        m.shell()
        if m.ok("cat /sys/block/vda/size").strip() != str(64 << 11):
            raise Fail("the disk's size is wrong")
        m.ok("mke2fs /dev/vda >/dev/null && mkdir -p /mnt && mount -t ext4 /dev/vda /mnt")
        m.ok("dd if=/dev/urandom of=/mnt/f bs=64k count=64 2>/dev/null; sync")
        want = m.ok("sha256sum /mnt/f").split()[0]
        m.ok("umount /mnt")
        m.poweroff()
    with b.boot("--disk", path + ",ro") as m:
        m.shell()
        if m.ok("cat /sys/block/vda/ro").strip() != "1":
            raise Fail("the disk is not read-only")
        m.ok("mount -t ext4 -o ro /dev/vda /mnt")
        got = m.ok("sha256sum /mnt/f").split()[0]
        if got != want:
            raise Fail("the file came back different")
        m.ok("umount /mnt; ! dd if=/dev/zero of=/dev/vda bs=4k count=1 conv=fsync 2>/dev/null")
        m.poweroff()


@case("virtio:two-disks")
def two_disks(b):
    one, two = b.file("one", b"1" * (1 << 20)), b.file("two", b"2" * (2 << 20))
    with b.boot("--disk", one, "--disk", two + ",ro", flavour="cloud-amd64") as m:
        m.shell()
        out = m.ok("cat /sys/block/vda/size /sys/block/vdb/size; head -c 3 /dev/vda; head -c 3 /dev/vdb")
        if "2048\n4096\n111222" not in out:
            raise Fail("the disks are not as given: %r" % out)
        m.ok("printf xyz | dd of=/dev/vda bs=3 conv=notrunc,fsync 2>/dev/null")
        m.poweroff()
    with open(one, "rb") as f:
        if f.read(4) != b"xyz1":
            raise Fail("what the guest wrote is not in the file")


@case("virtio:rng")
def rng(b):
    with b.boot(flavour="cloud-amd64") as m:
        m.shell()
        name = m.ok("cat /sys/class/misc/hw_random/rng_current").strip()
        if not name.startswith("virtio_rng"):
            raise Fail("the current hwrng is %r" % name)
        out = m.ok("dd if=/dev/hwrng bs=64 count=2 2>/dev/null | sha256sum; dd if=/dev/hwrng bs=64 count=2 2>/dev/null | "
                   "sha256sum").split()
        if len(out) != 4 or out[0] == out[2]:
            raise Fail("no random bytes: %s" % out)
        m.poweroff()


@case("virtio:console")
def console(b):
    path = os.path.join(b.tmp, "hvc")
    with b.boot("--console", "file:" + path, flavour="cloud-amd64") as m:
        m.shell()
        m.ok("echo hello over hvc0 >/dev/hvc0")
        m.poweroff()
    with open(path, "rb") as f:
        if b"hello over hvc0" not in f.read():
            raise Fail("nothing arrived")


@case("clock")
def clock(b):
    """The guest's clock runs with the host's, also while the host is busy: a wide band, for the RTC's second too."""
    import time
    with b.boot("--cpus", "2", flavour="cloud-amd64") as m:
        m.shell()
        host = time.time()
        guest = int(m.ok("date +%s"))
        if abs(guest - host) > 30:
            raise Fail("the guest's date is off by %d s" % (guest - host))
        a = float(m.ok("cut -d ' ' -f 1 /proc/uptime"))
        begin = time.monotonic()
        m.ok("sleep 5")
        z = float(m.ok("cut -d ' ' -f 1 /proc/uptime"))
        took = time.monotonic() - begin
        if not 5 <= z - a <= took + 2:
            raise Fail("a sleep of 5 s took %.2f s in the guest, %.2f s outside" % (z - a, took))
        m.poweroff()
