# SPDX-License-Identifier: MIT
"""A whole Debian system from its disk: the way to a login prompt, and what it does there."""
import debian
from machine import Fail
from registry import case


@case("debian:boot", seconds=1500)
def boot(b):
    """systemd brings up everything, nothing fails; what was written is there after the power was off."""
    disk = debian.raw(b)
    with debian.start(b, disk) as m:
        m.expect("login: root", 600)
        m.shell(120)
        debian.running(m)
        m.ok("echo kept >/root/kept")
        m.send("systemctl poweroff\n")
        m.ends(0, 300)
    with debian.start(b, disk) as m:
        m.shell(600)
        if "kept" not in m.ok("cat /root/kept"):
            raise Fail("the disk has lost what was written")
        if "recovering journal" in m.text:
            raise Fail("the file system was not unmounted")
        m.send("systemctl poweroff\n")
        m.ends(0, 300)
