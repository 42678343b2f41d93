package main

import (
	_ "embed"
	"html/template"
	"io"
	"strings"
)

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Funcs(template.FuncMap{
	"figure": figure, "dash": dash, "dashed": dashed,
	"micro":  micro,
	"mega":   func(v float64) float64 { return v / 1e6 },
	"mib":    func(n int64) float64 { return float64(n) / (1 << 20) },
	"middle": func(c Column, row *Row) *Run { return c.middle(row) },
	"say":    func(m Met, row *Row) string { return m.say(row) },
	"width":  func(v float64, row *Row) float64 { return 100 * v / row.longest() },
	"mine":   func(c Column) bool { return strings.HasPrefix(c.System, "tidewire") },
}).Parse(pageText))

// longest is the greatest figure of a row, which its bars are drawn against.
func (r *Row) longest() (v float64) {
	for _, c := range r.Entries {
		v = max(v, c.Max)
	}
	return v
}

// html writes one page that needs nothing else.
func (r *Report) html(w io.Writer) error {
	held, all := r.held()
	return page.Execute(w, struct {
		*Report
		Held, All int
		Table     [][]string
	}{r, held, all, r.table()})
}
