-- Tokens that were given for a credential which buys no other, and the end of all tokens of one principal.
ALTER TABLE tokens ADD COLUMN epoch INTEGER NOT NULL DEFAULT 1;
ALTER TABLE tokens ADD COLUMN once BLOB CHECK (length(once) = 32);
ALTER TABLE tokens ADD COLUMN owner TEXT NOT NULL DEFAULT ''; -- "FORGE/ID"
UPDATE tokens SET owner = json_extract(principal, '$.forge') || '/' || json_extract(principal, '$.id');
CREATE UNIQUE INDEX tokens_once ON tokens (once) WHERE once IS NOT NULL;
CREATE INDEX tokens_owner ON tokens (owner);

-- How often all tokens of a principal were ended, beyond the first epoch.
CREATE TABLE epochs (
    owner TEXT PRIMARY KEY,
    ended INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Subjects of identity providers whom users of a forge have claimed as themselves.
CREATE TABLE links (
    issuer    TEXT NOT NULL,
    subject   TEXT NOT NULL,
    principal TEXT NOT NULL, -- JSON
    created   INTEGER NOT NULL, -- microseconds since 1970
    PRIMARY KEY (issuer, subject)
) STRICT, WITHOUT ROWID;
