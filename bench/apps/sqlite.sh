exec sqlite3 -batch -bail :memory: <sqlite.sql
