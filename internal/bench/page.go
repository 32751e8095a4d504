package main

const pageHead = `# How fast

This page is written by ` + "`make bench ARGS=\"-o FILE\"`" + `, which starts each peer and the gate in turn on one machine, drives all of
them with the same load generator, and compares. Nothing in it is by hand. The targets are those of the design.

`

const pageNotes = `
How to read it:

- The first load average should be near 0; later ones are the work's own. A machine that does something else beside gives turns that lie far apart,
  and verdicts that are worth little.
- A ratio above 1 means that the gate does more than the peer, or takes less time. The exception is what audit adds, which is a share.
- The load generator shares the cores with the server it drives. It costs every server the same, so a ratio is closer to 1 than it would be with a
  machine for each; the server's processor time, below, is without it.
- All servers show the same ECDSA P-256 certificate and speak TLS 1.3. No session is resumed. The key exchange is X25519, which the OpenSSL of BitBake's
  Python and wget takes; with it the gate does not spend what a hybrid exchange would cost.
- The small objects are 20,000 files of 1 KiB, asked for in turn with the same credential. The gate knows them as imported records of 200 statements
  with three repositories each. Nginx and Caddy serve them from the page cache, and neither looks at the credential nor writes a log; the gate
  authenticates, decides and records every one in its journal.
- OPA's server gets the same facts as data: who has the token, what an object was built from, what a user may read. Nginx asks it over a Unix
  socket, on a new connection each time, since it drops one whose answer's body it has no use for.
- Decisions and the journal are measured without a network. What audit adds is the processor time of one event, its share of fsync included,
  beside the processor time that the gate spends on a ` + "`HEAD`" + ` without it.
- Over SSH all servers have the same Ed25519 host key and know the same Ed25519 user key, and speak aes128-gcm@openssh.com after a Curve25519 key
  exchange. OpenSSH's server is Debian's, with internal-sftp, without PAM, without its limit on connections that begin, and without a log. STATs come
  from the generator itself, which does less than any client would. OpenSSH's sftp downloads four times on one connection, to /dev/null; connecting is
  part of its time.
- The bare SSH server answers every STAT with the same attributes, by the library that the gate's door is made with: what it does is the most that
  the gate could, which also authenticates, decides and records each STAT. How far it is above OpenSSH says how much of the target is within reach on
  this machine: on one connection, client and server wait for each other, and much of the time goes by while the kernel and Go's scheduler wake one
  and then the other.
- Downloads by pkg/sftp's client ask for 32 KiB at a time, OpenSSH's for 255 KiB; each request is a few goroutines and a buffer to the gate.
- The memory of a held connection is what the processes of a server have in memory with all connections, less what they had before, divided by their
  number. Pages that processes share are counted once; what the kernel keeps of a connection is not counted. Each has an SFTP channel open.
- Hash equivalence servers are asked by 40 connections in lines or websocket frames that the generator makes itself, uncompressed, and each answer is
  compared. BitBake's server runs as it does unless told otherwise: SQLite, and anybody may read and report. At the gate everybody signs in with a token,
  a lookup is answered when the artifact behind it is published and the asker may read all its sources, and every stream leaves events in the journal. The
  20,000 hashes are those of the small objects. With 64 in flight the generator replaces those lines together whose answers came together. Connecting is a
  client's: to sign in, to enter the stream, and to ask are round trips of their own, of which BitBake's server, where nobody signs in, has one less.
- The bare Go server answers a line with its last word and looks at nothing: how far it is above BitBake's says how much of a target is within reach on this
  machine. With one line in flight most of the time goes by in the kernel, which wakes one end and then the other.
- A report at the gate is on the disk, with its event, before it is answered; SQLite as BitBake's server sets it up syncs now and then.
- In the burst each connection begins at once and makes 9,000 lookups, 512 in flight.
- While garbage collection runs, 40 connections make 50 lookups a second each, at fixed times: what a stall makes the later ones wait counts. All of
  them count, in half a minute before and for as long as it takes; a ratio below the target is the good one. Memory is what the gate has more than with no mappings, once it is open; disk is that of the
  database.
- The start is ` + "`BenchmarkStart`" + ` of internal/sqldb; resident memory includes garbage and SQLite's own pages.

## Each server by itself

Rates are requests per second. For downloads, processor time is that of 64 MiB.

`
