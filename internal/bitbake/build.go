package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// result is what a build came to.
type result struct {
	dir                            string
	exit                           int
	took                           time.Duration
	wanted, local, mirrors, missed int
	errors, warnings               []string
	compiled                       []string // recipes
	succeeded                      bool     // every task did, in the end
	traceback                      bool     // Python's, anywhere
}

// order says what to build: all recipes, from nothing, in a directory of its own.
type order struct {
	name  string
	home  string    // whose .netrc and ssh_config apply
	conf  string    // lines of configuration beside buildConf: mirrors and servers
	only  []string  // arguments that make it less than a build
	ca    string    // file of the authority that Python trusts; empty for the system's
	watch io.Writer // gets BitBake's output as it comes; nil for nobody
	// started is told the process of BitBake's command, and does not wait; nil for nobody.
	started func(pid int)
	// layers and targets are others than the world's own; nil for those.
	layers, targets []string
	env             []string // beside what every build has
}

// build builds.
func (w *world) build(ctx context.Context, o order) (result, error) {
	name, home := o.name, o.home
	r := result{dir: w.path("builds/" + name)}
	if o.layers == nil {
		o.layers = []string{w.path("layer")}
	}
	if o.targets == nil {
		for _, recipe := range recipes() {
			o.targets = append(o.targets, recipe.name)
		}
	}
	layers := fmt.Sprintf("BBPATH = \"${TOPDIR}\"\nBBFILES = \"\"\nBBLAYERS = \"%s/meta %s\"\n", w.o.oecore, strings.Join(o.layers, " "))
	err := errors.Join(
		w.write("builds/"+name+"/conf/bblayers.conf", layers),
		w.write("builds/"+name+"/conf/local.conf", buildConf+o.conf),
	)
	if err != nil {
		return r, err
	}
	cmd := exec.CommandContext(ctx, filepath.Join(w.o.bitbake, "bin/bitbake"), slices.Concat(o.only, o.targets)...)
	cmd.Dir = r.dir
	cmd.Env = []string{
		"PATH=" + w.path("bin") + ":" + filepath.Join(w.o.bitbake, "bin") + ":" + os.Getenv("PATH"), "HOME=" + home,
		"BBPATH=" + r.dir, "LC_ALL=en_US.UTF-8", "LOCPATH=" + w.path("locale"),
		"BB_ENV_PASSTHROUGH_ADDITIONS=LOCPATH SSL_CERT_FILE",
	}
	cmd.Env = append(cmd.Env, o.env...)
	if o.ca != "" {
		cmd.Env = append(cmd.Env, "SSL_CERT_FILE="+o.ca)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = time.Minute
	var out bytes.Buffer
	cmd.Stdout = io.Writer(&out)
	if o.watch != nil {
		cmd.Stdout = io.MultiWriter(&out, o.watch)
	}
	cmd.Stderr = cmd.Stdout
	start := time.Now()
	if err = cmd.Start(); err == nil {
		if o.started != nil {
			o.started(cmd.Process.Pid)
		}
		err = cmd.Wait()
	}
	r.took, r.exit = time.Since(start), cmd.ProcessState.ExitCode()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) || ctx.Err() != nil {
		return r, errors.Join(err, ctx.Err())
	}
	if err := w.write("builds/"+name+"/output", out.String()); err != nil {
		return r, err
	}
	r.read(out.String())
	return r, nil
}

var (
	summary  = regexp.MustCompile(`Sstate summary: Wanted (\d+) Local (\d+) Mirrors (\d+) Missed (\d+) `)
	problem  = regexp.MustCompile(`(?m)^(ERROR|WARNING): .*$`)
	compiled = regexp.MustCompile(`(?m)^NOTE: recipe (\S+)-[^-\s]+-r0: task do_compile: Succeeded$`)
)

// read takes from BitBake's output what is checked. Without a summary all counts are zero.
func (r *result) read(output string) {
	if m := summary.FindStringSubmatch(output); m != nil {
		for i, into := range []*int{&r.wanted, &r.local, &r.mirrors, &r.missed} {
			*into, _ = strconv.Atoi(m[i+1]) // digits, as matched
		}
	}
	for _, m := range problem.FindAllStringSubmatch(output, -1) {
		if m[1] == "ERROR" {
			r.errors = append(r.errors, m[0])
		} else {
			r.warnings = append(r.warnings, m[0])
		}
	}
	for _, m := range compiled.FindAllStringSubmatch(output, -1) {
		r.compiled = append(r.compiled, m[1])
	}
	r.traceback = strings.Contains(output, "Traceback (most recent call last)")
	r.succeeded = strings.Contains(output, " and all succeeded.")
}

// objects returns the names of the archives in a cache, or of the siginfo files beside archives as well.
func objects(dir string, siginfo bool) (names []string, err error) {
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		archive := strings.TrimSuffix(path, ".siginfo")
		if !strings.HasSuffix(archive, ".tar.zst") || archive != path && !siginfo {
			return nil
		}
		if _, err := os.Stat(archive); err != nil {
			return nil // a siginfo alone
		}
		name, err := filepath.Rel(dir, path)
		names = append(names, name)
		return err
	})
	return names, err
}

// recipeOf returns the recipe of an object: "sstate:RECIPE:...".
func recipeOf(name string) string {
	_, rest, _ := strings.Cut(name, "sstate:")
	recipe, _, _ := strings.Cut(rest, ":")
	return recipe
}

// sameBytes compares those objects that both caches have, and returns how many they are.
func sameBytes(one, other string, names []string) (int, error) {
	same := 0
	var differ []error
	for _, name := range names {
		got, err := os.ReadFile(filepath.Join(other, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // was not needed
		}
		want, err2 := os.ReadFile(filepath.Join(one, name))
		if err := errors.Join(err, err2); err != nil {
			return same, err
		}
		if bytes.Equal(got, want) {
			same++
		} else {
			differ = append(differ, fmt.Errorf("%s has other bytes", name))
		}
	}
	return same, errors.Join(differ...)
}
