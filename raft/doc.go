// Package raft replicates: one Group is one hashicorp/raft group over one storage.Log, and a
// Partition is a group whose log is the data log of one partition of a stream. It is the only
// package that imports hashicorp/raft.
//
// # Single write
//
// The Raft log is the data log. StoreLogs (logstore.go) writes an entry once, with one pwritev and
// one fdatasync, and assigns offsets as it writes: every replica stores the same entries in the
// same order (Log Matching, Raft §5.3), so every replica assigns the same offsets. The state
// machine reads headers and descriptors and never copies payload; readers go to the log itself,
// below the high watermark.
//
// # The entry of a partition
//
// Integers are little-endian. A data entry is a header, the batches exactly as their producers
// encoded them, and one descriptor a batch:
//
//	0         1      2              10       18        26        30        34     42       46
//	+---------+------+--------------+--------+---------+---------+---------+------+--------+
//	| Version | Kind | ProposerTerm | Number | Follows | Batches | Records | Time | Region |
//	+---------+------+--------------+--------+---------+---------+---------+------+--------+
//	| Region bytes: the batches, back to back                                              |
//	+--------------------------------------------------------------------------------------+
//	| Batches descriptors of 22 bytes: Producer u64 | Epoch u16 | Sequence u64 | Count u32 |
//	+--------------------------------------------------------------------------------------+
//
//	Version       u8   1; a reader refuses any other (ErrFormat), it never guesses
//	Kind          u8   1 data, 2 log start; 0 is invalid, so zeroed bytes never decode
//	ProposerTerm  u64  the term in which the proposer was leader when it sealed the entry
//	Number        u64  counts the data entries the proposer sealed in that term, from 1
//	Follows       u64  Number of the entry it must come directly after; 0 for the first of its term
//	Batches       u32  descriptors at the end; at least 1
//	Records       u32  the sum of their counts; at least 1
//	Time          i64  broker time, Unix milliseconds, never below that of the entry before it
//	Region        u32  bytes of the batches, at most MaxEntryBytes
//
// Producer 0 in a descriptor means a batch that is not deduplicated. A log start entry has the
// same header with every number zero, and an offset (u64) where the batches would stand: the
// offset at which the log now starts.
//
// No checksum stands here: the storage frame around an entry has one, and so has each batch.
//
// # Void entries
//
// Raft.Apply calls can fail singly while later ones succeed: during a leadership transfer entry
// N is refused and N+1, already queued, is appended. Were N+1 to own offsets, records of one
// producer would stand in the log in the wrong order. So StoreLogs gives an entry zero records,
// on every replica alike, unless ProposerTerm is the term of the log entry and Follows is the
// Number of the last entry of that term that was not void itself (0: none yet). A void entry is
// proposed again in its place, with the same bytes (flight.go).
//
// # What a snapshot holds
//
// Metadata only, a few KB beside the log: Raft's index, term and configuration, the chain of void
// entries, and the state of the machine. The log itself is never part of it.
//
//	Magic "TWSN" | Version u8 | Index u64 | Term u64 | ConfigurationIndex u64 |
//	len u32, configuration | len u32, body | CRC-32C u32 of everything before it
//
// The body is what raft carries to a follower: ChainTerm u64 | ChainNumber u64 |
// End u64 (the offset after the last record) | state.
//
// # Start
//
// A group brings its machine up to the last entry that the log itself proves committed, in one pass through one
// window (replay.go), before raft is there; raft restores that state as if it were a snapshot, and replays the rest, which
// is the last write. From a snapshot on that is at most about a segment.
//
// # Who runs where
//
//	raft's main goroutine   StoreLogs and every vote; blocked while fdatasync runs
//	raft's FSM goroutine    Apply, Committed, Advanced; seals and submits the next entry
//	any event loop          Publish: copies, seals when nothing is in flight and no company is awaited, never waits
//	a timer                 seals and submits what has waited for company that did not come
//	resolver of the group   waits for futures, so that a refused entry is seen
//	leadership of the group gains and losses, one after the other
//
// # hashicorp/raft, and how to live with it
//
// Version 1.7.3 has open reports about safety and liveness; each has its answer in code of ours and a
// test that names it: no heartbeat fast path (#695, transport.go), raft's installSnapshot never
// runs (#697, install.go), vote term and candidate in one durable write (#661, stable.go), a hung
// disk stops heartbeats (#666, transport.go), a transfer that never ends (#696, flight.go), pre-vote
// really implemented (transport.go), fail-stop after any failed write (group.go).
package raft
