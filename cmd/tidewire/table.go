package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/mattn/go-runewidth"
)

const (
	columnGap = 2
	columnMin = 8 // a column is not cut below that
)

// table writes rows in columns. On a terminal the widest columns are cut until a row fits its width;
// elsewhere nothing is cut.
func (a *app) table(rows [][]string) { a.columns(rows, false) }

// headed is a table whose first row is the head.
func (a *app) headed(rows [][]string) { a.columns(rows, true) }

func (a *app) columns(rows [][]string, head bool) {
	widths := columnWidths(rows)
	if a.width > 0 {
		narrow(widths, a.width)
	}
	for i, row := range rows {
		var line strings.Builder
		for j, cell := range row {
			cell = runewidth.Truncate(cell, widths[j], "…")
			line.WriteString(cell)
			if j+1 < len(row) {
				line.WriteString(strings.Repeat(" ", widths[j]-runewidth.StringWidth(cell)+columnGap))
			}
		}
		text := strings.TrimRight(line.String(), " ")
		if i == 0 && head && a.outColor {
			text = "\x1b[1m" + text + "\x1b[0m"
		}
		fmt.Fprintln(a.out, text)
	}
}

func columnWidths(rows [][]string) []int {
	var widths []int
	for _, row := range rows {
		for j, cell := range row {
			if j == len(widths) {
				widths = append(widths, 0)
			}
			widths[j] = max(widths[j], runewidth.StringWidth(cell))
		}
	}
	return widths
}

// narrow takes from the widest columns until all fit total.
func narrow(widths []int, total int) {
	sum := columnGap * (len(widths) - 1)
	for _, w := range widths {
		sum += w
	}
	for ; sum > total; sum-- {
		widest := slices.Index(widths, slices.Max(widths))
		if widths[widest] <= columnMin {
			return
		}
		widths[widest]--
	}
}

// details writes names and values; a value that does not fit the terminal goes on in lines below.
func (a *app) details(rows [][]string) {
	if a.width > 0 {
		rows = wrapValues(rows, a.width)
	}
	a.columns(rows, false)
}

func wrapValues(rows [][]string, total int) (out [][]string) {
	room := max(total-columnWidths(rows)[0]-columnGap, 2*columnMin)
	for _, row := range rows {
		name := row[0]
		line := ""
		for word := range strings.FieldsSeq(row[1]) {
			if line != "" && runewidth.StringWidth(line)+1+runewidth.StringWidth(word) > room {
				out = append(out, []string{name, line})
				name, line = "", ""
			}
			line = strings.TrimPrefix(line+" "+word, " ")
		}
		out = append(out, []string{name, line})
	}
	return out
}
