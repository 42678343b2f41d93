package config

import (
	"context"

	"github.com/tidewire/tidewire/broker/admin"
)

// Admin is the source as the admin API takes it.
func (s *Source) Admin() admin.Settings { return forAdmin{s} }

type forAdmin struct{ source *Source }

// Settings implements admin.Settings.
func (a forAdmin) Settings() (all []admin.Setting) {
	for _, v := range a.source.Settings() {
		all = append(all, admin.Setting{Key: v.Key, Value: v.Value, Origin: v.Origin, Default: v.DefaultText(), Doc: v.doc(),
			Reloadable: v.Reloadable, Secret: v.Secret})
	}
	return all
}

// Reload implements admin.Settings.
func (a forAdmin) Reload(ctx context.Context) (changed, needRestart []string, err error) {
	done, err := a.source.Reload(ctx)
	for _, c := range done.Changed {
		changed = append(changed, c.Key)
	}
	for _, c := range done.Restart {
		needRestart = append(needRestart, c.Key)
	}
	return changed, needRestart, err
}
