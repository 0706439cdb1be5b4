-- SPDX-License-Identifier: MIT
-- Inserts, an index, a join, aggregates, text functions, updates and deletes.
CREATE TABLE item(id INTEGER PRIMARY KEY, kind INTEGER, price REAL, name TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
  INSERT INTO item SELECT i, i * 7919 % 97, i * 31 % 1000 / 8.0, printf('item %d of %x', i * 7 % 1009, i) FROM n;
CREATE TABLE sale(id INTEGER PRIMARY KEY, item INTEGER, amount INTEGER);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
  INSERT INTO sale SELECT i, i * 48271 % 59999 + 1, i % 13 FROM n;
CREATE INDEX sale_item ON sale(item);
CREATE INDEX item_name ON item(name);
SELECT kind, count(*), round(sum(price * amount), 2) FROM item JOIN sale ON sale.item = item.id GROUP BY kind
  ORDER BY 3 DESC, kind LIMIT 10;
SELECT count(*) FROM item WHERE name LIKE '%1_ of%a%';
SELECT substr(name, 6, 2) AS s, count(*), max(length(name)) FROM item GROUP BY s ORDER BY 2 DESC, s LIMIT 5;
UPDATE item SET price = price * 1.25 WHERE kind BETWEEN 10 AND 40;
DELETE FROM sale WHERE item IN (SELECT id FROM item WHERE kind = 5);
SELECT count(*), round(total(price), 2) FROM item;
SELECT count(*), sum(amount) FROM sale;
