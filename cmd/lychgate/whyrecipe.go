package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/lychgate/lychgate/gateway"
	"github.com/lychgate/lychgate/internal/agent"
)

// isRecipe tells the name of a recipe from that of an object, which has directories.
func isRecipe(arg string) bool { return !strings.Contains(arg, "/") }

// missedRecipes are the recipes of which the running agent missed something; none when it cannot be asked.
func missedRecipes(cmd *cobra.Command, control string) (names []string) {
	path, err := controlPath(control)
	if err != nil {
		return nil
	}
	list, _ := agent.AskRecipes(cmd.Context(), path) // without an answer there is nothing to complete
	for _, r := range list {
		if r.Missed > 0 {
			names = append(names, r.Recipe)
		}
	}
	return names
}

// whyRecipes says why objects of recipes were not there; without recipes, of which something was not.
func whyRecipes(cmd *cobra.Command, control string, recipes []string, asJSON bool) error {
	path, err := controlPath(control)
	if err != nil {
		return err
	}
	if len(recipes) == 0 {
		list, err := agent.AskRecipes(cmd.Context(), path)
		if err != nil {
			return err
		}
		return writeRecipes(cmd.OutOrStdout(), list, asJSON)
	}
	var answers []agent.RecipeWhy
	for _, recipe := range recipes {
		w, err := agent.AskWhy(cmd.Context(), path, recipe)
		if errors.Is(err, agent.ErrNoAgent) {
			return fmt.Errorf("%w; or ask the gate about an object by its whole name, directories and all", err)
		}
		if err != nil {
			return err
		}
		if w.Found+w.Missed == 0 {
			return fmt.Errorf("BitBake has asked the agent for nothing of recipe %s lately: lychgate why lists what it missed", printable(recipe))
		}
		answers = append(answers, w)
	}
	if err := writeRecipeWhys(cmd.OutOrStdout(), answers, asJSON); err != nil {
		return err
	}
	if slices.ContainsFunc(answers, func(w agent.RecipeWhy) bool { return slices.ContainsFunc(w.Objects, stillMissing) }) {
		return &exitError{code: exitRefused}
	}
	return nil
}

func stillMissing(m agent.Missed) bool { return m.Why.State != gateway.WhyPresent || m.Fault != "" }

// writeRecipes lists recipes of which something was missed.
func writeRecipes(w io.Writer, list []agent.RecipeCount, asJSON bool) error {
	if asJSON {
		return printJSON(w, list)
	}
	var sum agent.RecipeCount
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range list {
		if sum.Missed, sum.Found = sum.Missed+r.Missed, sum.Found+r.Found; r.Missed > 0 {
			fmt.Fprintf(table, "%s\t%d missed\t%d found\n", printable(r.Recipe), r.Missed, r.Found)
		}
	}
	fmt.Fprintf(table, "in all\t%d missed\t%d found\n", sum.Missed, sum.Found)
	if err := table.Flush(); err != nil || sum.Missed == 0 {
		return err
	}
	_, err := fmt.Fprintln(w, "why: lychgate why RECIPE")
	return err
}

func writeRecipeWhys(w io.Writer, answers []agent.RecipeWhy, asJSON bool) (err error) {
	if asJSON {
		return printJSON(w, answers)
	}
	for _, a := range answers {
		_, err = fmt.Fprintf(w, "%s: %d missed, %d found\n", printable(a.Recipe), a.Missed, a.Found)
		for _, g := range groupMissed(a.Objects) {
			_, err = fmt.Fprintf(w, "  %s\n    %s\n", strings.Join(g.lines, "\n  "), strings.Join(g.tasks(), ", "))
		}
		if more := a.Missed - len(a.Objects); more > 0 {
			_, err = fmt.Fprintf(w, "  and %d more, which were missed before these\n", more)
		}
	}
	return err
}

// missedGroup is objects that were missed for the same reason, and the lines that say so.
type missedGroup struct {
	lines   []string
	objects []agent.Missed
}

// groupMissed puts objects together that have one reason, the latest first.
func groupMissed(objects []agent.Missed) (groups []*missedGroup) {
	for _, m := range objects {
		lines := missedLines(m)
		i := slices.IndexFunc(groups, func(g *missedGroup) bool { return slices.Equal(g.lines, lines) })
		if i < 0 {
			i, groups = len(groups), append(groups, &missedGroup{lines: lines})
		}
		groups[i].objects = append(groups[i].objects, m)
	}
	return groups
}

// missedLines say why an object was missed.
func missedLines(m agent.Missed) []string {
	if m.Unasked != "" {
		return []string{"the gate cannot be asked why: " + printable(m.Unasked)}
	}
	state := whyText(m.Why.State)
	switch {
	case m.Why.State == gateway.WhyPresent && m.Fault != "":
		state = "it is there for you; when BitBake asked: " + printable(m.Fault)
	case m.Why.State == gateway.WhyPresent:
		state = "it is there for you now, and was not when BitBake asked"
	}
	lines := []string{state}
	for _, source := range m.Why.Missing {
		lines = append(lines, "you may not read "+printable(source)+": ask there for access")
	}
	if m.Why.Contact != "" {
		lines = append(lines, "ask "+printable(m.Why.Contact))
	}
	return lines
}

// tasks names the tasks of a group, as BitBake does, with how many builds of each there are when there are more than one.
func (g *missedGroup) tasks() (labels []string) {
	hashes := map[string]map[string]bool{}
	for _, m := range g.objects {
		label := "do_" + printable(m.Task)
		if m.Zone != agentZone {
			label += " in zone " + printable(m.Zone)
		}
		if hashes[label] == nil {
			hashes[label] = map[string]bool{}
			labels = append(labels, label)
		}
		hashes[label][archiveOf(m.Name)] = true
	}
	slices.Sort(labels)
	for i, label := range labels {
		if n := len(hashes[label]); n > 1 {
			labels[i] += " (" + strconv.Itoa(n) + ")"
		}
	}
	return labels
}

// archiveOf returns the name of the archive that an object is part of.
func archiveOf(name string) string {
	return strings.TrimSuffix(strings.TrimSuffix(name, ".sig"), ".siginfo")
}
