# SPDX-License-Identifier: MIT
"""The command line's contract: exit statuses, options, statistics, users."""
import json
import os
import pwd
import re
import shutil
import subprocess
import time

from machine import Fail, Skip
from registry import add, case


def call(b, *args, seconds=60, **kw):
    return subprocess.run([b.gazda] + list(args), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          stdin=subprocess.DEVNULL, timeout=seconds * b.scale, text=True, check=False, **kw)


@case("cli:version")
def version(b):
    r = call(b, "--version")
    if r.returncode or not r.stdout.startswith("gazda ") or r.stdout.count("\n") != 1 or r.stderr:
        raise Fail("--version: status %d, %r, %r" % (r.returncode, r.stdout, r.stderr))


@case("cli:help")
def help_(b):
    listed = re.findall(r"^  gazda (\w+)", call(b, "help").stdout, re.M)
    if "run" not in listed or "stop" not in listed:
        raise Fail("gazda help lists %r" % listed)
    for args in [["help"]] + [a for c in listed if c != "help" for a in (["help", c], [c, "--help"])]:
        r = call(b, *args)
        if r.returncode or "usage: gazda" not in r.stdout or r.stderr:
            raise Fail("%s: status %d, %r" % (args, r.returncode, r.stderr))


# Options whose short form is what gazda(1) shows.
SHORT_IN_MAN = {"--format", "--output", "--backing", "--backing-format", "--compress", "--quiet",
                "--no-stdin"}

COMPLETE = r"""
source "$1"; shift
compopt() { :; }
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _gazda; printf '%s\n' "${COMPREPLY[@]}"
"""


def completed(b, *words):
    """What bash's completion makes of a line; the last word is the one that is begun."""
    r = subprocess.run(["bash", "-c", COMPLETE, "bash", os.path.join(b.top, "tools", "gazda.bash")] + list(words),
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
                       env=dict(os.environ, PATH=os.path.dirname(b.gazda) + ":" + os.environ["PATH"]))
    if r.stderr:
        raise Fail("completion of %r: %s" % (words, r.stderr))
    return set(r.stdout.split())


def options_of_help(text):
    """The long options at the beginnings of lines, also several on one."""
    found = set()
    for line in re.findall(r"^ +(?:-\w, |build )?(--[a-z].*)", text, re.M):
        head = re.split(r"  +", line)[0]
        found |= set(re.findall(r"--[a-z][a-z0-9-]*", head))
    return found


def man_section(text, begin, end):
    at = text.index(begin)
    return set("--" + o for o in re.findall(r"Fl -([a-z][a-z0-9-]*)", text[at:text.index(end, at)]))


@case("cli:options")
def options(b):
    """gazda help, gazda(1) and the completion know the same subcommands and options."""
    with open(os.path.join(b.top, "docs", "gazda.1"), encoding="utf-8") as f:
        man = f.read()
    listed = set(re.findall(r"^  gazda (\w+)", call(b, "help").stdout, re.M))
    if completed(b, "gazda", "") != listed | {"--version"}:
        raise Fail("completion has the subcommands %r" % sorted(completed(b, "gazda", "")))
    if completed(b, "gazda", "help", "") != listed - {"help"}:
        raise Fail("completion of help has %r" % sorted(completed(b, "gazda", "help", "")))
    if not listed <= set(re.findall(r"^\.Cm (\w+)", man, re.M)):
        raise Fail("the man page's synopsis lacks %r" % (listed - set(re.findall(r"^\.Cm (\w+)", man, re.M))))
    if completed(b, "gazda", "appliance", "run", "x", "-") != completed(b, "gazda", "run", "-"):
        raise Fail("completion: appliance run does not have the options of run")
    sections = {"run": (".Bl -tag", ".El"), "image": (".Sh DISK IMAGES", ".Ss Running"), "ps": (".It Cm ps", ".It Cm console"),
                "exec": (".It Cm exec", ".It Cm cp"), "stop": (".It Cm stop", ".It Cm pause"),
                "pause": (".It Cm pause", ".It Cm resume"), "appliance": (".Sh APPLIANCES", ".Sh ENV")}
    for c in sorted(listed - {"help"}):
        want = options_of_help(call(b, "help", c).stdout)
        by_tab = set()
        words = re.findall(r"^(?:usage:|      ) gazda %s ([a-z]+)" % c, call(b, "help", c).stdout, re.M)
        words += ["build", "import", "export"] if c == "appliance" else []
        for verb in ([[w] for w in words] or [[]]):
            by_tab |= {w for w in completed(b, "gazda", c, *verb, "-") if w.startswith("--")}
        if want != by_tab - {"--help"}:
            raise Fail("%s: only help or only completion has %s" % (c, ", ".join(sorted(want ^ (by_tab - {"--help"})))))
        in_man = man_section(man, *sections[c]) if c in sections else set()
        if c in sections and want - SHORT_IN_MAN != in_man - SHORT_IN_MAN:
            raise Fail("%s: only help or only gazda(1) has %s" % (c, ", ".join(sorted(want ^ in_man))))


