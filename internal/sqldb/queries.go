package sqldb

// Every statement that is run, in one place, so that another dialect has one place to differ in.

const (
	selectVersion = "SELECT coalesce(max(version), 0) FROM schema_version"
	insertVersion = "INSERT INTO schema_version (version, name, applied) VALUES (?, ?, ?)"

	dataVersion = "PRAGMA data_version"
)

// createVersions wants the application's id.
const createVersions = `PRAGMA application_id = %d;
CREATE TABLE schema_version (
    version INTEGER PRIMARY KEY,
    name    TEXT NOT NULL,
    applied INTEGER NOT NULL -- microseconds since 1970
) STRICT;`

// Following the tables.
const (
	newWords      = "SELECT id, text FROM words WHERE id > ? ORDER BY id"
	newClaims     = "SELECT id, statement, sources, inputs, signer FROM claims WHERE id > ? ORDER BY id"
	lastRecord    = "SELECT coalesce(max(id), 0) FROM records"
	rangeRecords  = "SELECT id, key, digest, size, place, claim, writer, time, zone, hash FROM records WHERE id > ? AND id <= ? ORDER BY id"
	sampleHashes  = "SELECT count(hash), count(*) FROM (SELECT hash FROM records ORDER BY id DESC LIMIT 10000)"
	newAmendments = `SELECT a.id, r.key, coalesce(a.claim, 0), coalesce(a.place, -1)
FROM amendments a JOIN records r ON r.id = a.record WHERE a.id > ? ORDER BY a.id`
	newTokens = "SELECT change, mac, id, principal, created, expires, note, revoked, epoch, once FROM tokens WHERE change > ? ORDER BY change"
)

// Publishing.
const (
	insertWord     = "INSERT INTO words (text) VALUES (?) ON CONFLICT DO NOTHING"
	selectWord     = "SELECT id FROM words WHERE text = ?"
	insertSet      = "INSERT INTO sets (id, text) VALUES (?, ?) ON CONFLICT DO NOTHING"
	hasSet         = "SELECT count(*) FROM sets WHERE id = ?"
	insertEnvelope = "INSERT INTO envelopes (digest, body) VALUES (?, ?) ON CONFLICT DO NOTHING"
	insertClaim    = "INSERT INTO claims (statement, sources, inputs, signer) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING"
	selectClaim    = "SELECT id FROM claims WHERE statement = ? AND sources = ? AND inputs = ? AND signer = ?"
	selectRecord   = `SELECT r.id, r.digest, coalesce((SELECT min(a.place) FROM amendments a WHERE a.record = r.id), r.place)
FROM records r WHERE r.key = ?`
	insertRecord = `INSERT INTO records (key, digest, size, place, claim, writer, time, zone, hash)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`
	insertName = "INSERT INTO names (zone, path, part, kind, record) VALUES (?, ?, ?, ?, ?)"
	// addsNothing asks whether claim ?1 repeats one that record ?2 has, or the record has ?3 of them.
	addsNothing = `SELECT count(*) >= ?3 OR coalesce(max(c.sources = n.sources AND c.inputs = n.inputs AND c.signer = n.signer), 0)
FROM claims c, claims n WHERE n.id = ?1 AND (
    c.id = (SELECT claim FROM records WHERE id = ?2) OR c.id IN (SELECT claim FROM amendments WHERE record = ?2))`
	insertAmendment = "INSERT INTO amendments (record, claim, place) VALUES (?, ?, ?)"
	insertKept      = `INSERT INTO kept (record, digest, claim, size, writer, time) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING`
	insertChunks = "INSERT INTO chunks (digest, body) VALUES (?, ?) ON CONFLICT DO NOTHING"
)

// Reading what is not kept in memory.
const (
	selectSet      = "SELECT text FROM sets WHERE id = ?"
	selectEnvelope = "SELECT body FROM envelopes WHERE digest = ?"
	selectChunks   = "SELECT body FROM chunks WHERE digest = ?"
	selectInputs   = `SELECT c.inputs FROM records r JOIN claims c ON c.id = r.claim WHERE r.digest = ?1 AND r.zone = ?2
UNION SELECT c.inputs FROM records r JOIN amendments a ON a.record = r.id JOIN claims c ON c.id = a.claim
WHERE r.digest = ?1 AND r.zone = ?2`
	selectName = `SELECT n.zone, n.path, n.part, n.kind FROM records r JOIN names n ON n.record = r.id AND n.part = 0 AND n.kind = 1
WHERE r.key = ?`
	// The row values walk names in the order of its primary key, one page at a time.
	pageNames = `SELECT zone, path, part, kind FROM names
WHERE (zone, path, part, kind) > (?, ?, ?, ?) ORDER BY zone, path, part, kind LIMIT ?`
	rangeNames = `SELECT zone, path, part, kind FROM names
WHERE zone = ? AND path >= ? AND (?3 = '' OR path < ?3) ORDER BY path, part, kind LIMIT ?`
)

// Tokens.
const (
	insertToken = `INSERT INTO tokens (mac, id, principal, created, expires, note, epoch, once, owner, change)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(change), 0) + 1 FROM tokens))`
	takenToken  = "SELECT count(*) FROM tokens WHERE mac = ? OR id = ?"
	spentToken  = "SELECT count(*) FROM tokens WHERE once = ?"
	revokeToken = `UPDATE tokens SET revoked = 1, change = (SELECT max(change) + 1 FROM tokens) WHERE id = ? AND revoked = 0`
	ownTokens   = "SELECT id FROM tokens WHERE owner = ? AND revoked = 0"
	endedEpochs = "SELECT coalesce(max(ended), 0) FROM epochs WHERE owner = ?"
	endEpoch    = "INSERT INTO epochs (owner, ended) VALUES (?, 1) ON CONFLICT DO UPDATE SET ended = ended + 1"
	// The newest change stays, so that change numbers never come again.
	forgetTokens = "DELETE FROM tokens WHERE expires < ? AND change < (SELECT max(change) FROM tokens)"
)

// Links.
const (
	insertLink = "INSERT INTO links (issuer, subject, principal, created) VALUES (?, ?, ?, ?)"
	selectLink = "SELECT principal FROM links WHERE issuer = ? AND subject = ?"
)

// Accounts.
const (
	selectAccount  = "SELECT zone, name, permissions, token, principal, epoch, created FROM accounts WHERE zone = ? AND name = ?"
	selectAccounts = "SELECT zone, name, permissions, token, principal, epoch, created FROM accounts WHERE zone = ? ORDER BY name"
	insertAccount  = `INSERT INTO accounts (zone, name, permissions, token, principal, epoch, created)
VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`
	updateAccount = "UPDATE accounts SET permissions = ?, token = ? WHERE zone = ? AND name = ?"
	deleteAccount = "DELETE FROM accounts WHERE zone = ? AND name = ?"
)
