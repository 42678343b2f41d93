package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

const (
	barInterval  = 100 * time.Millisecond
	lineInterval = 5 * time.Second
	noEstimate   = 3 * time.Second // so long the pace says little about what is left
	barPatience  = time.Second     // what is over sooner needs no bar
)

// barFlags are --progress and --no-progress.
type barFlags struct{ always, never bool }

// progressFlags gives c the flags of work that may take long.
func (a *app) progressFlags(c *cobra.Command) {
	c.Flags().BoolVar(&a.bars.always, "progress", false, "say every 5 s on stderr how far it is, also if nobody knows how much there is")
	c.Flags().BoolVar(&a.bars.never, "no-progress", false, "do not say how far it is")
	c.MarkFlagsMutuallyExclusive("progress", "no-progress")
}

// progress is a bar on a terminal, and a line every 5 s elsewhere; a nil one does nothing.
type progress struct {
	all  *mpb.Progress
	bar  *mpb.Bar
	quit chan struct{}
	done chan struct{}
}

// progress shows how far something is. look says how much is done and in words; total 0 means that nobody knows
// how much there is: then there are lines only if asked for, as a pipe may be open for days.
func (a *app) progress(verb string, total int64, look func() (done int64, text string)) *progress {
	if a.bars.never || !a.terminal && total == 0 && !a.bars.always {
		return nil
	}
	p := &progress{quit: make(chan struct{}), done: make(chan struct{})}
	began := time.Now()
	words := func() string {
		done, text := look()
		return text + pace(done, total, time.Since(began))
	}
	if !a.terminal || a.bars.always {
		go p.every(lineInterval, func() { fmt.Fprintf(a.err, "%s %s%s\n", verb, share(look, total), words()) })
		return p
	}
	text := decor.Any(func(decor.Statistics) string { return "  " + words() })
	go p.every(barInterval, func() {
		switch {
		case p.bar == nil && time.Since(began) < barPatience:
			return
		case p.bar == nil:
			p.draw(a, verb, total, text)
		}
		if done, _ := look(); total > 0 {
			p.bar.SetCurrent(min(done, total-1)) // the end is said by stop
		}
	})
	return p
}

// draw begins the bar.
func (p *progress) draw(a *app, verb string, total int64, text decor.Decorator) {
	p.all = mpb.New(mpb.WithOutput(a.err), mpb.WithWidth(30), mpb.WithRefreshRate(120*time.Millisecond))
	if total > 0 {
		p.bar = p.all.New(total, mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
			mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Name(verb+" "), decor.Percentage(decor.WC{W: 5})),
			mpb.AppendDecorators(text))
	} else {
		p.bar = p.all.New(0, mpb.NopStyle(), mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Name(verb)), mpb.AppendDecorators(text))
	}
}

// share is how much of all is done, in percent; empty if nobody knows.
func share(look func() (int64, string), total int64) string {
	if total <= 0 {
		return ""
	}
	done, _ := look()
	return fmt.Sprintf("%d %%, ", 100*min(done, total)/total)
}

// pace is the time taken and what is left at this pace.
func pace(done, total int64, took time.Duration) string {
	s := ", " + took.Round(time.Second).String()
	if done > 0 && done < total && took >= noEstimate {
		left := time.Duration(float64(took) * float64(total-done) / float64(done))
		s += ", " + left.Round(time.Second).String() + " left"
	}
	return s
}

func (p *progress) every(interval time.Duration, f func()) {
	defer close(p.done)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-p.quit:
			return
		case <-tick.C:
			f()
		}
	}
}

// stop takes the bar away, so that what is printed next stands in its place.
func (p *progress) stop() {
	if p == nil {
		return
	}
	close(p.quit)
	<-p.done
	if p.bar != nil {
		p.bar.Abort(true)
		p.all.Wait()
	}
}
