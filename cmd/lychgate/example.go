package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/go-json-experiment/json"
)

// exampleRecipe is a recipe of the example cache: one repository, and the recipes it is built with.
type exampleRecipe struct {
	name, repository, revision string
	uses                       []string
}

// exampleRecipes are what quickstart publishes when it is given no cache: one repository that everybody of the
// example may read, one that only alice may, and a recipe built with both.
func exampleRecipes() []exampleRecipe {
	return []exampleRecipe{
		{name: "hello-native", repository: "public/hello", revision: "5d41402abc4b2a76b9719d911017c592aa5f3c1e"},
		{name: "secret-tool-native", repository: "teamA/secret-tool", revision: "90819670d2c1f3a4b5e6978877665544332211ff"},
		{name: "appliance-native", repository: "public/appliance", revision: "0beec7b5ea3f0fdbc95d0dd47f3c5bc275da8a33", uses: []string{"hello-native", "secret-tool-native"}},
	}
}

// writeExample makes a small cache in dir, shaped as BitBake shapes one: for each recipe a siginfo of do_fetch, which
// says what was fetched, and the archive and siginfo of do_populate_sysroot, which depends on it.
func writeExample(dir string) error {
	sysroots := map[string]string{}
	for _, r := range exampleRecipes() {
		fetch := exampleHash(r.name, "fetch")
		url := "git://git.example.com/" + r.repository + ".git;protocol=https;branch=main"
		err := writeTask(dir, r.name, "fetch", fetch, map[string]string{}, map[string]string{"SRC_URI": url, "fetcher_hashes_dummyfunc": r.revision})
		if err != nil {
			return err
		}
		depends := map[string]string{r.name + ":do_fetch": fetch}
		for _, used := range r.uses {
			depends[used+":do_populate_sysroot"] = sysroots[used]
		}
		sysroots[r.name] = exampleHash(r.name, "populate_sysroot")
		if err := writeTask(dir, r.name, "populate_sysroot", sysroots[r.name], depends, map[string]string{}); err != nil {
			return err
		}
		archive, err := exampleArchive(r.name)
		if err != nil {
			return err
		}
		if err := writeObject(dir, exampleName(r.name, "populate_sysroot", sysroots[r.name]), archive); err != nil {
			return err
		}
	}
	return nil
}

// exampleHash stands for the unihash that BitBake would compute.
func exampleHash(recipe, task string) string {
	sum := sha256.Sum256([]byte("lychgate example " + recipe + " " + task))
	return hex.EncodeToString(sum[:])
}

// exampleName is the name of a task's archive, of a recipe for the build host. do_fetch and its like have no architecture.
func exampleName(recipe, task, hash string) string {
	triplet, arch, dir := "x86_64-linux", "x86_64", "universal/"
	if task == "fetch" {
		triplet, arch, dir = "", "", ""
	}
	return fmt.Sprintf("%s%s/%s/sstate:%s:%s:1.0:r0:%s:14:%s_%s.tar.zst", dir, hash[:2], hash[2:4], recipe, triplet, arch, hash, task)
}

// writeTask writes the siginfo of one task: what it ran after, and its variables.
func writeTask(dir, recipe, task, hash string, depends, variables map[string]string) error {
	text, err := json.Marshal(map[string]any{
		"task": "do_" + task, "taskhash": hash, "unihash": hash,
		"runtaskdeps": slices.Sorted(maps.Keys(depends)), "runtaskhashes": depends, "varvals": variables, "file_checksum_values": []any{},
	}, json.Deterministic(true))
	if err != nil {
		return err
	}
	return writeObject(dir, exampleName(recipe, task, hash)+".siginfo", storedFrame(text))
}

// exampleArchive returns a tar archive with one file.
func exampleArchive(recipe string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	text := []byte("what " + recipe + " would install\n")
	if err := w.WriteHeader(&tar.Header{Name: "./sysroot-only/" + recipe, Mode: 0o644, Size: int64(len(text))}); err != nil {
		return nil, err
	}
	if _, err := w.Write(text); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return storedFrame(b.Bytes()), nil
}

// storedFrame returns content, of less than 128 KiB, as a zstd frame (RFC 8878) of one block that is stored, not
// compressed: the example needs no compressor.
func storedFrame(content []byte) []byte {
	frame := binary.LittleEndian.AppendUint32(nil, 0xFD2FB528)
	frame = append(frame, 0b1010_0000) // single segment, content size in four bytes
	frame = binary.LittleEndian.AppendUint32(frame, uint32(len(content)))
	block := uint32(len(content))<<3 | 1 // type raw, last block
	frame = append(frame, byte(block), byte(block>>8), byte(block>>16))
	return append(frame, content...)
}

func writeObject(dir, name string, content []byte) error {
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o644)
}
