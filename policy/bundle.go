package policy

import (
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/open-policy-agent/opa/v1/ast"
)

//go:embed bundle/*.rego
var embedded embed.FS

// Limits on a bundle, far above what a policy needs: what exceeds them is refused before it is parsed.
const (
	maxBundleBytes = 8 << 20
	maxBundleFiles = 1000
	maxBundleDepth = 16
)

// tree is a bundle as read, before it is compiled. It is immutable.
type tree struct {
	files []file // sorted by name
	data  ast.Object
	// config is what the gate's configuration adds to data; tests run without it, as stock opa would run them.
	config ast.Object
	hash   [sha256.Size]byte
	label  string // the manifest's own revision; may be empty
}

// file is one file of a bundle by its slash-separated name within it.
type file struct {
	name string
	text []byte
}

// isTest reports whether a module is a test, which takes no part in decisions.
func (f file) isTest() bool { return strings.HasSuffix(f.name, "_test.rego") }

// name is the revision: twelve hex digits of the content's hash and the manifest's label.
func (t *tree) name() string {
	short := hex.EncodeToString(t.hash[:6])
	if t.label == "" {
		return short
	}
	return short + "+" + t.label
}

// sourceName names a bundle directory for people.
func sourceName(dir string) string {
	if dir == "" {
		return "embedded"
	}
	return dir
}

// bundleFS opens a bundle directory, or the embedded bundle when dir is empty.
func bundleFS(dir string) (fs.FS, error) {
	if dir == "" {
		return fs.Sub(embedded, "bundle")
	}
	info, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory: name the directory that holds the *.rego files", dir)
	}
	return os.DirFS(dir), nil
}

// readTree reads a bundle and adds the configuration's data.
func readTree(dir string, config map[string]any) (*tree, error) {
	fsys, err := bundleFS(dir)
	if err != nil {
		return nil, err
	}
	files, err := readFiles(fsys)
	if err != nil {
		return nil, err
	}
	return newTree(files, config)
}

// newTree reads the data of files that were read.
func newTree(files []file, config map[string]any) (*tree, error) {
	t := &tree{files: files, data: ast.NewObject(), config: ast.NewObject()}
	if err := t.addConfig(config); err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := t.addFile(f); err != nil {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	t.hash = t.sum()
	return t, nil
}

// addConfig places the configuration under data.lychgate.config.
func (t *tree) addConfig(config map[string]any) error {
	if len(config) == 0 {
		return nil
	}
	v, err := ast.InterfaceToValue(config)
	if err != nil {
		return fmt.Errorf("configuration data: %w", err)
	}
	t.config = nest([]string{"lychgate", "config"}, v)
	return nil
}

// addFile reads a data file or the manifest; modules wait for the compiler.
func (t *tree) addFile(f file) error {
	switch path.Base(f.name) {
	case "data.json":
		return t.addData(f)
	case ".manifest":
		return t.addManifest(f.text)
	}
	return nil
}

// addData merges one data.json under the path of its directory, as OPA's bundles do.
func (t *tree) addData(f file) error {
	v, err := parseJSON(f.text)
	if err != nil {
		return err
	}
	var at []string
	if dir := path.Dir(f.name); dir != "." {
		at = strings.Split(dir, "/")
	}
	if _, isObject := v.(ast.Object); len(at) == 0 && !isObject {
		return errors.New("the bundle's root data must be a JSON object")
	}
	merged, ok := t.data.Merge(nest(at, v))
	if !ok {
		return errors.New("sets a member that another data.json of the bundle sets too")
	}
	t.data = merged
	return nil
}

// manifestLabel bounds what a manifest may put into audit lines.
var manifestLabel = regexp.MustCompile(`^[A-Za-z0-9._:+-]{0,64}$`)

// addManifest takes the revision from a manifest; its other members are for OPA's own tools.
func (t *tree) addManifest(text []byte) error {
	var m struct {
		Revision string `json:"revision"`
	}
	if err := json.Unmarshal(text, &m); err != nil {
		return err
	}
	if !manifestLabel.MatchString(m.Revision) {
		return errors.New("revision: want up to 64 letters, digits, dots, colons, plus, minus and underline")
	}
	t.label = m.Revision
	return nil
}

// merged is the bundle's data with the configuration's.
func (t *tree) merged() (ast.Object, error) {
	all, ok := t.data.Merge(t.config)
	if !ok {
		return nil, errors.New("data.json sets a member of data.lychgate.config that the gate's configuration sets too: remove one of them")
	}
	return all, nil
}

// sum hashes everything an answer can depend on. Lengths keep neighbours apart.
func (t *tree) sum() [sha256.Size]byte {
	h := sha256.New()
	part := func(text []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(text)))
		h.Write(n[:])
		h.Write(text)
	}
	part([]byte(t.config.String()))
	for _, f := range t.files {
		part([]byte(f.name))
		part(f.text)
	}
	return [sha256.Size]byte(h.Sum(nil))
}

