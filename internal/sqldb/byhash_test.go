package sqldb

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash/maphash"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/lychgate/lychgate/authz/artifact"
	"github.com/lychgate/lychgate/authz/provenance"
)

func bhHash(t testing.TB, ref artifact.Ref) [32]byte {
	t.Helper()
	hash, err := hex.DecodeString(ref.Hash)
	if err != nil || len(hash) != 32 {
		t.Fatalf("hash %q: %v", ref.Hash, err)
	}
	return [32]byte(hash)
}

// bhPublication has two payloads under one unihash in zone main, the first one's siginfo, and the same name in zone review.
func bhPublication() provenance.Publication {
	p := publicationOf(0, 4)
	first := p.Records[0].Ref
	p.Records[1].Ref = first
	p.Records[1].Ref.Path = first.Path[:len(first.Path)-len("tar.zst")] + "tgz"
	p.Records[2].Ref = first.WithPart(artifact.Siginfo)
	p.Records[3].Ref.Zone, p.Records[3].Ref.Path = "review", first.Path
	p.Records[3].Ref.Hash = first.Hash
	return p
}

// bhCheck looks for what bhPublication leaves.
func bhCheck(t *testing.T, db *DB) {
	t.Helper()
	p := bhPublication()
	hash := bhHash(t, p.Records[0].Ref)
	for zone, want := range map[string][]provenance.Record{"main": p.Records[:2], "review": p.Records[3:], "nowhere": nil} {
		got := db.ByHash(nil, zone, hash)
		refs, err := db.NamesByHash(t.Context(), zone, hash)
		if err != nil || len(got) != len(want) || len(refs) != len(want) || db.Published(zone, hash) != (len(want) > 0) {
			t.Fatalf("zone %q: %d records, names %v, %v", zone, len(got), refs, err)
		}
		for _, w := range want {
			if !slices.ContainsFunc(got, func(r provenance.Record) bool {
				return r.Digest == w.Digest && r.Size == w.Size && r.Claims[0] == w.Claims[0] &&
					r.Ref == artifact.Ref{Zone: zone, Kind: artifact.KindSstate}
			}) {
				t.Errorf("zone %q: %+v lack %v", zone, got, w.Digest)
			}
			if !slices.Contains(refs, w.Ref) {
				t.Errorf("zone %q: %v lack %v", zone, refs, w.Ref)
			}
		}
	}
	for _, zone := range []string{"main", "review"} {
		if other := bhHash(t, refOf(1)); db.Published(zone, other) || db.ByHash(nil, zone, other) != nil {
			t.Errorf("zone %q has a hash under which nothing is published", zone)
		}
	}
}

func TestByHash(t *testing.T) {
	path := testPath(t)
	gate, cli := openTest(t, path), openTest(t, path)
	put(t, cli, bhPublication())
	bhCheck(t, cli)
	put(t, cli, bhPublication()) // confirms what is there, and adds nothing
	bhCheck(t, cli)
	if err := gate.refresh(t.Context()); err != nil {
		t.Fatal(err)
	}
	bhCheck(t, gate)
	bhCheck(t, openTest(t, path))
}

func TestByHashAfterAnUpgrade(t *testing.T) {
	path := testPath(t)
	db, err := Open(t.Context(), Config{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	put(t, db, bhPublication())
	// The schema as it was before the migration.
	if _, err := db.writer.Exec(`DROP INDEX names_payload; ALTER TABLE records DROP COLUMN hash;
DROP TABLE accounts; DELETE FROM schema_version WHERE version >= 3`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	db = openTest(t, path)
	bhCheck(t, db)
	if err := db.Check(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestByHashAllocatesNothing(t *testing.T) {
	db := openTest(t, testPath(t))
	put(t, db, bhPublication())
	hash, out := bhHash(t, refOf(0)), make([]provenance.Record, 0, 8)
	if n := testing.AllocsPerRun(100, func() {
		if out = db.ByHash(out[:0], "main", hash); len(out) != 2 || !db.Published("main", hash) {
			t.Fatal(len(out))
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestHashIndexIsAMultimap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		x := &hashIndex{seed: maphash.MakeSeed()}
		if rapid.Bool().Draw(t, "reserve") {
			x.reserve(rapid.IntRange(0, 100).Draw(t, "room"))
		}
		type place struct {
			hash [32]byte
			zone uint32
		}
		model := map[place][]recordKey{}
		for n := range rapid.IntRange(0, 400).Draw(t, "records") {
			p := place{sha256.Sum256(fmt.Append(nil, rapid.IntRange(0, 60).Draw(t, "hash"))), rapid.Uint32Range(1, 2).Draw(t, "zone")}
			key := recordKey{byte(n), byte(n >> 8), 1}
			x.add(hashEntry{p.hash, key, p.zone})
			model[p] = append(model[p], key)
		}
		for n := range 61 {
			for zone := uint32(1); zone <= 3; zone++ {
				p := place{sha256.Sum256(fmt.Append(nil, n)), zone}
				got := x.keys(nil, p.hash, zone)
				compare := func(a, b recordKey) int { return slices.Compare(a[:], b[:]) }
				slices.SortFunc(got, compare)
				want := slices.SortedFunc(slices.Values(model[p]), compare)
				if !slices.Equal(got, want) || x.has(p.hash, zone) != (len(want) > 0) {
					t.Fatalf("%x in %d: got %x, want %x", p.hash[:2], zone, got, want)
				}
			}
		}
	})
}

func BenchmarkByHash(b *testing.B) {
	db := openTest(b, largeFile(b))
	hashes := make([][32]byte, 1024)
	for i := range hashes {
		hashes[i] = bhHash(b, refOf(i*97%*manyRecords))
	}
	out := make([]provenance.Record, 0, 8)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if out = db.ByHash(out[:0], "main", hashes[n%len(hashes)]); len(out) != 1 {
			b.Fatal(len(out))
		}
	}
}
