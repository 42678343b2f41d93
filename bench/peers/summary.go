package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

// readReports reads what runs have left as results.json.
func readReports(files []string) (reports []*Report, err error) {
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		r := new(Report)
		if err := json.Unmarshal(b, r); err != nil {
			return nil, fmt.Errorf("%s is no results.json of a run: %w", name, err)
		}
		reports = append(reports, r)
	}
	return reports, nil
}

// summary writes a table in Markdown of several runs of the same cases: the medians of each, and how often the goals held.
func summary(w io.Writer, reports []*Report) error {
	if len(reports) == 0 {
		return fmt.Errorf("-summary needs the results.json of at least one run")
	}
	first := reports[0]
	names, rule := []string{"case"}, []string{"---"}
	for _, s := range systems {
		names, rule = append(names, s.Name()), append(rule, "---")
	}
	fmt.Fprintf(w, "| %s | goals, and what was reached |\n| %s | --- |\n", strings.Join(names, " | "), strings.Join(rule, " | "))
	for i, row := range first.Rows {
		var rows []*Row
		for _, r := range reports {
			if i >= len(r.Rows) || r.Rows[i].Name != row.Name {
				return fmt.Errorf("the run of %s has not the same cases as that of %s", r.Began.UTC().Format("15:04"), first.Began.UTC().Format("15:04"))
			}
			rows = append(rows, r.Rows[i])
		}
		cells := []string{row.Name + ", " + row.Unit}
		for _, s := range systems {
			cells = append(cells, medians(rows, s.Name()))
		}
		fmt.Fprintf(w, "| %s | %s |\n", strings.Join(cells, " | "), strings.Join(reached(rows), "; "))
	}
	fmt.Fprintln(w)
	for _, r := range reports {
		held, all := r.held()
		fmt.Fprintf(w, "- %s, %d rounds or twice as many: the goals of %d of %d cases hold.", r.Began.UTC().Format("2006-01-02 15:04 UTC"), r.Rounds, held, all)
		for _, f := range r.Floors {
			fmt.Fprintf(w, " %s: p50 %.0f us.", f.Name, micro(f.Latency.P50))
		}
		fmt.Fprintln(w)
	}
	return nil
}

// medians are a system's in each run, with the client if it has several; with a star where it was below what is known of it.
func medians(rows []*Row, system string) string {
	var of []string
	clients := map[string]bool{}
	several := false
	for _, r := range rows {
		c, err := r.best(system)
		if err != nil {
			return "-"
		}
		s := figure(c.Median)
		if c.Low { // of its best client
			s += "*"
		}
		of = append(of, s)
		clients[cmp.Or(c.Client, "plain")] = true
		several = several || r.clients(system) > 1
	}
	text := strings.Join(of, " / ")
	if several {
		text += " (" + strings.Join(slices.Sorted(maps.Keys(clients)), ", ") + ")"
	}
	return text
}

// reached are the goals of a case, each with its ratio in each run.
func reached(rows []*Row) (goals []string) {
	for i, g := range rows[0].Goals {
		var ratios []string
		missed := 0
		for _, r := range rows {
			ratios = append(ratios, figure(r.Goals[i].Ratio))
			if !r.Goals[i].Held {
				missed++
			}
		}
		bound := "≥"
		if g.AtMost {
			bound = "≤"
		}
		what, unit := g.measured(rows[0])
		say := fmt.Sprintf("%s %s, goal %s %s %s", what, strings.Join(ratios, " / "), bound, figure(g.Reach), unit)
		if missed > 0 {
			say += fmt.Sprintf(", **short in %d of %d**", missed, len(rows))
		}
		goals = append(goals, say)
	}
	return goals
}
