-- Records and what they rest on. Rows of words, sets, envelopes, claims, records, names, amendments and chunks are never
-- changed and never deleted: readers follow the tables by their growing ids.

-- Zones, writers and signers, interned.
CREATE TABLE words (
    id   INTEGER PRIMARY KEY,
    text TEXT NOT NULL UNIQUE
) STRICT;

CREATE TABLE sets (
    id   BLOB PRIMARY KEY CHECK (length(id) = 32),
    text BLOB NOT NULL
) STRICT;

CREATE TABLE envelopes (
    digest BLOB PRIMARY KEY CHECK (length(digest) = 32),
    body   BLOB NOT NULL
) STRICT;

CREATE TABLE claims (
    id        INTEGER PRIMARY KEY,
    statement BLOB NOT NULL REFERENCES envelopes (digest),
    sources   BLOB NOT NULL REFERENCES sets (id),
    inputs    BLOB NOT NULL REFERENCES sets (id),
    signer    INTEGER NOT NULL REFERENCES words (id),
    UNIQUE (statement, sources, inputs, signer)
) STRICT;

-- Narrow, because a start reads all of it. key is the first half of a SHA-256 over zone, kind, part and path.
CREATE TABLE records (
    id     INTEGER PRIMARY KEY,
    key    BLOB NOT NULL UNIQUE CHECK (length(key) = 16),
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    size   INTEGER NOT NULL CHECK (size >= 0),
    place  INTEGER NOT NULL CHECK (place IN (0, 1)),
    claim  INTEGER NOT NULL REFERENCES claims (id),
    writer INTEGER NOT NULL REFERENCES words (id),
    time   INTEGER NOT NULL, -- nanoseconds since 1970
    zone   INTEGER NOT NULL REFERENCES words (id)
) STRICT;
CREATE INDEX records_digest ON records (digest, zone);

CREATE TABLE names (
    zone   INTEGER NOT NULL REFERENCES words (id),
    path   TEXT NOT NULL,
    part   INTEGER NOT NULL,
    kind   INTEGER NOT NULL,
    record INTEGER NOT NULL REFERENCES records (id),
    PRIMARY KEY (zone, path, part, kind)
) STRICT, WITHOUT ROWID;

-- What later publications of the same bytes added to a record: a claim, a better place, or both.
CREATE TABLE amendments (
    id     INTEGER PRIMARY KEY,
    record INTEGER NOT NULL REFERENCES records (id),
    claim  INTEGER REFERENCES claims (id),
    place  INTEGER CHECK (place IN (0, 1))
) STRICT;
CREATE INDEX amendments_record ON amendments (record);

-- Evidence: publications of other bytes under a name that keeps its first.
CREATE TABLE kept (
    record INTEGER NOT NULL REFERENCES records (id),
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    claim  INTEGER NOT NULL REFERENCES claims (id),
    size   INTEGER NOT NULL,
    writer INTEGER NOT NULL REFERENCES words (id),
    time   INTEGER NOT NULL,
    PRIMARY KEY (record, digest, claim)
) STRICT, WITHOUT ROWID;

-- The digests of an object's chunks, one after the other.
CREATE TABLE chunks (
    digest BLOB PRIMARY KEY CHECK (length(digest) = 32),
    body   BLOB NOT NULL CHECK (length(body) % 32 = 0)
) STRICT;

-- Every change of a token gives it the next change number, which readers follow.
CREATE TABLE tokens (
    mac       BLOB PRIMARY KEY CHECK (length(mac) = 32),
    id        TEXT NOT NULL UNIQUE,
    principal TEXT NOT NULL, -- JSON
    created   INTEGER NOT NULL, -- microseconds since 1970
    expires   INTEGER NOT NULL,
    note      TEXT NOT NULL,
    revoked   INTEGER NOT NULL DEFAULT 0 CHECK (revoked IN (0, 1)),
    change    INTEGER NOT NULL UNIQUE
) STRICT;
CREATE INDEX tokens_expires ON tokens (expires);
