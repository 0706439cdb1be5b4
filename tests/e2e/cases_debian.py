# SPDX-License-Identifier: MIT
"""A whole Debian system, unchanged, as its users know it: from a read-only image to a clean power-off, and once more."""
import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import threading
import time

import debian
from machine import Fail, Skip
from registry import case

PROGRAM = b"""#include <stdio.h>
#include <math.h>
#include <pthread.h>
static double sum[4];
static void *part(void *arg)
{
    long n = (long)arg;
    for (long i = n + 1; i <= 400000; i += 4)
        sum[n] += 1.0 / ((double)i * (double)i);
    return NULL;
}
int main(void)
{
    pthread_t t[4];
    double all = 0;
    for (long i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, part, (void *)i);
    for (long i = 0; i < 4; i++) {
        pthread_join(t[i], NULL);
        all += sum[i];
    }
    printf("pi is about %.4f\\n", sqrt(6 * all));
    return 0;
}
"""

CONTROL = """Package: gazda-hello
Version: 1.0
Architecture: all
Maintainer: nobody <nobody@example.org>
Description: a package of the test's
"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Repository:
    """A flat Debian repository with one package, on a port of the host's loopback."""

    def __init__(self, b):
        if not shutil.which("dpkg-deb"):
            raise Skip("dpkg-deb is not installed")
        folder, tree = os.path.join(b.tmp, "repo"), os.path.join(b.tmp, "pkg")
        os.makedirs(os.path.join(tree, "DEBIAN"))
        os.makedirs(os.path.join(tree, "usr/bin"))
        os.makedirs(folder)
        with open(os.path.join(tree, "DEBIAN/control"), "w", encoding="ascii") as f:
            f.write(CONTROL)
        hello = os.path.join(tree, "usr/bin/gazda-hello")
        with open(hello, "w", encoding="ascii") as f:
            f.write("#!/bin/sh\necho installed by apt\n")
        os.chmod(hello, 0o755)
        deb = os.path.join(folder, "gazda-hello.deb")
        subprocess.run(["dpkg-deb", "--root-owner-group", "-Zxz", "-b", tree, deb], check=True, stdout=subprocess.DEVNULL)
        with open(deb, "rb") as f:
            data = f.read()
        with open(os.path.join(folder, "Packages"), "w", encoding="ascii") as f:
            f.write(CONTROL + "Filename: ./gazda-hello.deb\nSize: %d\nSHA256: %s\n" % (
                len(data), hashlib.sha256(data).hexdigest()))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.server.shutdown()
        self.server.server_close()


def try_compiler(ssh):
    out = ssh.ok("cat >/root/p.c && gcc -O2 -o /root/p /root/p.c -lm -lpthread && /root/p", 300, PROGRAM)
    if out != b"pi is about 3.1416\n":
        raise Fail("the compiled program says %r" % out)


def try_apt(b, ssh):
    with Repository(b) as repo:
        ssh.ok("rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*; "
               "echo 'deb [trusted=yes] http://10.0.2.2:%d ./' >/etc/apt/sources.list; apt-get -q update" % repo.port, 300)
        ssh.ok("DEBIAN_FRONTEND=noninteractive apt-get -q -y install gazda-hello", 300)
    if ssh.ok("gazda-hello") != b"installed by apt\n":
        raise Fail("the package is not there")


def try_copies(ssh):
    """Both ways through sshd, the kernel's network and the disk."""
    data = bytes((i * 11 + i // 256) % 251 for i in range(2 << 20))
    want = hashlib.sha256(data).hexdigest()
    if want not in ssh.ok("cat >/root/data && sync && echo 3 >/proc/sys/vm/drop_caches && sha256sum /root/data", 120,
                          data).decode():
        raise Fail("what came in by ssh differs")
    if ssh.ok("cat /root/data") != data:
        raise Fail("what came out by ssh differs")


def try_agent(b, name):
    """gazda exec through the qemu-guest-agent that Debian starts when it sees the port."""
    r = subprocess.run([b.gazda, "exec", "-n", "--wait", "120", name, "--", "sh", "-c", "systemctl is-active ssh; exit 7"],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False, timeout=300 * b.scale)
    if r.returncode != 7 or r.stdout != b"active\n":
        raise Fail("exec: status %d, %r, %r" % (r.returncode, r.stdout, r.stderr[-400:]))


def try_freeze(b, name, ssh):
    """Paused with frozen file systems nothing is written and nothing lost; afterwards the guest writes on, clock set."""
    def gazda(*args):
        r = subprocess.run([b.gazda] + list(args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                           timeout=120 * b.scale, text=True)
        if r.returncode:
            raise Fail("%s: status %d, %s" % (" ".join(args), r.returncode, r.stderr))
    gazda("pause", "--freeze", name)
    time.sleep(3)
    gazda("resume", name)
    gazda("exec", "-n", name, "--", "true")  # behind the clock
    ssh.ok("echo thawed >/root/thawed && sync")
    before, there, after = time.time(), float(ssh.ok("date +%s.%N")), time.time()
    if not before - 1 < there < after + 1:
        raise Fail("the guest's clock is off: %.1f, while it is %.1f here" % (there, after))


@case("debian:whole-system", seconds=2400)
def whole_system(b):
    """systemd brings up everything over a read-only image; ssh, apt, gcc; SIGTERM is the power button; disks keep."""
    overlay, port = os.path.join(b.tmp, "overlay.qcow2"), debian.free_port()
    before = os.stat(debian.files(b)["disk"])
    ssh = debian.Ssh(b, port)
    name = "debian-%d" % os.getpid()
    with debian.start(b, overlay, "--name", name, "--net", "user,hostfwd=tcp:127.0.0.1:%d-:22" % port) as m:
        m.expect("login: root", 600)
        m.shell(120)
        debian.running(m)
        if ssh.ok("hostname") != b"gazda-debian\n":
            raise Fail("ssh leads to another machine")
        try_agent(b, name)
        try_compiler(ssh)
        try_apt(b, ssh)
        try_copies(ssh)
        try_freeze(b, name, ssh)
        ssh.ok("echo kept >/root/kept")
        m.proc.terminate()
        m.expect("Power down", 300)
        m.ends(0, 60)
    with debian.start(b, overlay, append=" init=/bin/bash") as m:
        m.expect(r":/# ", 600)
        if "kept" not in m.ok("cat /root/kept; gazda-hello; /root/p"):
            raise Fail("the disk has lost what was written")
        if "recovering journal" in m.text or "recovery complete" in m.text:
            raise Fail("the file system was not unmounted")
        m.send("systemctl -ff poweroff\n")
        m.ends(0, 300)
    after = os.stat(debian.files(b)["disk"])
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
        raise Fail("the image below the overlay has changed")
