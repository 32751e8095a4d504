-- Artifacts by their unihash. hash is the unihash of a payload of kind sstate: what its name has behind the last ':'.
ALTER TABLE records ADD COLUMN hash BLOB CHECK (length(hash) = 32);

-- rtrim takes off whatever is no ':' and so leaves what goes before the hash.
UPDATE records SET hash = unhex(substr(n.path, length(rtrim(n.path, replace(n.path, ':', ''))) + 1, 64))
FROM names n WHERE n.record = records.id AND n.part = 0 AND n.kind = 1;

-- From a record to its name.
CREATE INDEX names_payload ON names (record) WHERE part = 0 AND kind = 1;
