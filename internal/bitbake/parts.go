package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// layerRepository is the repository of the layer that the parts' recipes and some of their files are in. Not everybody may read it.
const layerRepository = "layers/meta-parts"

// part is a recipe of a larger build. Its work is that of a [recipe], with any number of sources and of others to use.
type part struct {
	name string
	made
}

func (p part) native() bool { return strings.HasSuffix(p.name, "-native") }

// tasks are those that leave an object.
func (p part) tasks() []string {
	if p.native() {
		return []string{licenses, epoch, "populate_sysroot", "deploy"}
	}
	return []string{licenses, epoch, "deploy"}
}

// kinds are what parts are made of: directories of the forge, each with one repository for each round, and the layer.
func kinds() [][]string {
	return [][]string{
		{"public"}, {"teamA"}, {"layers"}, {"public", "layers"}, {"teamB"}, {"public"}, {"teamA", "public"}, {"teamA"},
	}
}

const (
	nativeRounds = 4 // with 4 objects each part
	rounds       = 5 // the last is for the machine, and has 3
)

// parts are one of each kind in each round: each uses the one of its kind in the round before, and in every other round its neighbour
// there.
func parts() (list []part) {
	for round := range rounds {
		for i, kind := range kinds() {
			p := part{name: partName(round, i)}
			for _, dir := range kind {
				p.sources = append(p.sources, repositoryOf(dir, round))
			}
			if round > 0 {
				p.uses = append(p.uses, partName(round-1, i))
			}
			if round%2 == 1 {
				p.uses = append(p.uses, partName(round-1, (i+1)%len(kinds())))
			}
			list = append(list, p)
		}
	}
	return list
}

func partName(round, kind int) string {
	if round < nativeRounds {
		return fmt.Sprintf("part-%d-%d-native", round, kind)
	}
	return fmt.Sprintf("part-%d-%d", round, kind)
}

func repositoryOf(dir string, round int) string {
	if dir == "layers" {
		return layerRepository
	}
	return fmt.Sprintf("%s/round-%d", dir, round)
}

// changedParts are two on which others build; not everybody may read the first.
func changedParts() []string { return []string{partName(0, 1), partName(0, 5)} }

// partsGraph is what the parts are made of.
func partsGraph() graph {
	g := graph{}
	for _, p := range parts() {
		g[p.name] = p.made
	}
	return g
}

// partUsers are four with different rights.
func partUsers() []reader {
	return []reader{
		{name: "alice", below: []string{""}},
		{name: "bob", below: []string{"public/", "teamA/"}},
		{name: "carol", below: []string{"public/", "layers/"}},
		{name: "dave"},
	}
}

// makeParts makes the repositories and the layer, which is one too.
func (w *world) makeParts(ctx context.Context) error {
	revs := map[string]string{}
	for _, p := range parts() {
		for _, repository := range p.sources {
			if revs[repository] != "" || repository == layerRepository {
				continue
			}
			tree := "repositories/" + repository + ".git"
			if err := w.write(tree+"/content.txt", "the sources in "+repository+"\n"); err != nil {
				return err
			}
			var err error
			if revs[repository], err = w.commit(ctx, tree); err != nil {
				return err
			}
		}
		if err := w.write("parts/recipes/"+p.name+"_1.0.bb", p.text(revs)); err != nil {
			return err
		}
	}
	series, err := w.series()
	if err != nil {
		return err
	}
	err = errors.Join(w.write("parts/conf/layer.conf", fmt.Sprintf(layerConf, series)), w.write("parts/recipes/files/layer.txt", "a file of the layer\n"))
	if err != nil {
		return err
	}
	if _, err := w.commit(ctx, "parts"); err != nil {
		return err
	}
	return command(ctx, w.path("parts"), nil, "git", "remote", "add", "origin", "https://git.example.com/"+layerRepository+".git")
}

// text is the part's recipe.
func (p part) text(revs map[string]string) string {
	var entries, lines, names, inputs []string
	for i, repository := range p.sources {
		if repository == layerRepository {
			entries, inputs = append(entries, "file://layer.txt"), append(inputs, "${UNPACKDIR}/layer.txt")
			continue
		}
		name := fmt.Sprintf("s%d", i)
		entries = append(entries, fmt.Sprintf("git://git.example.com/%[1]s.git;protocol=https;branch=main;name=%[2]s;destsuffix=%[2]s", repository, name))
		lines = append(lines, fmt.Sprintf("SRCREV_%s = %q", name, revs[repository]))
		names, inputs = append(names, name), append(inputs, "${UNPACKDIR}/"+name+"/content.txt")
	}
	for _, used := range p.uses {
		inputs = append(inputs, "${STAGING_DATADIR_NATIVE}/"+used+".txt")
	}
	lines = append(lines, fmt.Sprintf("SRCREV_FORMAT = %q", strings.Join(names, "_")))
	steps := strings.Replace(deploySteps, "${DEPLOYDIR}/", "${DEPLOYDIR}/deployed-", 1)
	if p.native() {
		steps = partSteps
	}
	return fmt.Sprintf(partText, strings.Join(entries, " "), strings.Join(lines, "\n"), strings.Join(p.uses, " "), strings.Join(inputs, " ")) + steps
}

const partText = `LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"
SRC_URI = "%s"
%s
S = "${UNPACKDIR}"
INHIBIT_DEFAULT_DEPS = "1"
DEPENDS = "%s"
deltask do_patch
deltask do_configure
addtask deploy_source_date_epoch after do_unpack
addtask populate_lic after do_unpack before do_build
addtask compile after do_unpack do_prepare_recipe_sysroot do_deploy_source_date_epoch
REMARK ?= ":"
do_compile() {
	${REMARK}
	cat %s >result.txt
}
`

const partSteps = `do_install() {
	install -D -m 0644 result.txt ${D}${datadir}/${PN}.txt
}
do_deploy() {
	install -D -m 0644 result.txt ${DEPLOYDIR}/deployed-${PN}.txt
}
addtask deploy after do_compile before do_build
inherit native deploy
`

// partTargets are all parts.
func partTargets() (names []string) {
	for _, p := range parts() {
		names = append(names, p.name)
	}
	slices.Sort(names)
	return names
}
