//go:build tidewire_nosync

package storage

// Durable tells whether this build really syncs: this one does not, see durable.go.
const Durable = false
