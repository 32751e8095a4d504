-- Hash equivalence. A hash of 64 lower-case hex digits is a BLOB of 32 bytes, any other a TEXT. Nothing refers by foreign key: rows are
-- written ten thousand a second, and whoever deletes some with another tool shall not be able to break more than those.

-- Zones and methods, interned. Never deleted.
CREATE TABLE names (
    id   INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
) STRICT;

-- What reports say for people, interned. 0 is nothing said.
CREATE TABLE details (
    id   INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
) STRICT;
INSERT INTO details (id, text) VALUES (0, '');

-- Marks of garbage collection, interned. 0 is none.
CREATE TABLE marks (
    id   INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
) STRICT;
INSERT INTO marks (id, text) VALUES (0, '');

-- The current mark of a zone.
CREATE TABLE collections (
    zone INTEGER PRIMARY KEY,
    mark INTEGER NOT NULL
) STRICT;

-- What tasks are mapped to. Ids never come again: readers follow the table by them.
CREATE TABLE mappings (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    zone     INTEGER NOT NULL,
    method   INTEGER NOT NULL,
    taskhash ANY NOT NULL,
    unihash  BLOB NOT NULL CHECK (length(unihash) = 32),
    author   INTEGER NOT NULL,
    mark     INTEGER NOT NULL,
    UNIQUE (taskhash, method, zone)
) STRICT;
CREATE INDEX mappings_unihash ON mappings (unihash, zone);

-- Reports.
CREATE TABLE outhashes (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    zone     INTEGER NOT NULL,
    method   INTEGER NOT NULL,
    taskhash ANY NOT NULL,
    outhash  ANY NOT NULL,
    created  INTEGER NOT NULL, -- microseconds since 1970
    owner    INTEGER NOT NULL,
    pn       INTEGER NOT NULL,
    pv       INTEGER NOT NULL,
    pr       INTEGER NOT NULL,
    task     INTEGER NOT NULL,
    siginfo  INTEGER NOT NULL, -- 0 is none
    UNIQUE (taskhash, method, zone, outhash)
) STRICT;
CREATE INDEX outhashes_outhash ON outhashes (outhash, method, zone, created);
CREATE INDEX outhashes_siginfo ON outhashes (siginfo) WHERE siginfo <> 0;

-- Texts that reports came with, each once. They go with the last row that has them, or has a text that is kept as the difference to them.
CREATE TABLE siginfos (
    id   INTEGER PRIMARY KEY,
    sum  BLOB NOT NULL UNIQUE CHECK (length(sum) = 32), -- SHA-256 of the text
    body BLOB NOT NULL, -- zstd
    base INTEGER NOT NULL -- the text that body is the difference to, one that is kept whole; 0 for one that is
) STRICT;
CREATE INDEX siginfos_base ON siginfos (base) WHERE base <> 0;
CREATE TRIGGER outhashes_deleted AFTER DELETE ON outhashes WHEN old.siginfo <> 0 BEGIN
    DELETE FROM siginfos WHERE id = old.siginfo AND NOT EXISTS (SELECT 1 FROM outhashes WHERE siginfo = old.siginfo AND siginfo <> 0)
        AND NOT EXISTS (SELECT 1 FROM siginfos WHERE base = old.siginfo AND base <> 0);
END;
CREATE TRIGGER siginfos_deleted AFTER DELETE ON siginfos WHEN old.base <> 0 BEGIN
    DELETE FROM siginfos WHERE id = old.base AND NOT EXISTS (SELECT 1 FROM outhashes WHERE siginfo = old.base AND siginfo <> 0)
        AND NOT EXISTS (SELECT 1 FROM siginfos WHERE base = old.base AND base <> 0);
END;

-- Which mappings are gone, whoever deleted them, for those who hold them in memory. Only the newest are kept.
CREATE TABLE removals (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    zone     INTEGER NOT NULL,
    method   INTEGER NOT NULL,
    taskhash ANY NOT NULL
) STRICT;
CREATE TRIGGER mappings_deleted AFTER DELETE ON mappings BEGIN
    INSERT INTO removals (zone, method, taskhash) VALUES (old.zone, old.method, old.taskhash);
END;
CREATE TRIGGER mappings_changed BEFORE UPDATE OF id, zone, method, taskhash, unihash, author ON mappings BEGIN
    SELECT raise(ABORT, 'a mapping is written once: delete it instead');
END;
