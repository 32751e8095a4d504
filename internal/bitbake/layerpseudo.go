package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// fakedText is a recipe whose task with an archive pretends to be root.
const fakedText = `fakeroot do_deploy() {
	echo ${PN} >${DEPLOYDIR}/faked.txt
	chown 1:1 ${DEPLOYDIR}/faked.txt
	[ "$(stat -c %u ${DEPLOYDIR}/faked.txt)" = 1 ]
}
inherit allarch nopackages deploy
deltask do_install
deltask do_populate_sysroot
addtask deploy after do_compile before do_build
`

const pseudoConf = `INHERIT += "lychgate"
FAKEROOTCMD = "%[1]s"
FAKEROOTBASEENV = "PSEUDO_BINDIR=/usr/bin PSEUDO_LIBDIR=%[2]s PSEUDO_PREFIX=/usr PSEUDO_DISABLED=1 PYTHONDONTWRITEBYTECODE=1"
FAKEROOTENV = "PSEUDO_PREFIX=/usr PSEUDO_LOCALSTATEDIR=${PSEUDO_LOCALSTATEDIR} PSEUDO_NOSYMLINKEXP=1 PSEUDO_IGNORE_PATHS=${PSEUDO_IGNORE_PATHS} PSEUDO_DISABLED=0"
`

// tryPseudo builds with a task that runs under pseudo, and looks for the record and for what pseudo remembers. It is Debian's pseudo: as that of
// older series it minds every path that it is not told to ignore.
func (l *layerTrial) tryPseudo(ctx context.Context) error {
	program, err := exec.LookPath("pseudo")
	if err != nil {
		return errors.New("a program is missing; run: sudo apt-get install pseudo")
	}
	libraries, err := filepath.Glob("/usr/lib/*/pseudo/libpseudo.so")
	if err != nil || len(libraries) == 0 {
		return errors.New("libpseudo.so is not where Debian has it, below /usr/lib/*/pseudo")
	}
	own, err := filepath.Abs("layers/meta-lychgate")
	if err != nil {
		return err
	}
	w := l.w
	r, err := w.build(ctx, order{
		name: "layer-pseudo", home: w.path("homes/layer"), conf: fmt.Sprintf(pseudoConf, program, filepath.Dir(libraries[0])),
		layers: []string{w.path("layers/meta-faked"), own}, targets: []string{"faked"},
	})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "layer-pseudo: exit code %d, %.0f s\n", r.exit, r.took.Seconds())
	if r.exit != 0 || len(r.errors) > 0 || len(r.warnings) > 0 {
		return fmt.Errorf("exit code %d, see %s/output (-keep): %q %q", r.exit, r.dir, r.errors, r.warnings)
	}
	return checkPseudo(ctx, r.dir)
}

// checkPseudo: the task is recorded as any other, and the record is none of the files that pseudo has a false owner for.
func checkPseudo(ctx context.Context, build string) error {
	names, err := objects(filepath.Join(build, "sstate"), false)
	if err != nil {
		return err
	}
	found := false
	for _, name := range names {
		if !recorded(filepath.Join(build, "tmp/lychgate/records"), name) {
			err = errors.Join(err, fmt.Errorf("%s has no record", name))
		}
		found = found || strings.HasSuffix(name, "_deploy.tar.zst")
	}
	if err != nil || !found {
		return errors.Join(err, fmt.Errorf("the task under pseudo left an archive: %v", found))
	}
	databases, err := filepath.Glob(filepath.Join(build, "tmp/work/*/faked/*/pseudo/files.db"))
	if err != nil || len(databases) != 1 {
		return errors.Join(err, fmt.Errorf("%d databases of pseudo", len(databases)))
	}
	const query = "import sqlite3, sys\nfor row in sqlite3.connect(sys.argv[1]).execute('SELECT path FROM files'): print(row[0])"
	paths, err := exec.CommandContext(ctx, "python3", "-c", query, databases[0]).Output()
	if err != nil {
		return fmt.Errorf("read what pseudo remembers: %w", err)
	}
	if !strings.Contains(string(paths), "/faked.txt\n") || strings.Contains(string(paths), "/lychgate/") {
		return fmt.Errorf("pseudo remembers:\n%s", paths)
	}
	return nil
}
