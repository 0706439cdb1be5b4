# SPDX-License-Identifier: MIT
"""What is measured: the host itself, and machines of gazda and QEMU, started with the same kernel and initrds."""
import os
import re
import select
import shutil
import signal
import subprocess
import time

TOP = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
APPEND = "console=ttyS0 panic=-1"
PROMPT = re.compile(r"gazda:\S*# ")


class Ended(Exception):
    """The process went away, or was silent for too long."""
    row = None  # the benchmark's row that was running


class Process:
    """A process whose output is read; its whole process group ends with it."""

    def __init__(self, argv):
        self.begin = time.monotonic()
        self.text, self.at = "", 0
        self.proc = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                     start_new_session=True)

    def more(self, end):
        """Reads what comes before the monotonic time end."""
        left = end - time.monotonic()
        if left <= 0 or not select.select([self.proc.stdout], [], [], left)[0]:
            raise Ended("silence; the last words: %r" % self.text[-200:])
        data = os.read(self.proc.stdout.fileno(), 65536)
        if not data:
            raise Ended("it ended; the last words: %r" % (self.text[-200:] + self.complaint()))
        self.text += data.decode(errors="replace")

    def complaint(self):
        if select.select([self.proc.stderr], [], [], 0.2)[0]:
            return os.read(self.proc.stderr.fileno(), 2000).decode(errors="replace")
        return ""

    def until(self, pattern, seconds):
        end = time.monotonic() + seconds
        while not pattern.search(self.text):
            self.more(end)
        return time.monotonic() - self.begin

    def line(self, seconds):
        """The next whole line, and when it had come."""
        end = time.monotonic() + seconds
        while "\n" not in self.text[self.at:]:
            self.more(end)
        stop = self.text.index("\n", self.at)
        line = self.text[self.at:stop].rstrip("\r")
        self.at = stop + 1
        return line, time.monotonic()

    def status(self, key):
        """A line of /proc/PID/status, in bytes."""
        with open("/proc/%d/status" % self.proc.pid, encoding="ascii") as f:
            return int(re.search(key + r":\s+(\d+) kB", f.read()).group(1)) << 10

    def stop(self):
        try:
            os.killpg(self.proc.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.proc.wait()
        for f in (self.proc.stdin, self.proc.stdout, self.proc.stderr):
            f.close()


class Machine:
    """How to start a guest: files, and what of the machine differs from 1 CPU and 512 MiB."""

    def __init__(self, kernel, initrds, append=APPEND, cpus=1, mem=512, qemu="pc"):
        self.kernel, self.initrds, self.append = kernel, initrds, append
        self.cpus, self.mem, self.qemu = cpus, mem, qemu
        self.disk = None  # a raw image
        self.net = False  # a user-mode network

    def command(self, system, gazda, tmp):
        if system == "tcg":
            return self.qemu_command(tmp)
        argv = [gazda, "run", "--engine", system, "--mem", "%dM" % self.mem, "--cpus", str(self.cpus), "--no-reboot",
                "--kernel", self.kernel, "--append", self.append]
        for i in self.initrds:
            argv += ["--initrd", i]
        return argv + (["--disk", self.disk] if self.disk else []) + (["--net", "user"] if self.net else [])

    def qemu_command(self, tmp):
        joined = os.path.join(tmp, "initrd")
        with open(joined + ".new", "wb") as out:
            for i in self.initrds:
                with open(i, "rb") as f:
                    shutil.copyfileobj(f, out)
        os.replace(joined + ".new", joined)
        # Guest RAM in a memfd, as gazda has it, so that it can be told from QEMU's own memory.
        ram = "memory-backend-memfd,id=ram,size=%dM,share=on" % self.mem
        thread = "tcg,thread=multi" if self.cpus > 1 else "tcg"
        drive = ["-drive", "if=none,id=disk,format=raw,file=" + self.disk,
                 "-device", "virtio-blk-pci,drive=disk"] if self.disk else []
        drive += ["-netdev", "user,id=net", "-device", "virtio-net-pci,netdev=net"] if self.net else []
        return ["qemu-system-x86_64", "-accel", thread, "-cpu", "max", "-smp", str(self.cpus), "-m", str(self.mem),
                "-machine", self.qemu + ",memory-backend=ram", "-object", ram, "-display", "none", "-nodefaults",
                "-serial", "stdio", "-no-reboot", "-kernel", self.kernel, "-initrd", joined, "-append", self.append] + drive


def boot(machine, system, gazda, limit, tmp):
    """(seconds to the prompt, which must come before limit; bytes over the guest's own memory)."""
    p = Process(machine.command(system, gazda, tmp))
    try:
        seconds = p.until(PROMPT, limit)
        time.sleep(2)
        return seconds, p.status("VmRSS") - p.status("RssShmem")
    finally:
        p.stop()


def accepts(gazda, engine):
    """Whether this gazda has an engine of that name."""
    r = subprocess.run([gazda, "run", "--engine", engine, "--kernel", "/nonexistent"], stdin=subprocess.DEVNULL,
                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    return "unknown engine" not in r.stderr
