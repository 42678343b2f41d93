// Package harness is what the end-to-end tests of Tidewire stand on: real processes, real disks,
// and a journal of what was acknowledged that is kept outside the process that is killed.
//
//	build.go      the binaries under test, each built once per run
//	server.go     a node as a process: start, ready line, kill, stop, restart, its log on failure
//	spawn_*.go    processes that do not outlive the tests
//	pump.go       producers through the public client, whose every acknowledgement is journalled
//	tap.go        counts batches on the wire: what is in flight at the moment of a fault
//	journal.go    what was published and what was acknowledged, and where
//	check.go      reads a node from the first offset to the last and holds it against the journal
//	reader.go     the few lines of protocol the check needs, without the client under test
//	observer.go   a subscription that lives through the faults
//	volume_*.go   ext4 on a loop device whose power can be cut
//	figures.go    what a run measured, for people and for test/nightly
//
// Two rules hold everywhere. Nothing waits for time to pass: a test waits for a ready line, an
// acknowledgement, the end of a process. And nothing waits for ever: each wait has a bound, past
// which the test fails and says what it waited for.
//
// Faults strike after a number of acknowledgements drawn from a printed seed; TIDEWIRE_SEED sets it.
package harness
