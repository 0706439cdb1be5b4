// SPDX-License-Identifier: MIT
// Objects, closures, typed arrays, strings, JSON and regular expressions: hot code that V8 compiles.
"use strict";
const fs = require("fs");

class Vec {
  constructor(x, y, z) { this.x = x; this.y = y; this.z = z; }
  add(o) { return new Vec(this.x + o.x, this.y + o.y, this.z + o.z); }
  scale(f) { return new Vec(this.x * f, this.y * f, this.z * f); }
  dot(o) { return this.x * o.x + this.y * o.y + this.z * o.z; }
}

function vectors(n) {
  let p = new Vec(1, 2, 3), v = new Vec(0.1, -0.2, 0.05);
  for (let i = 0; i < n; i++) {
    p = p.add(v.scale(0.01));
    v = v.add(p.scale(-0.01 / (1 + p.dot(p))));
  }
  return p.dot(p).toFixed(9);
}

function life(size, steps) {
  let a = new Uint8Array(size * size), b = new Uint8Array(size * size), x = 1;
  for (let i = 0; i < a.length; i++) { x = (Math.imul(x, 1103515245) + 12345) >>> 0; a[i] = (x >>> 16) & 1; }
  for (let s = 0; s < steps; s++) {
    for (let r = 1; r < size - 1; r++)
      for (let c = 1; c < size - 1; c++) {
        const i = r * size + c;
        const n = a[i - size - 1] + a[i - size] + a[i - size + 1] + a[i - 1] + a[i + 1] + a[i + size - 1] + a[i + size] +
          a[i + size + 1];
        b[i] = n === 3 || (n === 2 && a[i]) ? 1 : 0;
      }
    [a, b] = [b, a];
  }
  return a.reduce((s, v) => s + v, 0);
}

function words(bytes) {
  const text = fs.readFileSync("text.txt", "latin1").slice(0, bytes), count = new Map();
  for (const w of text.match(/[a-z]+/g)) count.set(w, (count.get(w) || 0) + 1);
  return [...count].sort((p, q) => q[1] - p[1] || (p[0] < q[0] ? -1 : 1)).slice(0, 20);
}

function json(n) {
  const list = [];
  for (let i = 0; i < n; i++) list.push({ id: i, name: "n" + i, v: [i / 7, i * 3, { deep: i % 5 === 0 }] });
  return JSON.parse(JSON.stringify(list)).filter((o) => o.v[2].deep).map((o) => o.v[1]).reduce((s, v) => s + v, 0);
}

console.log(vectors(4000000));
console.log(life(256, 120));
console.log(JSON.stringify(words(1000000)));
console.log(json(20000));
