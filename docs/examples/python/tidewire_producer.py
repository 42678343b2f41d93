#!/usr/bin/env python3
"""Publishes each line of a file, or of standard input, as one record, and waits until all are durable.

    tidewire_producer.py --subject orders.new lines.txt
    tail -f log | tidewire_producer.py --subject logs.web

Idempotent: a record is stored once, whatever connections break meanwhile.
"""

import argparse
import collections
import queue
import random
import sys
import threading
import time

import tidewire_wire as wire

SOFTWARE = "tidewire-example-producer/1.0"
BATCH_RECORDS = 500
BATCH_BYTES = 64 << 10  # about so much; the limit of the node is far above

Sent = collections.namedtuple("Sent", "sequence count data")


class Producer:
    """Publishes to one subject, pipelined within the limits of the node (4), in order.

    unacked holds every batch that is not acknowledged, in order of sequences; the first
    `flying` of them were sent on this connection and are not answered yet. When the node
    refuses a batch, nothing more is sent until all that fly are answered; then unacked is sent
    again from its first: the simplest way to be right about gaps (8).
    """

    def __init__(self, connect, subject, now=time.time, give_up=60.0):
        self.connect = connect  # (host, port) or None for the first one -> wire.Connection
        self.subject = subject
        self.now = now
        self.give_up = give_up
        self.conn = None
        self.producer, self.epoch, self.sequence = 0, 0, 0
        self.unacked = collections.deque()
        self.flying = {}  # sequence -> Sent
        self.pause_until = None  # set after a refusal; sending goes on then
        self.acked = 0
        self.last_offset = None
        self.durable_on = None

    # -- what a caller uses --

    def publish(self, values):
        """Queues one batch. Returns how many of the values it took; at least one."""
        base_time = int(self.now() * 1000)
        limit = self._conn().welcome.batch_limit
        records, count = bytearray(), 0
        for value in values[:BATCH_RECORDS]:
            record = wire.encode_record(0, b"", [], value)
            size = wire.batch_overhead(self.subject) + len(records) + len(record)
            if count and size > min(BATCH_BYTES, limit):
                break
            if size > limit:
                raise ValueError("a record of %d bytes does not fit a batch of %d" % (len(value), limit))
            records += record
            count += 1
        data = wire.encode_batch(self.subject, self.sequence, base_time, count, bytes(records))
        self.unacked.append(Sent(self.sequence, count, data))
        self.sequence += count
        self.pump(0)
        while len(self.unacked) > len(self.flying):  # the node's window is full: wait for ACKs
            self.pump(1.0)
        return count

    def flush(self):
        while self.unacked:
            self.pump(1.0)

    def close(self):
        self.flush()
        if self.conn:
            self.conn.ask(wire.frame(wire.CLOSE, self.corr), self.corr, wire.OK, wire.read_empty)
            self.conn.close()
            self.conn = None

    def pump(self, timeout):
        """Sends what may be sent, and deals with answers: at most timeout seconds of waiting."""
        self._conn()
        try:
            self._send()
            wait = timeout
            if self.pause_until is not None and not self.flying:
                wait = min(wait, max(self.pause_until - time.monotonic(), 0))
            got = self.conn.recv(wait)
            while got is not None:
                self._answer(got)
                got = self.conn.recv(0)
            self._send()
        except wire.Closed as err:
            self._lost(err)
        except wire.NodeError as err:
            if not err.retriable:
                raise
            self._lost(err)

    # -- sending --

    def _send(self):
        if self.pause_until is not None:
            if self.flying or time.monotonic() < self.pause_until:
                return
            self.pause_until = None
        welcome = self.conn.welcome
        flying_bytes = sum(len(sent.data) for sent in self.flying.values())
        out = bytearray()
        for sent in self.unacked:
            if sent.sequence in self.flying:
                continue
            flying_bytes += len(sent.data)
            if len(self.flying) >= welcome.in_flight_batches or flying_bytes > welcome.in_flight_bytes:
                break
            self.flying[sent.sequence] = sent
            out += wire.frame(wire.PUBLISH, self.corr, sent.data)
        if out:
            self.conn.send(out)

    # -- answers --

    def _answer(self, got):
        if got.corr != self.corr:
            return
        if got.op == wire.ACK:
            self._ack(wire.decode(wire.read_ack, got.body))
        elif got.op == wire.ERROR:
            err = wire.decode(wire.read_error, got.body)
            if err.bits & wire.ONE_BATCH and err.retriable and err.name not in ("NOT_LEADER", "SHUTDOWN"):
                if err.sequence not in self.flying:
                    raise wire.Closed("an error about a batch that was never sent: %s" % err)
                del self.flying[err.sequence]
                self.pause_until = time.monotonic() + err.retry_after
            else:
                raise err
        else:
            raise wire.Malformed("op %d on a producer" % got.op)

    def _ack(self, ack):
        """Takes off what the ACK covers: whole batches, from the first that is unacknowledged."""
        end = ack.sequence + ack.count
        if self.unacked and ack.sequence > self.unacked[0].sequence or end > self.sequence:
            raise wire.Malformed("an ACK of sequences %d to %d out of order" % (ack.sequence, end))
        while self.unacked and self.unacked[0].sequence + self.unacked[0].count <= end:
            sent = self.unacked.popleft()
            self.flying.pop(sent.sequence, None)
            self.acked += sent.count
        self.last_offset = ack.offset + ack.count - 1
        self.durable_on = (ack.quorum, ack.voters)

    # -- connections --

    def _conn(self):
        """The connection, a new one if need be, with the producer opened on the partition's leader."""
        if self.conn is None:
            deadline = time.monotonic() + self.give_up
            delay = 0.01
            patience = wire.Patience()
            while True:
                try:
                    self._open()
                    break
                except (wire.Closed, wire.NodeError) as err:
                    if isinstance(err, wire.NodeError) and not err.retriable or time.monotonic() > deadline:
                        raise
                    patience.failed(err)
                    wait = getattr(err, "retry_after", 0) or delay * random.uniform(0.5, 1)
                    time.sleep(wait)
                    delay = min(delay * 2, 2.0)
        return self.conn

    def _open(self):
        conn = self.connect(None)
        try:
            corr = conn.next_corr()
            topology = conn.ask(wire.metadata_of_subject(corr, self.subject, True), corr, wire.TOPOLOGY, wire.read_topology)
            if len(topology.streams) != 1:
                raise wire.Malformed("%d streams in answer to METADATA of a subject" % len(topology.streams))
            stream = topology.streams[0]
            number = wire.partition_of(self.subject, b"", len(stream.partitions))
            leader = stream.partitions[number].leader
            nodes = {node.id: node for node in topology.nodes}
            if leader in nodes and not nodes[leader].bits & wire.NODE_SELF:
                conn.close()
                conn = self.connect(wire.address(nodes[leader].address))
            self.corr = conn.next_corr()
            request = wire.open_producer(self.corr, stream.id, number, stream.map_version, self.producer, self.epoch)
            opened = conn.ask(request, self.corr, wire.OPENED, wire.read_opened)
            first = self.unacked[0].sequence if self.unacked else self.sequence
            if opened.next_sequence < first:
                raise RuntimeError(
                    "the node has forgotten producer %d: whether records from sequence %d on are stored is unknown"
                    % (self.producer, first)
                )
        except BaseException:
            conn.close()
            raise
        self.producer, self.epoch = opened.producer, opened.epoch
        self.conn = conn

    def _lost(self, err):
        print("%s; connecting again" % err, file=sys.stderr)
        self.conn.close()
        self.conn = None
        self.flying.clear()
        self.pause_until = None


