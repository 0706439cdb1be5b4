# SPDX-License-Identifier: MIT
"""The static benchmark program (bench/guest): building it, running it natively and in guests, reading what it prints.

Rows are given as jobs: ("rows", names), ("rows32", names), ("apps", names), ("tools", names). Whatever happens in a
guest, each name gets a Result; after a hang or a crash the guest is started again for the rows that are left.
"""
import os
import re
import shlex
import shutil
import socket
import subprocess
import tempfile

from system import APPEND, Ended, Machine, Process, TOP

RESULT = re.compile(r"^bench (\w+)=([\d.]+)(?: sum=([0-9a-f]+))?$")
WITHOUT = re.compile(r"^bench (\w+) (failed|skipped): (.*)$")
SOURCES = ("main.c", "rows.c", "compute.c", "simd.c", "system.c", "process.c", "launch.c", "tools.c", "net.c")


class Result:
    """value in ns, or None and why."""

    def __init__(self, value=None, total=None, state="ok", why=""):
        self.value, self.sum, self.state, self.why = value, total, state, why


class Program:
    """The built program in its folder, 64-bit and, where gcc can, 32-bit."""

    def __init__(self, tmp, target_ms, seconds, limit):
        self.tmp, self.target_ms, self.seconds, self.limit = tmp, target_ms, seconds, limit
        self.top = os.path.join(tmp, "program")
        os.makedirs(os.path.join(self.top, "bench"))
        self.exe = {"rows": self.compile("bench", [])}
        try:
            self.exe["rows32"] = self.compile("bench32", ["-m32"])
        except subprocess.CalledProcessError:
            pass
        self.servers = {}
        self.initrd = self.cpio("program.cpio", self.top)

    def compile(self, name, flags):
        out = os.path.join(self.top, "bench", name)
        subprocess.run(["gcc", "-std=gnu17", "-O2", "-static", "-s", "-Wall", "-Wextra", "-Werror", "-pthread"] + flags +
                       ["-I", os.path.join(TOP, "bench"), "-o", out] +
                       [os.path.join(TOP, "bench", "guest", n) for n in SOURCES] + ["-lm"], check=True,
                       stderr=subprocess.PIPE if flags else None)
        return out

    def cpio(self, name, folder):
        path = os.path.join(self.tmp, name)
        subprocess.run([os.path.join(TOP, "tools", "mkcpio"), path, folder], check=True)
        return path

    def args(self, jobs, root):
        """The command lines that do these jobs, in the order of the jobs."""
        for kind, names in jobs:
            if kind == "apps":
                yield ["bench", "apps", root, str(self.limit)] + names
            elif kind == "tools":
                yield ["bench", "tools", str(self.seconds), str(self.limit), root] + names
            else:
                yield ["bench32" if kind == "rows32" else "bench", "rows", str(self.target_ms), str(self.limit)] + names

    def native(self, jobs, setup):
        folder = os.path.join(self.top, "bench")
        script = "\n".join(folder + "/" + shlex.join(a) for a in self.args(jobs, setup.root))
        env = ["BENCH_DISK=" + setup.disk] if setup.disk else []
        env += ["%s=127.0.0.1:%s" % s for s in self.serve(setup.root)] if setup.net else []
        return Process(["env"] + env + ["sh", "-c", script])

    def serve(self, root):
        """[(variable, port)] of new servers for the network rows; iperf3 of the folder root, or none."""
        self.stop()
        server = self.servers["BENCH_NET"] = Process([self.exe["rows"], "serve"])
        ports = [("BENCH_NET", server.line(10)[0].split()[1])]
        if root:
            with socket.create_server(("127.0.0.1", 0)) as s:
                ports.append(("BENCH_IPERF", str(s.getsockname()[1])))
            libs = os.path.join(root, "usr", "lib", "x86_64-linux-gnu")
            server = self.servers["BENCH_IPERF"] = Process(
                [os.path.join(libs, "ld-linux-x86-64.so.2"), "--library-path", libs, os.path.join(root, "usr", "bin", "iperf3"),
                 "--server", "--bind", "127.0.0.1", "--port", ports[1][1], "--forceflush"])
            server.until(re.compile("Server listening"), 10)
        return ports

    def stop(self):
        for server in self.servers.values():
            server.stop()
        self.servers = {}

    def guest(self, jobs, system, setup):
        folder = tempfile.mkdtemp(dir=self.tmp)
        os.makedirs(os.path.join(folder, "bench"))
        with open(os.path.join(folder, "bench", "run"), "w", encoding="ascii") as f:
            if setup.disk:
                f.write("modprobe -q virtio_pci; modprobe -q virtio_blk; while [ ! -b /dev/vda ]; do sleep 0.1; done\n")
            if setup.net:
                f.write("modprobe -q virtio_pci; modprobe -q virtio_net; while [ ! -e /sys/class/net/eth0 ]; do sleep 0.1; done\n"
                        "ip addr add 10.0.2.15/24 dev eth0 2>/dev/null; ip link set eth0 up; sleep 1\n")
                f.writelines("export %s=10.0.2.2:%s\n" % s for s in self.serve(setup.root))
            f.writelines("/bench/" + " ".join(a) + "\n" for a in self.args(jobs, "/bench/root"))
        initrds = [setup.appliance] + setup.initrds + [self.initrd, self.cpio("run.cpio", folder)]
        shutil.rmtree(folder)
        m = Machine(setup.kernel, initrds, APPEND + " quiet gazda.run=/bench/run", setup.cpus, setup.mem)
        m.disk, m.net = setup.disk, setup.net
        return Process(m.command(system, setup.gazda, self.tmp))


