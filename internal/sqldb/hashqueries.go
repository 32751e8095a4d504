package sqldb

// Every statement that is run on the database of hash equivalence.

const (
	beginRead  = "BEGIN"
	beginWrite = "BEGIN IMMEDIATE"
	commit     = "COMMIT"
	rollback   = "ROLLBACK"
)

// Interning.
const (
	selectHashName = "SELECT id FROM names WHERE text = ?"
	insertHashName = "INSERT INTO names (text) VALUES (?) RETURNING id"
	selectDetail   = "SELECT id FROM details WHERE text = ?"
	insertDetail   = "INSERT INTO details (text) VALUES (?) RETURNING id"
	selectMark     = "SELECT id FROM marks WHERE text = ?"
	insertMark     = "INSERT INTO marks (text) VALUES (?) RETURNING id"
	selectSiginfo  = "SELECT id FROM siginfos WHERE sum = ?"
	insertSiginfo  = "INSERT INTO siginfos (sum, body, base) VALUES (?, ?, ?) RETURNING id"
	hasBase        = "SELECT count(*) FROM siginfos WHERE id = ? AND sum = ? AND base = 0"
	selectBase     = "SELECT body FROM siginfos WHERE id = ? AND sum = ? AND base = 0"
)

// Reporting. A row's task is ?1 to ?3: taskhash, method, zone.
const (
	hasOuthash    = "SELECT count(*) FROM outhashes WHERE taskhash = ?1 AND method = ?2 AND zone = ?3 AND outhash = ?4"
	insertOuthash = `INSERT INTO outhashes (taskhash, method, zone, outhash, created, owner, pn, pv, pr, task, siginfo)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`
	mappingByIDs = "SELECT unihash, author FROM mappings WHERE taskhash = ?1 AND method = ?2 AND zone = ?3"
	// equalOutput is what the oldest other task with the same output is mapped to.
	equalOutput = `SELECT m.unihash, m.author FROM outhashes o CROSS JOIN mappings m ON m.taskhash = o.taskhash AND m.method = o.method AND m.zone = o.zone
WHERE o.outhash = ?4 AND o.method = ?2 AND o.zone = ?3 AND o.taskhash <> ?1 ORDER BY o.created, o.id LIMIT 1`
	insertMapping = `INSERT INTO mappings (taskhash, method, zone, unihash, author, mark)
VALUES (?1, ?2, ?3, ?4, ?5, coalesce((SELECT mark FROM collections WHERE zone = ?3), 0))`
)

// Reading by texts: ?1 is the zone, ?2 the method.
const (
	ofZoneAndMethod = "zone = (SELECT id FROM names WHERE text = ?1) AND method = (SELECT id FROM names WHERE text = ?2)"
	selectMapping   = "SELECT unihash, author FROM mappings WHERE taskhash = ?3 AND " + ofZoneAndMethod
	selectExists    = "SELECT count(*) FROM (SELECT 1 FROM mappings WHERE unihash = ?2 AND zone = (SELECT id FROM names WHERE text = ?1) LIMIT 1)"
	// reported is the mapping of a task whose row is there already.
	reported = `SELECT unihash, author FROM mappings WHERE taskhash = ?3 AND ` + ofZoneAndMethod + `
AND EXISTS (SELECT 1 FROM outhashes WHERE taskhash = ?3 AND ` + ofZoneAndMethod + ` AND outhash = ?4)`

	rowColumnsOf = `SELECT o.id, o.taskhash, o.outhash, o.created, m.unihash, coalesce(m.author, 0), coalesce(k.text, ''),
coalesce(d1.text, ''), coalesce(d2.text, ''), coalesce(d3.text, ''), coalesce(d4.text, ''), coalesce(d5.text, ''), s.sum, s.body, b.body
FROM outhashes o `
	rowDetails = ` LEFT JOIN marks k ON k.id = m.mark LEFT JOIN details d1 ON d1.id = o.owner LEFT JOIN details d2 ON d2.id = o.pn
LEFT JOIN details d3 ON d3.id = o.pv LEFT JOIN details d4 ON d4.id = o.pr LEFT JOIN details d5 ON d5.id = o.task
LEFT JOIN siginfos s ON s.id = o.siginfo LEFT JOIN siginfos b ON b.id = s.base
WHERE o.zone = (SELECT id FROM names WHERE text = ?1) AND o.method = (SELECT id FROM names WHERE text = ?2) AND `
	ofSameTask = "JOIN mappings m ON m.taskhash = o.taskhash AND m.method = o.method AND m.zone = o.zone"
	mappedRow  = rowColumnsOf + "CROSS " + ofSameTask + rowDetails
	bareRow    = rowColumnsOf + "LEFT " + ofSameTask + rowDetails
	byOuthash  = "o.outhash = ?3 ORDER BY o.created, o.id LIMIT 1"
	byTaskhash = "o.taskhash = ?3 ORDER BY o.created, o.id LIMIT 1"
)

