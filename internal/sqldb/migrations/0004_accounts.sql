-- Logins of the hash equivalence protocol. Each acts for the principal who made it.
CREATE TABLE accounts (
    zone        TEXT NOT NULL,
    name        TEXT NOT NULL,
    permissions TEXT NOT NULL, -- separated by spaces
    token       BLOB NOT NULL CHECK (length(token) = 32), -- SHA-256
    principal   TEXT NOT NULL, -- JSON
    epoch       INTEGER NOT NULL, -- of the principal's tokens
    created     INTEGER NOT NULL, -- microseconds since 1970
    PRIMARY KEY (zone, name)
) STRICT, WITHOUT ROWID;
