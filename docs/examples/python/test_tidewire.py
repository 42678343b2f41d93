"""Tests of the examples against the vectors of docs/protocol.md. No network: the node is a script.

    python3 -m unittest discover -s docs/examples/python -p 'test_*.py'
"""

import argparse
import contextlib
import io
import os
import socket
import struct
import threading
import unittest
import unittest.mock

import tidewire_consumer
import tidewire_producer
import tidewire_wire as wire

VECTORS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../../proto/wire/testdata")
NEW_YEAR = 1767225600000  # Unix ms: the time of day in all vectors


def turns(name):
    """The bytes of a vector: a list of (who, bytes), who being '>' (client), '<' (node) or ''."""
    out = [["", bytearray()]]
    with open(os.path.join(VECTORS, name + ".hex"), encoding="utf-8") as lines:
        for line in lines:
            for field in line.split("#")[0].split():
                if field in "<>":
                    out.append([field, bytearray()])
                else:
                    out[-1][1].append(int(field, 16))
    return [(who, bytes(data)) for who, data in out if data]


def vector(name):
    return turns(name)[0][1]


def body(name):
    return vector(name)[wire.HEADER.size :]


def records_of(name, base=0):
    batch = wire.decode(wire.read_batch, vector(name))
    assert wire.check_crc(batch), name
    return batch, list(wire.read_records_of(batch, base))