// Following the tables.
const (
	newNames     = "SELECT id, text FROM names WHERE id > ? ORDER BY id"
	removalsLeft = `SELECT coalesce(min(id), 0), coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'removals'), 0) FROM removals`
	newRemovals  = "SELECT id, zone, method, taskhash FROM removals WHERE id > ? ORDER BY id"
	lastMapping  = "SELECT coalesce(max(id), 0) FROM mappings"
	// newestMappings is the id behind which the newest ? mappings are.
	newestMappings = "SELECT coalesce((SELECT id FROM mappings ORDER BY id DESC LIMIT 1 OFFSET ?), 0)"
	countMappings  = "SELECT count(*) FROM mappings"
	rangeMappings  = "SELECT id, zone, method, taskhash, unihash, author FROM mappings WHERE id > ? AND id <= ? ORDER BY id"
	trimRemovals   = "DELETE FROM removals WHERE id <= (SELECT max(id) FROM removals) - ?1 AND id < (SELECT min(id) FROM removals) + ?2"
)

// Maintenance.
const (
	currentMark   = "SELECT coalesce((SELECT mark FROM collections WHERE zone = ?), 0)"
	currentText   = `SELECT coalesce((SELECT k.text FROM collections c JOIN marks k ON k.id = c.mark WHERE c.zone = (SELECT id FROM names WHERE text = ?)), '')`
	setMark       = "INSERT INTO collections (zone, mark) VALUES (?, ?) ON CONFLICT DO UPDATE SET mark = excluded.mark"
	markMapping   = "UPDATE mappings SET mark = ?2 WHERE id = ?1"
	deleteMapping = "DELETE FROM mappings WHERE id = ?"
	deleteOuthash = "DELETE FROM outhashes WHERE id = ?"
	// Two statements in one, for SQLite finds the largest and the smallest by the index only when it is asked for one of them.
	spanMappings  = "SELECT coalesce((SELECT min(id) FROM mappings), 0), coalesce((SELECT max(id) FROM mappings), 0)"
	spanOuthashes = "SELECT coalesce((SELECT min(id) FROM outhashes), 0), coalesce((SELECT max(id) FROM outhashes), 0)"

	chooseMappings  = "SELECT id, unihash, mark FROM mappings o WHERE zone = ?1 AND "
	chooseOuthashes = "SELECT id, x'', 0 FROM outhashes o WHERE zone = ?1 AND "
	withinWindow    = " AND id > ?2 AND id <= ?3"
	fromIndex       = " AND +id > ?2 ORDER BY +id LIMIT ?3"
	unusedRow       = `created <= ?4 AND NOT EXISTS (
SELECT 1 FROM mappings m WHERE m.taskhash = o.taskhash AND m.method = o.method AND m.zone = o.zone)`
	otherMark    = "mark <> ?4"
	staleMapping = `NOT EXISTS (
SELECT 1 FROM outhashes r WHERE r.taskhash = o.taskhash AND r.method = o.method AND r.zone = o.zone AND r.created > ?4)`

	countByMark = `SELECT count(*), coalesce(sum(mark = coalesce((SELECT mark FROM collections c WHERE c.zone = m.zone), 0)), 0)
FROM mappings m WHERE zone = (SELECT id FROM names WHERE text = ?)`
	usedMappings  = "SELECT count(*) FROM mappings WHERE zone = (SELECT id FROM names WHERE text = ?)"
	usedOuthashes = "SELECT count(*) FROM outhashes WHERE zone = (SELECT id FROM names WHERE text = ?)"
)

