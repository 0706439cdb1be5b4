# SPDX-License-Identifier: MIT
"""The list of cases."""

CASES = []


class Case:
    def __init__(self, name, fn, args, seconds, alone, modes, nightly):
        self.name, self.fn, self.args, self.seconds = name, fn, args, seconds
        self.alone, self.modes, self.nightly = alone, modes, nightly

    def runs_in(self, mode, nightly):
        return (mode in self.modes or (nightly and mode == "rel")) and (nightly or not self.nightly)


def add(name, fn, *args, seconds=600, alone=False, modes=("rel",), nightly=False):
    """nightly: only in the long run. alone: the host must not be shared with another test meanwhile."""
    CASES.append(Case(name, fn, args, seconds, alone, modes, nightly))


def case(name, **kw):
    def wrap(fn):
        add(name, fn, **kw)
        return fn

    return wrap