@case("cli:mem", seconds=60)
def mem(b):
    """A wrong size is told with its option."""
    for size in ("0", "1", "-1", "1.5G", "", "16E"):
        r = call(b, "run", "--mem", size)
        if r.returncode != 1 or not r.stderr.startswith("gazda: --mem: ") or r.stderr.count("\n") != 1:
            raise Fail("--mem %r: status %d, %r" % (size, r.returncode, r.stderr))


@case("cli:full")
def full(b):
    """What could not be written is not told as done."""
    for args in (["help", "run"], ["--version"], ["run", "--help"]):
        with open("/dev/full", "w", encoding="ascii") as f:
            r = subprocess.run([b.gazda] + args, stdout=f, stderr=subprocess.PIPE, check=False, text=True, timeout=60)
        if r.returncode != 1 or "No space left" not in r.stderr:
            raise Fail("%s: status %d, %r" % (args, r.returncode, r.stderr))


@case("cli:bad-option", modes=("rel", "asan"))
def bad_option(b):
    """What is refused is named as it was written, wherever it stands; what is wrong with it too."""
    for args, want in ((("run", "-xh"), "unknown option -x;"), (("run", "--mem", "1G", "-xh"), "unknown option -x;"),
                       (("run", "--verify=1"), "--verify takes no value"), (("run", "--disk"), "--disk needs a value"),
                       (("run", "--bogus=1"), "unknown option --bogus=1;"), (("ps", "-qz"), "unknown option -z;"),
                       (("image", "resize", "a", "-1M"), "unknown option -1;"), (("stop", "-ft"), "-t needs a value"),
                       (("appliance", "build", "--bogus"), "unknown option --bogus;"),
                       (("appliance", "import", "--name"), "--name needs a value"),
                       (("exec", "-nz", "a"), "unknown option -z;"), (("pause", "--freeze=1", "a"), "--freeze takes no value")):
        r = call(b, *args)
        if r.returncode != 1 or r.stdout or want not in r.stderr or r.stderr.count("\n") != 1:
            raise Fail("%s: status %d, %r" % (args, r.returncode, r.stderr))


def debug_exit(b, value):
    with b.start("--kernel", b.guest("debugexit", "-DVALUE=%d" % value), "--debug-exit", "--mem", "16M") as m:
        m.expect("debug exit", 30)
        m.ends((value << 1 | 1) & 0xFF)


for v in (0, 1, 21, 127):
    add("cli:debug-exit:%d" % v, debug_exit, v, seconds=120, modes=("rel", "asan"))


@case("cli:no-debug-exit", seconds=120)
def no_debug_exit(b):
    """Without the option port 0xf4 is a hole: the guest goes on."""
    with b.start("--kernel", b.guest("debugexit", "-DVALUE=5"), "--mem", "16M") as m:
        m.expect("still here", 30)
        m.proc.terminate()
        m.wait(30)


