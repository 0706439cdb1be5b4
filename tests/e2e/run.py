#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""End-to-end tests: whole machines.

    tests/e2e/run.py [--gazda BIN] [--mode MODE] [--nightly] [--list] [CASE...]

Prints TAP. --list prints "NAME SECONDS alone|shared" of the cases of this mode for tools/testrun: the most that a case
may take, and whether it must not share the host with another. Cases are functions in cases_*.py with @case; they get a
Bench, and raise Fail or Skip. Consoles are kept in out/check/e2e/.
"""
import argparse
import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import traceback

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from machine import Fail, Machine, Skip  # noqa: E402
import registry  # noqa: E402
import cases_9p  # noqa: E402,F401
import cases_appliance  # noqa: E402,F401
import cases_balloon  # noqa: E402,F401
import cases_boot  # noqa: E402,F401
import cases_cli  # noqa: E402,F401
import cases_debian  # noqa: E402,F401
import cases_control  # noqa: E402,F401
import cases_device  # noqa: E402,F401
import cases_direct  # noqa: E402,F401
import cases_gdb  # noqa: E402,F401
import cases_hostile  # noqa: E402,F401
import cases_image  # noqa: E402,F401
import cases_net  # noqa: E402,F401
import cases_safety  # noqa: E402,F401
import cases_smp  # noqa: E402,F401
import cases_soak  # noqa: E402,F401
import cases_trace  # noqa: E402,F401
import cases_virtio  # noqa: E402,F401
import cases_vsock  # noqa: E402,F401

TOP = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))


class Bench:
    """What a case works with."""

    def __init__(self, gazda, mode, name, nightly=False):
        self.gazda, self.mode, self.nightly, self.top = os.path.abspath(gazda), mode, nightly, TOP
        # How much longer than the plain build everything may take.
        # How much longer than on an idle host all may take: the host may be busy with others.
        self.scale = {"rel": 4.0, "dbg": 4.0, "asan": 8.0, "tsan": 12.0}[mode]
        self.tmp = tempfile.mkdtemp(prefix="gazda-e2e-")
        out = os.path.join(TOP, "out", "check", "e2e")
        os.makedirs(out, exist_ok=True)
        self.log = os.path.join(out, "%s-%s.console" % (mode, name.replace(":", "-").replace("/", "-")))
        if os.path.exists(self.log):
            os.unlink(self.log)

    def cleanup(self):
        shutil.rmtree(self.tmp, ignore_errors=True)

    def file(self, name, content=b""):
        path = os.path.join(self.tmp, name)
        with open(path, "wb") as f:
            f.write(content)
        return path

    def kernel(self, flavour, form):
        """(kernel, initrd, version) of a stock kernel that tools/fetch-kernels has fetched."""
        cache = os.environ.get("GAZDA_CACHE", os.path.join(TOP, "out", "cache"))
        folder = os.path.join(cache, "kernels", flavour)
        paths = [os.path.join(folder, f) for f in ("vmlinux" if form == "pvh" else "vmlinuz", "initrd", "version")]
        for p in paths:
            if not os.path.exists(p):
                raise Skip("no %s (tools/fetch-kernels could not fetch it: no network?)" % os.path.relpath(p, TOP))
        with open(paths[2], encoding="ascii") as f:
            return paths[0], paths[1], f.read().strip()

    def start(self, *args, **kw):
        return Machine([self.gazda, "run"] + list(args), self.log, self.scale, **kw)

    def boot(self, *args, flavour="amd64", form="bz", **kw):
        kernel, initrd, _ = self.kernel(flavour, form)
        return self.start("--kernel", kernel, "--initrd", initrd, *args, **kw)

    def guest(self, name, *flags):
        """Builds tests/e2e/guest/NAME.S into a multiboot kernel."""
        out = os.path.join(self.tmp, name)
        src = os.path.join(TOP, "tests", "e2e", "guest", name + ".S")
        # -n: the segment begins with the text, not with the ELF header on the page below.
        link = "-Wl,-Ttext=0x100000,--build-id=none,-z,noexecstack,-n"
        r = subprocess.run(["gcc", "-m32", "-nostdlib", "-static", "-no-pie", link, "-o", out, src] + list(flags),
                           stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if r.returncode != 0:
            raise Fail("gcc %s: %s" % (src, r.stdout[-400:]))
        return out

    def guest64(self, name, *flags):
        """Builds tests/e2e/guest/NAME.c, 64-bit code behind long.S, into a multiboot kernel (32-bit ELF, as it wants)."""
        out = os.path.join(self.tmp, name)
        folder = os.path.join(TOP, "tests", "e2e", "guest")
        steps = [["gcc", "-m64", "-O2", "-std=gnu17", "-ffreestanding", "-fno-pic", "-fno-stack-protector",
                  "-fno-asynchronous-unwind-tables", "-mno-red-zone", "-mgeneral-regs-only", "-Wall", "-Wextra",
                  "-nostdlib", "-static", "-no-pie", "-Wl,-N,-Ttext=0x100000,-z,noexecstack,--build-id=none",
                  "-o", out + ".64", os.path.join(folder, "long.S"), os.path.join(folder, name + ".c")] + list(flags),
                 ["objcopy", "-O", "elf32-i386", out + ".64", out]]
        for argv in steps:
            r = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
            if r.returncode != 0:
                raise Fail("%s: %s" % (" ".join(argv), r.stdout[-400:]))
        return out


def run_case(args, c):
    bench = Bench(args.gazda, args.mode, c.name, args.nightly)
    try:
        c.fn(bench, *c.args)
        return "ok", ""
    except Skip as e:
        return "ok", " # SKIP %s" % e
    except Fail as e:
        return "not ok", "\n# " + str(e).replace("\n", "\n# ")
    except Exception:  # pylint: disable=broad-except
        return "not ok", "\n# " + traceback.format_exc().strip().replace("\n", "\n# ")
    finally:
        bench.cleanup()


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("--gazda", default="out/gazda")
    ap.add_argument("--mode", default="rel")
    ap.add_argument("--nightly", action="store_true")
    ap.add_argument("--list", action="store_true")
    ap.add_argument("case", nargs="*")
    args = ap.parse_args()
    cases = [c for c in registry.CASES if args.case or c.runs_in(args.mode, args.nightly)]
    if args.list:
        for c in cases:
            print(c.name, int(c.seconds * (4 if args.mode == "rel" else 8)), "alone" if c.alone else "shared")
        return 0
    if args.case:
        unknown = set(args.case) - {c.name for c in cases}
        if unknown:
            sys.exit("run.py: no case %s" % ", ".join(sorted(unknown)))
        cases = [c for c in cases if c.name in args.case]
    # Machines are found by name: not those of the user, and none of a run that was killed.
    os.environ["XDG_RUNTIME_DIR"] = runtime = tempfile.mkdtemp(prefix="gazda-run-")
    atexit.register(shutil.rmtree, runtime, True)
    print("1..%d" % len(cases))
    failed = 0
    for n, c in enumerate(cases, 1):
        verdict, rest = run_case(args, c)
        failed += verdict != "ok"
        print("%s %d - %s%s" % (verdict, n, c.name, rest), flush=True)
    return 1 if failed else 0


sys.exit(main())