class Setup:
    """What a set of rows runs in: gazda, the kernel and the appliance's initrd (filled in for guests), initrds besides it,
    size; natively too, the folder of the system that tools and apps are of, a disk's image, whether there is a network."""

    def __init__(self, initrds, cpus=1, mem=512, root=None, disk=None, net=False):
        self.gazda, self.kernel, self.appliance = None, None, None
        self.initrds, self.cpus, self.mem = initrds, cpus, mem
        self.root, self.disk, self.net = root, disk, net


def watch(process, limit, got):
    """Reads results into got; yields, at each job's end, its time by the program's clock and by the host's, in ns.

    Raises Ended, whose row is the one that was running, or None.
    """
    row, begin, wait = None, None, limit + 30
    while True:
        try:
            line, at = process.line(wait)
        except Ended as e:
            e.row = row
            raise
        if not line.startswith("bench "):
            continue
        wait = limit + 20
        m, w = RESULT.match(line), WITHOUT.match(line)
        if line.startswith("bench row "):
            row = line.split()[2]
        elif w:
            got[w.group(1)] = Result(state=w.group(2), why=w.group(3))
            row = None
        elif m and m.group(1) == "begin":
            begin = (float(m.group(2)), at)
        elif m and m.group(1) == "end":
            yield float(m.group(2)) - begin[0], (at - begin[1]) * 1e9
        elif m:
            got[m.group(1)] = Result(float(m.group(2)), m.group(3))
            row = None


def one_start(start, jobs, limit, got):
    """One start of the program or a guest. None when all jobs came to their end, else the Ended that tells why."""
    process = None
    try:
        process = start(jobs)
        for n, (guest, host) in enumerate(watch(process, limit, got), 1):
            if abs(guest - host) > 0.05 * host + 2e8:
                for name in jobs[n - 1][1]:
                    got[name] = Result(state="failed", why="the guest's clock counted %.2f s, the host's %.2f s" %
                                       (guest / 1e9, host / 1e9))
            if n == len(jobs):
                break
    except Ended as e:
        return e
    finally:
        if process:
            process.stop()
    return None


def run(start, jobs, limit):
    """{name: Result} of all jobs; start(jobs) starts the program or a guest with what is to do."""
    got = {}
    while jobs:
        before = len(got)
        ended = one_start(start, jobs, limit, got)
        if "all" in got:
            why = got.pop("all").why
        elif not ended:
            why = "no result was printed"
        elif ended.row:
            got[ended.row] = Result(state="failed", why=str(ended))
        if not ended or len(got) == before:
            why = str(ended) if ended else why
            for _, names in jobs:
                got.update((n, Result(state="failed", why=why)) for n in names if n not in got)
        jobs = [(k, left) for k, names in jobs for left in [[n for n in names if n not in got]] if left]
    return got