@case("cli:triple-fault", seconds=120, modes=("rel", "asan"))
def triple(b):
    with b.start("--kernel", b.guest("triple"), "--no-reboot", "--mem", "16M") as m:
        m.expect("before", 30)
        m.ends(3)
        if m.stderr().count("\n") != 1 or "triple fault" not in m.stderr().lower():
            raise Fail("stderr does not report the triple fault in one line: %r" % m.stderr())


@case("cli:triple-fault:restarts", seconds=120)
def triple_restarts(b):
    with b.start("--kernel", b.guest("triple"), "--mem", "16M") as m:
        for _ in range(3):
            m.expect("before", 30)
        m.proc.terminate()
        if m.wait(30) < 0:
            raise Fail("SIGTERM killed gazda rather than ended it")


TRANSLATE_KEYS = {
    "blocks", "translated_instructions", "code_bytes", "code_memory", "evictions", "dropped_blocks", "links", "lookups",
    "entries", "kicks", "tlb_misses", "tlb_fills", "tlb_flushes", "missed_by_reason", "windows",
    "host_faults", "interpreted", "missed_to_interpreter", "interpreted_by_opcode", "done_in_c_by_opcode",
}


@case("cli:stats")
def stats(b):
    path = os.path.join(b.tmp, "stats.json")
    disk = os.path.join(b.tmp, "disk.img")
    with open(disk, "wb") as f:
        f.truncate(1 << 20)
    with b.boot("--cpus", "2", "--stats", path, "--disk", disk, "--net", "none", flavour="cloud-amd64") as m:
        m.shell()
        m.run("modprobe virtio_blk; dd if=/dev/vda of=/dev/null bs=64k count=4")
        m.poweroff()
    with open(path, encoding="utf-8") as f:
        s = json.load(f)
    checks = [
        ("two CPUs", len(s["cpus"]) == 2),
        ("instructions", s["total"]["interpreted_instructions"] > (10_000_000 if s["engine"] == "interp" else 10_000)),
        ("the sum", s["total"]["interpreted_instructions"] == sum(c["interpreted_instructions"] for c in s["cpus"])),
        ("PIO exits", s["total"]["exits"]["pio"] > 1000),
        ("page faults", s["total"]["faults"].get("14", 0) > 100),
        ("granted memory", s["memory"]["granted_bytes"] == 512 << 20),
        ("touched memory", 32 << 20 < s["memory"]["touched_bytes"] <= 512 << 20),
        ("engine", s["engine"] in ("interp", "translate")),
        ("virtio devices", [v["device"] for v in s["virtio"]][:2] == ["virtio-blk", "virtio-net"]),
        ("disk reads", s["virtio"][0]["reads"] >= 4 and s["virtio"][0]["read_bytes"] >= 256 << 10),
        ("disk interrupts", s["virtio"][0]["interrupts"] > 0 and s["virtio"][0]["notifications"] > 0),
        ("no errors", s["virtio"][0]["errors"] == 0 and not any(v["broken_rules"] for v in s["virtio"])),
    ]
    if s["engine"] == "translate":
        t = s["translate"]
        missing = TRANSLATE_KEYS - t.keys()
        if missing:
            raise Fail("--stats: translate has no %s" % ", ".join(sorted(missing)))
        memory = t["code_memory"]
        checks += [
            ("translation", t["translated_instructions"] > 10_000),
            ("code memory", 1 << 20 < memory["used"] <= memory["total"]),
            ("TLB fills", 1000 < t["tlb_fills"] <= t["tlb_misses"]),
            ("calls by opcode", t["interpreted_by_opcode"].get("out", 0) > 1000),
            ("calls of C by opcode", t["done_in_c_by_opcode"].get("iretq", 0) > 10),
            ("devices are no RAM", t["missed_by_reason"]["no_ram"] > 10),
        ]
    for what, good in checks:
        if not good:
            raise Fail("--stats: %s: %s" % (what, json.dumps(s)[:800]))


