package redisdb

// Everything that must be true at one moment is one script. Scripts go as text: Redis keeps them by their digest anyway,
// and a server that was restarted or had them flushed needs no second question.

// common is the head of every script.
//
// last gives the ID and the text of the last entry, two empty texts when there is none, and an empty text when it has
// another form than ours. nodes gives the fields and texts of the hash of nodes, after tidy has removed what stands in its
// place. None returns more than this gate would have written: who else may write to the server fills the memory of no node.
const common = `
local function text(fields)
  if #fields == 2 and fields[1] == 'e' and #fields[2] <= 9216 then return fields[2] end
  return ''
end
local function last(key)
  local found = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 1)
  if found.err or #found == 0 then return {'', ''} end
  return {found[1][1], text(found[1][2])}
end
local function tidy(key)
  local kind = redis.call('TYPE', key).ok
  if kind == 'hash' and redis.call('HLEN', key) > 4096 or kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', key) end
end
local function nodes(key)
  tidy(key)
  local all, kept = redis.call('HGETALL', key), {}
  for i = 1, #all, 2 do
    if #all[i] <= 256 and #all[i+1] <= 256 then
      kept[#kept+1] = all[i]
      kept[#kept+1] = all[i+1]
    end
  end
  return kept
end
`

// syncScript writes the beat of a node, and returns who the server is, the last entry, the entries after a position, and
// all beats. That is why a node that may not write, or is shown an old copy, learns nothing from it. Beats that have been
// the same for long are named to be removed.
//
//	KEYS: events nodes   ARGV: field beat after count [field beat]...
//
// A server is another one when its process or its replication history is: either may have lost what was last written.
const syncScript = common + `
tidy(KEYS[2])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
for i = 5, #ARGV, 2 do
  if redis.call('HGET', KEYS[2], ARGV[i]) == ARGV[i+1] then redis.call('HDEL', KEYS[2], ARGV[i]) end
end
local server = (string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or '') ..
  (string.match(redis.call('INFO', 'replication'), 'master_replid:(%x+)') or '')
local entries = {}
if ARGV[3] ~= '' then
  local found = redis.pcall('XRANGE', KEYS[1], '(' .. ARGV[3], '+', 'COUNT', ARGV[4])
  if not found.err then
    for i = 1, #found do
      entries[#entries+1] = found[i][1]
      entries[#entries+1] = text(found[i][2])
    end
  end
end
local head = last(KEYS[1])
return {server, head[1], head[2], entries, nodes(KEYS[2])}
`

// nodesScript returns all beats.
//
//	KEYS: nodes
const nodesScript = common + `return nodes(KEYS[1])`

// appendScript adds an entry after the one that the caller takes for the last, or returns the one that is. With "1" as
// the last argument the stream is begun anew.
//
//	KEYS: events   ARGV: last-ID last-tag ID entry keep anew
//
// It returns {1}, or {0, ID, entry}. A stream that once went further than it does now takes no entry: that is told as one
// that ends in nothing of ours.
const appendScript = common + `
local head = last(KEYS[1])
if head[1] ~= ARGV[1] or string.sub(head[2], -16) ~= ARGV[2] then return {0, head[1], head[2]} end
if ARGV[6] == '1' then redis.call('DEL', KEYS[1]) end
local added = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[5], ARGV[3], 'e', ARGV[4])
if type(added) == 'table' and added.err then
  if string.find(added.err, 'equal or smaller', 1, true) then return {2, head[1], head[2]} end
  return added
end
return {1, '', ''}
`