// Another server's database. A table that is not there is told from one that is empty.
const (
	referenceTables = `SELECT coalesce(max(name = 'unihashes_v3'), 0), coalesce(max(name = 'unihashes_v2'), 0),
coalesce(max(name = 'outhashes_v2'), 0), coalesce(max(name = 'config'), 0) FROM sqlite_schema WHERE type = 'table'`
	referenceMark     = "SELECT coalesce(CAST(value AS TEXT), '') FROM config WHERE name = 'gc-mark'"
	referenceMappings = `SELECT rowid, coalesce(CAST(method AS TEXT), ''), coalesce(CAST(taskhash AS TEXT), ''), coalesce(CAST(unihash AS TEXT), ''),
coalesce(CAST(gc_mark AS TEXT), '') FROM unihashes_v3 WHERE rowid > ? ORDER BY rowid LIMIT ?`
	referenceOldMappings = `SELECT rowid, coalesce(CAST(method AS TEXT), ''), coalesce(CAST(taskhash AS TEXT), ''), coalesce(CAST(unihash AS TEXT), ''),
'' FROM unihashes_v2 WHERE rowid > ? ORDER BY rowid LIMIT ?`
	referenceRows = `SELECT rowid, coalesce(CAST(method AS TEXT), ''), coalesce(CAST(taskhash AS TEXT), ''), coalesce(CAST(outhash AS TEXT), ''),
coalesce(CAST(created AS TEXT), ''), coalesce(CAST(owner AS TEXT), ''), coalesce(CAST(PN AS TEXT), ''), coalesce(CAST(PV AS TEXT), ''),
coalesce(CAST(PR AS TEXT), ''), coalesce(CAST(task AS TEXT), ''), coalesce(CAST(outhash_siginfo AS TEXT), '')
FROM outhashes_v2 WHERE rowid > ? ORDER BY rowid LIMIT ?`
	markAsImported = "UPDATE mappings SET mark = ?4 WHERE taskhash = ?1 AND method = ?2 AND zone = ?3"
)

// Exporting and counting.
const (
	exportMappings = `SELECT n.text, m.taskhash, m.unihash, m.author, coalesce(k.text, '') FROM mappings m
LEFT JOIN names n ON n.id = m.method LEFT JOIN marks k ON k.id = m.mark
WHERE m.zone = (SELECT id FROM names WHERE text = ?) AND m.id > ? AND m.id <= ? ORDER BY m.id`
	exportRows = `SELECT n.text, o.taskhash, o.outhash, o.created, coalesce(d1.text, ''), coalesce(d2.text, ''), coalesce(d3.text, ''),
coalesce(d4.text, ''), coalesce(d5.text, ''), s.sum, s.body, b.body
FROM outhashes o LEFT JOIN names n ON n.id = o.method LEFT JOIN details d1 ON d1.id = o.owner LEFT JOIN details d2 ON d2.id = o.pn
LEFT JOIN details d3 ON d3.id = o.pv LEFT JOIN details d4 ON d4.id = o.pr LEFT JOIN details d5 ON d5.id = o.task
LEFT JOIN siginfos s ON s.id = o.siginfo LEFT JOIN siginfos b ON b.id = s.base
WHERE o.zone = (SELECT id FROM names WHERE text = ?) AND o.id > ? AND o.id <= ? ORDER BY o.id`

	fileSizes  = `SELECT page_count * page_size, freelist_count * page_size FROM pragma_page_count, pragma_page_size, pragma_freelist_count`
	countTexts = "SELECT count(*), coalesce(sum(length(body)), 0) FROM siginfos"
	countZones = `WITH m AS (SELECT zone, count(*) AS n FROM mappings GROUP BY zone), o AS (SELECT zone, count(*) AS n FROM outhashes GROUP BY zone)
SELECT names.text, coalesce(m.n, 0), coalesce(o.n, 0), coalesce(marks.text, '') FROM names LEFT JOIN m ON m.zone = names.id
LEFT JOIN o ON o.zone = names.id LEFT JOIN collections c ON c.zone = names.id LEFT JOIN marks ON marks.id = c.mark
WHERE m.n IS NOT NULL OR o.n IS NOT NULL ORDER BY names.text`
)
