# SPDX-License-Identifier: MIT
# Classes, dictionaries, strings, generators, big integers, JSON and regular expressions.
import json
import re


class Node:
    def __init__(self, key):
        self.key, self.left, self.right = key, None, None

    def add(self, key):
        at = self
        while True:
            side = "left" if key < at.key else "right"
            below = getattr(at, side)
            if below is None:
                setattr(at, side, Node(key))
                return
            at = below

    def walk(self):
        if self.left:
            yield from self.left.walk()
        yield self.key
        if self.right:
            yield from self.right.walk()


def queens(n, row=0, cols=0, down=0, up=0):
    if row == n:
        return 1
    count, free = 0, ~(cols | down | up) & ((1 << n) - 1)
    while free:
        bit = free & -free
        free ^= bit
        count += queens(n, row + 1, cols | bit, (down | bit) << 1, (up | bit) >> 1)
    return count


def words():
    with open("text.txt", encoding="ascii") as f:
        text = f.read(2000000)
    count = {}
    for w in text.split():
        count[w] = count.get(w, 0) + 1
    top = sorted(count.items(), key=lambda x: (-x[1], x[0]))[:20]
    return top, len(re.findall(r"\b([a-z])[a-z]*\1\b", text[:200000]))


def main():
    root, x = Node(1 << 30), 1
    for _ in range(30000):
        x = x * 1103515245 + 12345 & 0x7fffffff
        root.add(x)
    print(sum(i * k for i, k in enumerate(root.walk())) & 0xffffffff)
    print(queens(9))
    top, doubled = words()
    print(json.dumps({"top": top, "doubled": doubled}, sort_keys=True))
    data = json.loads(json.dumps([{"id": i, "name": "n%d" % i, "v": [i / 7, i * 3]} for i in range(12000)]))
    print("%.6f" % sum(d["v"][0] for d in data))
    print(sum(map(int, str(pow(3, 8000)))))


main()