class Servers(unittest.TestCase):
    def server(self, environment, *args):
        parser = argparse.ArgumentParser()
        wire.server_arguments(parser)
        with unittest.mock.patch.dict(os.environ, environment, clear=True):
            return wire.server_of(parser.parse_args(args))

    def test_servers(self):
        named = {"TIDEWIRE_SERVER": "there:1"}
        self.assertEqual(self.server({}), ("127.0.0.1", 7420))
        self.assertEqual(self.server(named), ("there", 1))
        self.assertEqual(self.server(named, "--server", "[::1]:2"), ("::1", 2))
        self.assertEqual(self.server(named, "--host", "here"), ("here", 7420))
        self.assertEqual(self.server(named, "--port", "3"), ("127.0.0.1", 3))
        for bad in ("", ":1", "here:", "here:99999", "here:x"):
            self.assertRaises(ValueError, self.server, {}, "--server", bad)

    def test_nobody_there(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            host, port = free.getsockname()
            said = io.StringIO()
            consumer = tidewire_consumer.Consumer(lambda: wire.Connection.dial(host, port, "test"), "a", give_up=0.2)
            with contextlib.redirect_stderr(said), self.assertRaises(wire.Closed):
                next(iter(consumer))
        self.assertEqual(said.getvalue(), "cannot reach %s:%d, trying again …\n" % (host, port))


class Encodings(unittest.TestCase):
    def test_crc(self):
        self.assertEqual(wire.crc32c(b"123456789"), 0xE3069283)
        self.assertEqual(wire.crc32c(b""), 0)

    def test_partition(self):
        self.assertEqual(wire.partition_of("orders", b"", 1000), 0x09A7C08A % 1000)
        self.assertEqual(wire.partition_of("orders", b"123456789", 8), 0xE3069283 % 8)

    def test_varints(self):
        for value in (0, 1, 127, 128, 16383, 16384, 2**32 - 1, 2**64 - 1):
            self.assertEqual(wire.Reader(wire.uvarint(value)).uvarint(), value)
        for value in (0, -1, 1, 63, -64, 64, 2**63 - 1, -(2**63)):
            self.assertEqual(wire.Reader(wire.varint(value)).varint(), value)
        self.assertEqual([wire.varint(v) for v in (0, -1, 1, -2)], [b"\0", b"\1", b"\2", b"\3"])
        for bad in ("8000", "ff00", "80", "", "ffffffffffffffffff02"):
            with self.assertRaises(wire.Malformed):
                wire.Reader(bytes.fromhex(bad)).uvarint()

    def test_names(self):
        for good in ("orders", "orders.new", "größe", "a" * 255):
            wire.check_name(good)
        for good in ("*", ">", "orders.*", "a.*.b", "a.>"):
            wire.check_name(good, wildcards=True)
        for bad in ("", ".", "a.", "a..b", "a b", "a*", "*", ">", "a/b", "a\u00a0b", "a" * 256):
            with self.assertRaises(ValueError):
                wire.check_name(bad)
        for bad in ("a*", ">.a", "a.>.b", "**"):
            with self.assertRaises(ValueError):
                wire.check_name(bad, wildcards=True)


class Frames(unittest.TestCase):
    def test_encoded(self):
        for name, got in {
            "hello": wire.hello("example/1.0"),
            "metadata": wire.metadata_of_subject(1, "orders", True),
            "open": wire.open_producer(3, 5, 0, 8),
            "subscribe": wire.subscribe(6, "orders.>", wire.FROM["first"], 0, 1 << 20, {(5, 0): 1142}),
            "credit": wire.frame(wire.CREDIT, 6, wire.uvarint(262144)),
            "close": wire.frame(wire.CLOSE, 3),
            "unsubscribe": wire.frame(wire.UNSUBSCRIBE, 6),
            "ping": wire.frame(wire.PING, 0, struct.pack("<Q", 0x0123456789ABCDEF)),
        }.items():
            self.assertEqual(got.hex(), vector(name).hex(), name)

    def test_publish(self):
        record = wire.encode_record(0, b"", [], b"0123456789abcdef")
        batch = wire.encode_batch("orders", 3000000, NEW_YEAR, 1, record)
        self.assertEqual(wire.frame(wire.PUBLISH, 3, batch).hex(), vector("publish").hex())

    def test_decoded(self):
        welcome = wire.decode(wire.read_welcome, body("welcome"))
        self.assertEqual(
            welcome,
            wire.Welcome(1, 0, bytes.fromhex("0123456789abcdef1032547698badcfe"), 1, 1572864, 1 << 20,
                         256, 16 << 20, 64 << 20, 120.0, "tidewire/0.1.0"),
        )
        topology = wire.decode(wire.read_topology, body("topology"))
        stream = wire.Stream(5, "orders", 0, 8, NEW_YEAR, 1, 604800000, 0, 0, ["orders", "orders.>"],
                             [wire.Partition(1, 7, 100, 1140, 65536)])
        self.assertEqual(topology, wire.Topology(9, [wire.Node(1, "127.0.0.1:7420", wire.NODE_SELF)], [stream]))
        self.assertEqual(wire.decode(wire.read_opened, body("opened")), wire.Opened(77, 0, 0, 7))
        self.assertEqual(wire.decode(wire.read_ack, body("ack")), wire.Ack(2, 3, 3000000, 1, 5000000, 7))
        err = wire.decode(wire.read_error, body("error"))
        self.assertEqual(
            (err.name, err.bits, err.retry_after, err.sequence, err.value, err.leader, str(err)),
            ("SEQUENCE_GAP", wire.RETRIABLE | wire.ONE_BATCH, 0.005, 44, 42, "", "SEQUENCE_GAP: resend from 42"),
        )

    def test_every_missing_byte_is_seen(self):
        for name, read in {
            "welcome": wire.read_welcome, "topology": wire.read_topology, "opened": wire.read_opened,
            "ack": wire.read_ack, "error": wire.read_error,
        }.items():
            whole = body(name)
            for n in range(len(whole)):
                with self.assertRaises(wire.Malformed, msg="%s cut to %d" % (name, n)):
                    wire.decode(read, whole[:n])
            with self.assertRaises(wire.Malformed):
                wire.decode(read, whole + b"\0")


class Batches(unittest.TestCase):
    def test_one_subject(self):
        batch, records = records_of("batch_one_subject", 1140)
        self.assertEqual((batch.sequence, batch.span), (40, 2))
        self.assertEqual(records, [
            wire.Record(1140, NEW_YEAR, "orders", b"", [], b"first"),
            wire.Record(1141, NEW_YEAR + 5, "orders", b"", [], b"second"),
        ])
        made = b"".join(wire.encode_record(r.time - NEW_YEAR, r.key, r.headers, r.value) for r in records)
        self.assertEqual(wire.encode_batch("orders", 40, NEW_YEAR, 2, made), vector("batch_one_subject"))

    def test_mixed_and_filtered(self):
        new = [wire.Record(42, NEW_YEAR, "orders.new", b"", [], b"a"), wire.Record(44, NEW_YEAR + 300, "orders.new", b"", [], b"")]
        paid = wire.Record(43, NEW_YEAR - 1, "orders.paid", b"", [], b"bc")
        self.assertEqual(records_of("batch_mixed", 42)[1], [new[0], paid, new[1]])
        batch, records = records_of("batch_filtered", 42)
        self.assertEqual((batch.count, batch.span, records), (2, 3, new))

    def test_key_and_headers(self):
        _, records = records_of("batch_key_headers")
        headers = [("type", b"order.v1"), ("trace", b"\0\xff")]
        self.assertEqual(records[0], wire.Record(0, NEW_YEAR, "orders", b"customer-7", headers, b'{"total":12}'))
        made = b"".join(wire.encode_record(0, r.key, r.headers, r.value) for r in records)
        self.assertEqual(wire.encode_batch("orders", 45, NEW_YEAR, 2, made), vector("batch_key_headers"))

    def test_zstd(self):
        batch = wire.decode(wire.read_batch, vector("batch_zstd"))
        self.assertTrue(wire.check_crc(batch))
        try:
            from compression import zstd  # noqa: F401
        except ImportError:
            with self.assertRaisesRegex(wire.Malformed, "3.14"):
                list(wire.read_records_of(batch, 0))
        else:
            self.assertEqual([r.value for r in wire.read_records_of(batch, 0)], [b"the same words again"] * 4)

    def test_every_flipped_bit_is_seen(self):
        for name in ("batch_one_subject", "batch_mixed", "batch_key_headers", "batch_zstd", "batch_filtered"):
            good = vector(name)
            for bit in range(8 * len(good)):
                bad = bytearray(good)
                bad[bit // 8] ^= 1 << bit % 8
                try:
                    self.assertFalse(wire.check_crc(wire.decode(wire.read_batch, bytes(bad))), (name, bit))
                except wire.Malformed:
                    pass

    def test_records_frame(self):
        frame = wire.decode(wire.read_records, body("records"))
        self.assertEqual(frame[:6], (5, 0, 100, 1145, 1140, 1145))
        self.assertEqual([run[:3] for run in frame.runs], [(1140, 7, NEW_YEAR + 12), (1142, 7, NEW_YEAR + 14)])
        self.assertEqual(frame.runs[0].batches, vector("batch_one_subject"))


class Script:
    """A node that expects and says the turns it is given, one list for each connection."""

    def __init__(self, *connections):
        self.connections = list(connections)
        self.failures, self.threads = [], []

    def connect(self, *_):
        ours, theirs = socket.socketpair()
        thread = threading.Thread(target=self._play, args=(theirs, self.connections.pop(0)))
        thread.start()
        self.threads.append(thread)
        return wire.Connection(ours, "example/1.0")

    def _play(self, sock, script):
        with sock:
            sock.settimeout(10)
            for i, (who, data) in enumerate(script):
                if who == "<":
                    sock.sendall(data)
                    continue
                got = b""
                while len(got) < len(data):
                    more = sock.recv(len(data) - len(got))
                    if not more:
                        break
                    got += more
                if got != data:
                    self.failures.append("turn %d: got %s, want %s" % (i + 1, got.hex(), data.hex()))
                    return

    def done(self, test):
        for thread in self.threads:
            thread.join()
        test.assertEqual(self.failures, [])
        test.assertEqual(self.connections, [])


def quiet():
    return contextlib.redirect_stderr(io.StringIO())


def batch(sequence, *values):
    records = b"".join(wire.encode_record(0, b"", [], v) for v in values)
    return wire.encode_batch("orders", sequence, NEW_YEAR, len(values), records)


def ack(sequence, count, offset):
    fields = b"".join(map(wire.uvarint, (sequence, count, offset, 7)))
    return wire.frame(wire.ACK, 2, b"\x01\x01" + fields)


def error(code, bits, sequence, value=0):
    head = struct.pack("<HB", code, bits) + b"".join(map(wire.uvarint, (1, sequence, value)))
    return wire.frame(wire.ERROR, 2, head + wire.string("") + wire.string("why"))


class ProducerDialogues(unittest.TestCase):
    def start(self, *connections):
        self.node = Script(*connections)
        return tidewire_producer.Producer(self.node.connect, "orders", now=lambda: NEW_YEAR / 1000)

    def test_the_documents(self):
        producer = self.start(turns("dialogue_producer"))
        producer.publish([b"0123456789abcdef"])
        producer.close()
        self.node.done(self)
        self.assertEqual((producer.acked, producer.last_offset, producer.durable_on), (1, 1140, (1, 1)))

    def test_gap(self):
        first, second = (wire.frame(wire.PUBLISH, 2, batch(*b)) for b in ((0, b"a", b"b"), (2, b"c")))
        opened = turns("dialogue_producer")[:6]
        producer = self.start(opened + [
            (">", first + second),
            ("<", error(10, wire.RETRIABLE | wire.ONE_BATCH, 0)),  # OVERLOADED
            ("<", error(43, wire.RETRIABLE | wire.ONE_BATCH, 2, 0)),  # SEQUENCE_GAP
            (">", first + second),
            ("<", ack(0, 3, 10)),
            (">", wire.frame(wire.CLOSE, 2)), ("<", wire.frame(wire.OK, 2)),
        ])
        producer.publish([b"a", b"b"])
        producer.publish([b"c"])
        producer.close()
        self.node.done(self)
        self.assertEqual((producer.acked, producer.last_offset), (3, 12))

    def test_reconnect(self):
        first, second = (wire.frame(wire.PUBLISH, 2, batch(*b)) for b in ((0, b"a"), (1, b"b")))
        dialogue = turns("dialogue_producer")
        again = dialogue[:4] + [
            (">", wire.open_producer(2, 5, 0, 8, 77, 0)),
            ("<", wire.frame(wire.OPENED, 2, b"\x4d\0\0\x02\x07")),  # both were stored, only one was acknowledged
            (">", second), ("<", ack(1, 1, 1141)),
            (">", wire.frame(wire.CLOSE, 2)), ("<", wire.frame(wire.OK, 2)),
        ]
        producer = self.start(dialogue[:6] + [(">", first + second), ("<", ack(0, 1, 1140))], again)
        with quiet():
            producer.publish([b"a"])
            producer.publish([b"b"])
            producer.close()
        self.node.done(self)
        self.assertEqual((producer.acked, producer.last_offset), (2, 1141))

    def test_refused(self):
        first = wire.frame(wire.PUBLISH, 2, batch(0, b"a"))
        producer = self.start(turns("dialogue_producer")[:6] + [(">", first), ("<", error(7, wire.ONE_BATCH, 0))])
        with self.assertRaisesRegex(wire.NodeError, "DENIED: why"):
            producer.publish([b"a"])
            producer.flush()
        producer.conn.close()
        self.node.done(self)

    def test_lines(self):
        values = [b"x" * 40000, b"y" * 40000, b""]
        data = [wire.frame(wire.PUBLISH, 2, batch(*b)) for b in ((0, values[0]), (1, values[1], values[2]))]
        producer = self.start(turns("dialogue_producer")[:6] + [
            (">", b"".join(data)), ("<", ack(0, 3, 0)), (">", wire.frame(wire.CLOSE, 2)), ("<", wire.frame(wire.OK, 2)),
        ])
        at = 0
        while at < len(values):
            at += producer.publish(values[at:])
        producer.close()
        self.node.done(self)


class ConsumerDialogues(unittest.TestCase):
    def start(self, *connections):
        self.node = Script(*connections)
        return tidewire_consumer.Consumer(
            self.node.connect, "orders", wire.FROM["offset"], 1140, credit=1 << 20, give_back=1
        )

    def test_the_documents(self):
        dialogue = turns("dialogue_consumer")
        consumer = self.start(dialogue)
        stream, partition, record = next(iter(consumer))
        self.assertEqual((stream, partition), (5, 0))
        self.assertEqual(record, wire.Record(1140, NEW_YEAR, "orders", b"", [], b"0123456789abcdef"))
        consumer._dealt_with(len(dialogue[4][1]))  # what the iteration does when it goes on
        consumer.close()
        self.node.done(self)

    def test_resume_and_skip(self):
        dialogue = turns("dialogue_consumer")

        def records(first, following, base, data):
            head = b"".join(map(wire.uvarint, (5, 0, 100, 1150, first, following, base, 7, NEW_YEAR)))
            return wire.frame(wire.RECORDS, 1, head + wire.blob(data))

        broken = bytearray(batch(2, b"z"))
        broken[-1] ^= 1
        one = records(1140, 1142, 1139, batch(0, b"before", b"a", b"b"))
        bad = records(1142, 1143, 1142, bytes(broken))
        good = records(1142, 1143, 1142, batch(2, b"z"))

        def credit(frame):
            return wire.frame(wire.CREDIT, 1, wire.uvarint(len(frame)))

        again = dialogue[:2] + [
            (">", wire.subscribe(1, "orders", wire.FROM["offset"], 1140, 1 << 20, {(5, 0): 1142})),
            ("<", wire.frame(wire.OK, 1) + good), (">", wire.frame(wire.UNSUBSCRIBE, 1)), ("<", wire.frame(wire.OK, 1)),
        ]
        consumer = self.start(dialogue[:4] + [("<", one), (">", credit(one)), ("<", bad)], again)
        got = []
        with quiet():
            for _, _, record in consumer:
                got.append((record.offset, record.value))
                if len(got) == 3:
                    break
        consumer.close()
        self.node.done(self)
        self.assertEqual(got, [(1140, b"a"), (1141, b"b"), (1142, b"z")])


if __name__ == "__main__":
    unittest.main()
