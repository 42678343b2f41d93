// Package config makes the configuration of a node's process from a YAML file, the environment and
// flags, and reloads it.
//
// table.go has every setting once; flags, variables, documents and schema follow from it. Load reads
// all sources and tells everything that is wrong at once (Problems). Source is the configuration of a
// process that runs.
package config
