#!/usr/bin/env python3
"""Prints the values of records, one a line, after checking checksum and order of each.

    tidewire_consumer.py --filter 'orders.>' --from first --count 100

After a broken connection it goes on exactly where it was.
"""

import argparse
import random
import sys
import time

import tidewire_wire as wire

SOFTWARE = "tidewire-example-consumer/1.0"


class Consumer:
    """A subscription. Iterate over it: it yields (stream id, partition, wire.Record) in the order of each partition."""

    def __init__(self, connect, pattern, start=0, value=0, credit=1 << 20, give_back=None, give_up=60.0):
        self.connect = connect
        self.pattern, self.start, self.value = pattern, start, value
        self.credit = credit
        self.give_back = give_back or credit // 4
        self.give_up = give_up
        self.positions = {}  # (stream, partition) -> the offset to go on at (9)
        self.conn = None
        self.owed = 0  # bytes dealt with and not yet given back

    def __iter__(self):
        while True:
            self._subscribe()
            try:
                got = self.conn.recv(3600.0)
                if got is None or got.corr != self.corr:
                    continue
                if got.op == wire.ERROR:
                    self._error(wire.decode(wire.read_error, got.body))
                elif got.op == wire.RECORDS:
                    yield from self._records(wire.decode(wire.read_records, got.body))
                    self._dealt_with(wire.HEADER.size + len(got.body))
                else:
                    raise wire.Malformed("op %d on a subscription" % got.op)
                if self.conn.going_away:
                    raise wire.Closed("the node is stopping")
            except wire.Closed as err:
                self._lost(err)
            except wire.NodeError as err:
                if not err.retriable:
                    raise
                self._lost(err)

    def close(self):
        """Ends the subscription; what still comes for it is dropped."""
        if self.conn is None:
            return
        try:
            self.conn.send(wire.frame(wire.UNSUBSCRIBE, self.corr))
            deadline = time.monotonic() + 5
            while True:
                got = self.conn.recv(deadline - time.monotonic())
                if got is None or got.corr == self.corr and got.op == wire.OK:
                    break
        finally:
            self.conn.close()
            self.conn = None

    # -- one frame --

    def _records(self, frame):
        where = (frame.stream, frame.partition)
        if frame.first < self.positions.get(where, 0):
            raise wire.Malformed("partition %d goes back from %d to %d" % (where[1], self.positions[where], frame.first))
        for run in frame.runs:
            base, batches = run.base, wire.Reader(run.batches)
            while batches.left():
                batch = wire.read_batch(batches)
                if not wire.check_crc(batch):
                    # Damage on the way here: what is on the node's disk is checked there.
                    raise wire.Closed("the batch at offset %d of stream %d, partition %d fails its checksum" % (base, *where))
                try:
                    records = list(wire.read_records_of(batch, base))
                except wire.Malformed as err:  # its producer made it so: the checksum holds
                    print("offsets %d to %d cannot be read: %s" % (base, base + batch.span, err), file=sys.stderr)
                    records = []
                for record in records:
                    if record.offset < frame.first:
                        continue  # batches come whole: the first may begin before what was asked for
                    if record.offset < self.positions.get(where, 0):
                        raise wire.Malformed("offset %d comes again" % record.offset)
                    self.positions[where] = record.offset + 1
                    yield frame.stream, frame.partition, record
                base += batch.span
            if base > frame.next:
                raise wire.Malformed("records up to offset %d, and next is %d" % (base, frame.next))
        self.positions[where] = frame.next

    def _dealt_with(self, size):
        self.owed += size
        if self.owed >= self.give_back:
            self.conn.send(wire.frame(wire.CREDIT, self.corr, wire.uvarint(self.owed)))
            self.owed = 0

    def _error(self, err):
        if err.bits & (wire.ENDS_CORR | wire.ENDS_CONNECTION):
            raise err
        print(str(err), file=sys.stderr)  # records are gone, and the node goes on behind them (9)

    # -- connections --

    def _subscribe(self):
        if self.conn is not None:
            return
        deadline = time.monotonic() + self.give_up
        delay = 0.01
        patience = wire.Patience()
        while True:
            conn = None
            try:
                conn = self.connect()
                corr = conn.next_corr()
                credit = min(self.credit, conn.welcome.credit_limit)
                request = wire.subscribe(corr, self.pattern, self.start, self.value, credit, self.positions)
                conn.ask(request, corr, wire.OK, wire.read_empty)
                self.conn, self.corr, self.owed = conn, corr, 0
                return
            except (wire.Closed, wire.NodeError) as err:
                if conn:
                    conn.close()
                if isinstance(err, wire.NodeError) and not err.retriable or time.monotonic() > deadline:
                    raise
                patience.failed(err)
                time.sleep(getattr(err, "retry_after", 0) or delay * random.uniform(0.5, 1))
                delay = min(delay * 2, 2.0)

    def _lost(self, err):
        print("%s; connecting again" % err, file=sys.stderr)
        if self.conn:
            self.conn.close()
            self.conn = None


def starting_point(text):
    """first, last, next, an offset, or time:UNIX_MS"""
    name, _, value = text.partition(":")
    if text.isdigit():
        return wire.FROM["offset"], int(text)
    if name == "time" and value.isdigit():
        return wire.FROM["time"], int(value)
    if text in ("first", "last", "next"):
        return wire.FROM[text], 0
    raise argparse.ArgumentTypeError("%r is none of first, last, next, an offset, time:UNIX_MS" % text)


def main():
    parser = argparse.ArgumentParser(description="Print the values of records as they come.")
    wire.server_arguments(parser)
    parser.add_argument("--filter", required=True, help="such as orders.new, orders.* or orders.>")
    parser.add_argument("--from", dest="start", type=starting_point, default=(0, 0), help=starting_point.__doc__)
    parser.add_argument("--count", type=int, default=0, help="stop after so many records; 0: never")
    parser.add_argument("--long", action="store_true", help="print partition, offset, subject and key before each value")
    args = parser.parse_args()
    out = sys.stdout.buffer
    consumer = None
    try:
        wire.check_name(args.filter, wildcards=True)
        host, port = wire.server_of(args)
        consumer = Consumer(
            lambda: wire.Connection.dial(host, port, SOFTWARE), args.filter, *args.start
        )
        for n, (_, partition, record) in enumerate(consumer, 1):
            if args.long:
                out.write(b"%d %d %s %s " % (partition, record.offset, record.subject.encode(), record.key or b"-"))
            out.write(record.value + b"\n")
            if not args.count:
                out.flush()
            if n == args.count:
                break
        out.flush()
        consumer.close()
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output has gone, and so do we
    except KeyboardInterrupt:
        out.flush()
        if consumer:
            consumer.close()
    except (wire.Closed, wire.NodeError, wire.Malformed, OSError, ValueError) as err:
        out.flush()
        sys.exit("tidewire_consumer: %s" % err)


if __name__ == "__main__":
    main()
