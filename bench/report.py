# SPDX-License-Identifier: MIT
"""The table and the groups' summary.

table: {column: {row: median}}; trouble: {column: {row: (state, why)}} of the cells that have no value.
"""
import math

from rows import GROUPS, ROWS


def geomean(values):
    return math.exp(sum(math.log(v) for v in values) / len(values)) if values else None


def number(v):
    return "%.0f" % v if v >= 1000 else "%.3g" % v


def engines_of(columns):
    return [c for c in columns if c not in ("native", "tcg")]


class Report:
    def __init__(self, columns, keys, table, trouble):
        self.columns, self.table, self.trouble = columns, table, trouble
        self.rows = [r for r in ROWS if r.key in keys]
        self.engines = engines_of(columns)

    def value(self, column, row):
        return self.table.get(column, {}).get(row.key)

    def ratio(self, row, above, below):
        if row.unit == "x":
            return None
        a, b = self.value(above, row), self.value(below, row)
        return a / b if a and b else None

    def cell(self, column, row):
        v = self.value(column, row)
        if v is None:
            return self.trouble.get(column, {}).get(row.key, ("-",))[0]
        over = self.ratio(row, column, "native") if column != "native" else None
        return number(v * row.factor) + (" (%sx)" % number(over) if over else "")

    def speed_up(self, engine, row):
        r = self.ratio(row, "tcg", engine)
        return "-" if r is None else "%.2fx%s" % (r, " slower" if r < 1 and row.counted else "")

    def lines(self):
        versus = self.engines if "tcg" in self.columns else []
        head = "%-26s %-15s" % ("", "") + "".join("%18s" % c for c in self.columns)
        yield head + "".join("%18s" % ("tcg/" + e) for e in versus)
        group = None
        for row in self.rows:
            if row.group != group:
                group = row.group
                yield next(g.title for g in GROUPS if g.key == group)
            line = "  %-24s %-15s" % (row.title, row.unit) + "".join("%18s" % self.cell(c, row) for c in self.columns)
            yield line + "".join("%18s" % self.speed_up(e, row) for e in versus)

    def group(self, engine, group):
        """What the summary says of an engine in a group; None where there is nothing to compare."""
        rows = [r for r in self.rows if r.group == group.key and r.counted]
        native = [v for v in (self.ratio(r, engine, "native") for r in rows) if v]
        tcg = [(v, r) for v, r in ((self.ratio(r, "tcg", engine), r) for r in rows) if v]
        least = min(tcg, key=lambda x: x[0]) if tcg else (None, None)
        got = {
            "native": geomean(native), "tcg": geomean([v for v, _ in tcg]), "least": least[0],
            "least_row": least[1].key if least[1] else None, "without": sum(1 for r in rows if not self.value(engine, r)),
            "scaling": self.table.get(engine, {}).get("scaling") if group.scaling else None,
        }
        got["passed"] = {
            k: ok for k, ok in (("native", group.native and got["native"] and got["native"] <= group.native),
                                ("tcg", group.tcg and got["tcg"] and got["tcg"] >= group.tcg),
                                ("scaling", group.scaling and got["scaling"] and got["scaling"] >= group.scaling))
            if getattr(group, k) and got[k]}
        return got

    def summary(self):
        """{engine: {group: what group() says}} of the groups that were measured."""
        keys = {r.group for r in self.rows}
        return {e: {g.key: self.group(e, g) for g in GROUPS if g.key in keys} for e in self.engines}

    def summary_lines(self):
        def against(got, key, bar, sign):
            if got[key] is None:
                return "-"
            text = "%.2fx" % got[key]
            return text + " (%s %.1fx %s)" % (sign, bar, "ok" if got["passed"][key] else "MISSED") if bar else text

        yield "%-10s %-22s%26s%26s   %s" % ("engine", "group", "over native", "faster than TCG", "least against TCG")
        for engine, groups in self.summary().items():
            for g in GROUPS:
                got = groups.get(g.key)
                if not got:
                    continue
                least = "-" if got["least"] is None else "%.2fx %s" % (got["least"], got["least_row"])
                if g.scaling:
                    least += "; 4 CPUs over 1: " + against(got, "scaling", g.scaling, ">=")
                if got["without"]:
                    least += "; %d without a value" % got["without"]
                yield "%-10s %-22s%26s%26s   %s" % (engine, g.title, against(got, "native", g.native, "<="),
                                                    against(got, "tcg", g.tcg, ">="), least)

    def reasons(self):
        for column in self.columns:
            for row, (state, why) in self.trouble.get(column, {}).items():
                yield "%s, %s %s: %s" % (row, column, state, why)

    def show(self):
        print()
        for line in self.lines():
            print(line.rstrip())
        print("\n(N.Nx): times the native time. tcg/ENGINE: how many times faster than QEMU's TCG.")
        if self.engines:
            print("\nGeometric means by group, and the bar beside them:")
            for line in self.summary_lines():
                print(line.rstrip())
        slower = [(e, r) for e in self.engines for r in self.rows
                  if r.counted and (self.ratio(r, "tcg", e) or 1) < 1]
        if "tcg" in self.columns:
            for e in self.engines:
                names = [r.key for x, r in slower if x == e]
                print("%s: %s" % (e, "slower than TCG: " + " ".join(names) if names else "no row slower than TCG"))
        why = list(self.reasons())
        if why:
            print("\nWithout a value:")
            for line in why:
                print("  " + line)
