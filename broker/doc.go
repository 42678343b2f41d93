// Package broker is a node: it assembles storage, Raft and the catalog, and serves clients on
// one port with gnet.
//
// # Who owns what
//
//	event loop          sessions and everything that hangs on them: conversations, producers,
//	                    subscriptions, cursors that do not read, output. It decodes, checks, queues
//	                    and writes what is ready; it never reads the disk or mapped memory, never
//	                    waits on Raft, a full channel or a lock that is held across either.
//	Raft's FSM          committed and advanced: sorts what is done by loop and posts it (loop.go)
//	reader goroutines   a cursor that must touch the disk or cut a batch (reader.go), as long as it
//	                    reads; a bounded number of them
//	request goroutines  METADATA that creates, OPEN that mints, STREAM_CREATE, STREAM_DELETE
//	                    (request.go); a bounded number a session
//	keeper              retention, purges of deleted streams (keeper.go)
//
// Whoever is not the loop hands over to it with loop.post…: one wake-up however much was posted.
//
// # Bytes
//
// A PUBLISH aliases the loop's read buffer until Partition.Publish has copied it, the one copy.
// RECORDS are built in the session's output buffer, from hot-tail memory on the loop or from a
// reader's own buffer, and belong to gnet or the kernel after Write.
package broker