// nest wraps v in objects, outermost first. Without a path v itself must be an object.
func nest(at []string, v ast.Value) ast.Object {
	for _, name := range slices.Backward(at) {
		v = ast.NewObject(ast.Item(ast.StringTerm(name), ast.NewTerm(v)))
	}
	return v.(ast.Object)
}

// parseJSON reads one JSON value strictly: valid UTF-8, no duplicate names. Numbers keep all their digits.
func parseJSON(text []byte) (ast.Value, error) {
	if err := checkJSON(text); err != nil {
		return nil, err
	}
	return ast.ValueFromReader(strings.NewReader(string(text)))
}

// checkJSON says where text is not one strict JSON value.
func checkJSON(text []byte) error {
	var v jsontext.Value
	return json.Unmarshal(text, &v)
}

// readFiles reads the files of a bundle that matter, by name.
func readFiles(fsys fs.FS) ([]file, error) {
	r := reader{fsys: fsys, left: maxBundleBytes}
	if err := r.dir(".", 0); err != nil {
		return nil, err
	}
	slices.SortFunc(r.files, func(a, b file) int { return strings.Compare(a.name, b.name) })
	return r.files, nil
}

// reader collects a bundle's files and counts them.
type reader struct {
	fsys  fs.FS
	files []file
	left  int64
	seen  int
}

// dir reads one directory. Names that begin with a dot are skipped: among them are the directories that Kubernetes
// swaps a mounted bundle with (..data). Symbolic links are followed, since such a mount consists of them; the bounds
// stop a loop.
func (r *reader) dir(name string, depth int) error {
	if depth > maxBundleDepth {
		return fmt.Errorf("%s: more than %d directories deep: is there a symbolic link to itself?", name, maxBundleDepth)
	}
	entries, err := fs.ReadDir(r.fsys, name)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if r.seen++; r.seen > maxBundleFiles {
			return fmt.Errorf("more than %d files: is this a directory of policies?", maxBundleFiles)
		}
		if err := r.entry(path.Join(name, entry.Name()), depth); err != nil {
			return err
		}
	}
	return nil
}

// entry reads what a directory holds: directories, and files by their names.
func (r *reader) entry(name string, depth int) error {
	base := path.Base(name)
	if strings.HasPrefix(base, ".") && name != ".manifest" {
		return nil
	}
	if base == "data.yaml" || base == "data.yml" {
		return fmt.Errorf("%s: YAML data is not read: write it as data.json", name)
	}
	info, err := fs.Stat(r.fsys, name)
	switch {
	case err != nil && wanted(base):
		return err
	case err != nil:
		return nil
	case info.IsDir():
		return r.dir(name, depth+1)
	case !wanted(base):
		return nil
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s: not a regular file", name)
	}
	return r.file(name)
}

// wanted reports whether a file of this name belongs to a bundle.
func wanted(base string) bool {
	return strings.HasSuffix(base, ".rego") || base == "data.json" || base == ".manifest"
}

// file reads one file within what is left of the bundle's size.
func (r *reader) file(name string) error {
	f, err := r.fsys.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, r.left+1))
	if err != nil {
		return err
	}
	if r.left -= int64(len(text)); r.left < 0 {
		return fmt.Errorf("%s: the bundle is larger than %d MiB", name, maxBundleBytes>>20)
	}
	r.files = append(r.files, file{name, text})
	return nil
}
