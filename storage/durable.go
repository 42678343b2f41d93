//go:build !tidewire_nosync

package storage

// Durable tells whether this build really syncs. A build with the tag tidewire_nosync does not; it exists for one
// purpose, to prove that the durability tests can fail, and must never hold data.
const Durable = true