def read_lines(stream, lines):
    for line in stream:
        lines.put(line[:-1] if line.endswith(b"\n") else line)
    lines.put(None)


def run(producer, stream):
    """Publishes the lines of stream: as many in a batch as are waiting."""
    lines = queue.Queue(maxsize=4 * BATCH_RECORDS)
    threading.Thread(target=read_lines, args=(stream, lines), daemon=True).start()
    waiting, more = [], True
    while more or waiting:
        try:
            while more and len(waiting) < BATCH_RECORDS:
                line = lines.get_nowait() if waiting else lines.get(timeout=0.1)
                if line is None:
                    more = False
                else:
                    waiting.append(line)
        except queue.Empty:
            pass
        if waiting:
            del waiting[: producer.publish(waiting)]
        else:
            producer.pump(0)  # nothing to say: hear what the node says, and PING


def main():
    parser = argparse.ArgumentParser(description="Publish each line as a record, durably.")
    wire.server_arguments(parser)
    parser.add_argument("--subject", required=True)
    parser.add_argument("file", nargs="?", default="-", help="a file, or - for standard input")
    args = parser.parse_args()
    try:
        wire.check_name(args.subject)
        server = wire.server_of(args)
        stream = sys.stdin.buffer if args.file == "-" else open(args.file, "rb")
        producer = Producer(
            lambda where: wire.Connection.dial(*(where or server), SOFTWARE), args.subject
        )
        run(producer, stream)
        producer.close()
    except (wire.Closed, wire.NodeError, wire.Malformed, OSError, ValueError, RuntimeError) as err:
        sys.exit("tidewire_producer: %s" % err)
    if producer.acked == 0:
        print("published 0 records")
        return
    print(
        "published %d records, last offset %d, durable on %d of %d replicas"
        % (producer.acked, producer.last_offset, *producer.durable_on)
    )


if __name__ == "__main__":
    main()
