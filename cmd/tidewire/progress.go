package main

import (
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress is a bar on a terminal; a nil one does nothing.
type progress struct {
	all  *mpb.Progress
	bar  *mpb.Bar
	quit chan struct{}
	done chan struct{}
}

// progress shows how far something is, if somebody is watching. look says how much is done and in
// words; total 0 means that nobody knows how much there is.
func (a *app) progress(verb string, total int64, look func() (done int64, text string)) *progress {
	if !a.terminal {
		return nil
	}
	p := &progress{quit: make(chan struct{}), done: make(chan struct{})}
	p.all = mpb.New(mpb.WithOutput(a.err), mpb.WithWidth(40), mpb.WithRefreshRate(120*time.Millisecond))
	text := decor.Any(func(decor.Statistics) string { _, s := look(); return "  " + s })
	elapsed := decor.Elapsed(decor.ET_STYLE_GO, decor.WC{W: 8})
	if total > 0 {
		p.bar = p.all.New(total, mpb.BarStyle().Lbound("[").Filler("=").Tip(">").Padding(" ").Rbound("]"),
			mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Name(verb+" "), decor.Percentage(decor.WC{W: 5})),
			mpb.AppendDecorators(text, elapsed))
	} else {
		p.bar = p.all.New(0, mpb.NopStyle(), mpb.BarRemoveOnComplete(), mpb.PrependDecorators(decor.Name(verb), elapsed), mpb.AppendDecorators(text))
	}
	go p.follow(total, look)
	return p
}

func (p *progress) follow(total int64, look func() (int64, string)) {
	defer close(p.done)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-p.quit:
			return
		case <-tick.C:
			done, _ := look()
			if total > 0 {
				p.bar.SetCurrent(min(done, total-1)) // the end is said by stop
			}
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
	p.bar.Abort(true)
	p.all.Wait()
}