@case("cli:initrds")
def initrds(b):
    """Several initrds are concatenated: the second brings a file, which gazda.run= executes."""
    root = os.path.join(b.tmp, "root")
    os.makedirs(root)
    with open(os.path.join(root, "hello"), "w", encoding="ascii") as f:
        f.write("echo hello from the $((1 + 1))nd\n")
    extra = os.path.join(b.tmp, "extra")
    subprocess.run([os.path.join(b.top, "tools", "mkcpio"), extra, root], check=True)
    with b.boot("--initrd", extra, "--append", "console=ttyS0 gazda.run=/hello", flavour="cloud-amd64") as m:
        m.expect("hello from the 2nd", 300)
        m.ends(0)


@case("cli:signal", seconds=120)
def terminated(b):
    """SIGTERM ends the machine in order: statistics are written."""
    path = os.path.join(b.tmp, "stats.json")
    with b.start("--kernel", b.guest("debugexit", "-DVALUE=5"), "--mem", "16M", "--stats", path) as m:
        m.expect("still here", 30)
        m.proc.terminate()
        m.ends(128 + 15)
    with open(path, encoding="utf-8") as f:
        json.load(f)


@case("cli:idle", alone=True)
def idle(b):
    """An idle guest costs under 2 % of a core: the least of several windows, since the host may be busy with others."""
    best = 1.0
    with b.boot("--cpus", "2", flavour="cloud-amd64") as m:
        m.shell()
        time.sleep(15)
        for _ in range(6):
            cpu, wall = m.cpu_seconds(), time.monotonic()
            end = wall + 5
            while time.monotonic() < end:
                m.pump(end - time.monotonic())
            best = min(best, (m.cpu_seconds() - cpu) / (time.monotonic() - wall))
            if best < 0.02:
                break
        if best >= 0.02:
            raise Fail("an idle guest with 2 CPUs takes %.1f %% of a core" % (100 * best))
        m.poweroff()


@case("appliance", seconds=900)
def appliance(b):
    """gazda run alone."""
    if not os.path.exists(os.path.join(b.top, "out", "cache", "kernels", "amd64", "vmlinuz")):
        b.kernel("amd64", "bz")
    with b.start() as m:
        m.shell(600)
        if "Linux gazda" not in m.ok("uname -a"):
            raise Fail("uname -a: %s" % m.text[-200:])
        m.poweroff()


@case("appliance:ordinary-user", seconds=900)
def ordinary_user(b):
    """An installed gazda, run by nobody: the appliance is built from cached packages and boots."""
    if os.getuid() != 0:
        raise Skip("needs root to become another user")
    cache = os.environ.get("GAZDA_CACHE", os.path.join(b.top, "out", "cache"))
    b.kernel("amd64", "bz")
    subprocess.run(["make", "-s", "-C", b.top, "install", "DESTDIR=" + b.tmp, "PREFIX=/usr", "MODE=" + b.mode],
                   check=True, stdout=subprocess.DEVNULL)
    home = os.path.join(b.tmp, "home")
    debs = os.path.join(home, "gazda", "deb")
    os.makedirs(debs)
    for n in os.listdir(os.path.join(cache, "deb")):
        if n.startswith(("linux-image-amd64", "busybox-static")) or n.endswith("-amd64_amd64.deb") or \
                ("-amd64_" in n and "cloud" not in n):
            shutil.copy(os.path.join(cache, "deb", n), debs)
    nobody = pwd.getpwnam("nobody")
    for base, _, names in os.walk(home):
        for n in [""] + names:
            os.chown(os.path.join(base, n), nobody.pw_uid, nobody.pw_gid)
    os.chmod(b.tmp, 0o755)
    env = {"PATH": os.environ["PATH"], "HOME": home, "XDG_CACHE_HOME": home}
    b.gazda = os.path.join(b.tmp, "usr", "bin", "gazda")
    with b.start(env=env, prefix=["runuser", "-u", "nobody", "--"]) as m:
        m.shell(600)
        m.ok("uname -a")
        m.poweroff()
        if "ready" not in m.stderr():
            raise Fail("the appliance was not built by the run: %s" % m.stderr())
