"""The Tidewire protocol, version 1: frames, batches and a connection.

Written from docs/protocol.md alone, with nothing but the standard library; numbers in comments
are sections of that page. It is made to be read: the table-driven CRC-32C takes most of the time
when much data is moved.
"""

import os
import socket
import struct
import sys
import time
from collections import namedtuple

MAGIC = b"\xd7TWP"
HEADER = struct.Struct("<IBBI")  # Length, Op, Version:Flags, Corr (2)

HELLO, WELCOME, PING, PONG, GOAWAY, ERROR, OK = 1, 2, 4, 5, 6, 7, 8
METADATA, TOPOLOGY = 16, 17
OPEN, OPENED, PUBLISH, ACK, CLOSE = 32, 33, 34, 35, 36
RECORDS, SUBSCRIBE, CREDIT, UNSUBSCRIBE = 49, 50, 51, 52

KNOWN = {WELCOME, PING, PONG, GOAWAY, ERROR, OK, TOPOLOGY, OPENED, ACK, RECORDS}  # what a node sends

MORE = 1  # flag

FRAME_LIMIT = 1572864  # the Length this program takes; at least 1,314,816 (1)
MAX_HELLO_FRAME = 4096
MAX_BATCH = 1 << 20
MAX_FILTERED_BATCH = (1 << 20) + (256 << 10)

RETRIABLE, ENDS_CORR, ENDS_CONNECTION, ONE_BATCH = 1, 2, 4, 8  # bits of ERROR (10)

# Codes this program decides on (10); all others are handled by their bits and shown.
CODES = {
    1: "INTERNAL", 2: "MALFORMED", 3: "TOO_LARGE", 4: "UNSUPPORTED", 5: "STATE", 6: "AUTH", 7: "DENIED",
    8: "IDLE", 9: "SHUTDOWN", 10: "OVERLOADED", 11: "WRONG_CLUSTER", 20: "UNKNOWN_STREAM",
    21: "STREAM_EXISTS", 22: "SUBJECT_OVERLAP", 23: "BAD_NAME", 24: "SUBJECT_MISMATCH",
    25: "UNKNOWN_PARTITION", 26: "NOT_LEADER", 27: "STALE_MAP", 28: "LIMIT", 40: "BAD_CHECKSUM",
    41: "BAD_BATCH", 42: "BAD_SEQUENCE", 43: "SEQUENCE_GAP", 44: "PRODUCER_EXPIRED",
    45: "PRODUCER_FENCED", 46: "IN_FLIGHT", 47: "UNKNOWN_OUTCOME", 60: "OFFSET_RANGE",
    61: "DATA_LOSS", 62: "CREDIT",
}

FROM = {"first": 0, "last": 1, "next": 2, "offset": 3, "time": 4}


class Malformed(Exception):
    """Bytes that docs/protocol.md does not allow."""


class Closed(Exception):
    """The connection is gone; what was unanswered may be sent again on a new one."""


def server_arguments(parser):
    """Adds --server, --host and --port; server_of gives (host, port) of what was parsed."""
    parser.add_argument("--server", help="HOST:PORT of a node (default TIDEWIRE_SERVER, or 127.0.0.1:7420)")
    parser.add_argument("--host", help="instead of --server")
    parser.add_argument("--port", type=int, help="instead of --server")


def server_of(args):
    if args.server is not None and (args.host is not None or args.port is not None):
        raise ValueError("give --server, or --host and --port")
    text = args.server
    if text is None and args.host is None and args.port is None:
        text = os.environ.get("TIDEWIRE_SERVER", "").split(",")[0].strip() or None
    if text is None:
        return args.host or "127.0.0.1", 7420 if args.port is None else args.port
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, "7420"
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("%r is not HOST:PORT" % text)
    return host.strip("[]"), int(port)


class Unreachable(Closed):
    """Nobody answered at an address."""

    def __init__(self, host, port, why):
        super().__init__("cannot reach %s:%d: %s" % (host, port, why))
        self.where = "%s:%d" % (host, port)


class Patience:
    """Says once in a round of attempts that a node is not there and is tried again."""

    def __init__(self):
        self.told = False

    def failed(self, err):
        if isinstance(err, Unreachable) and not self.told:
            self.told = True
            print("cannot reach %s, trying again …" % err.where, file=sys.stderr, flush=True)


class NodeError(Exception):
    """An ERROR frame (10)."""

    def __init__(self, code, bits, retry_after, sequence, value, leader, message):
        super().__init__("%s: %s" % (CODES.get(code, "code %d" % code), message))
        self.code, self.bits, self.retry_after = code, bits, retry_after / 1000
        self.sequence, self.value, self.leader = sequence, value, leader

    @property
    def name(self):
        return CODES.get(self.code, "INTERNAL")

    @property
    def retriable(self):
        return bool(self.bits & RETRIABLE)


# --- CRC-32C (6) and the partition function (7) ---


def _crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _crc_table()


def crc32c(data):
    crc, table = 0xFFFFFFFF, _CRC
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def partition_of(subject, key, partitions):
    return crc32c(key if key else subject.encode()) % partitions


# --- Encodings (1) ---


def uvarint(value):
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint(value):
    """value is a signed integer of 64 bits; larger ones wrap, as times do (6)."""
    value = (value + (1 << 63)) % (1 << 64) - (1 << 63)
    return uvarint(value << 1 if value >= 0 else (-value << 1) - 1)


def blob(data):
    return uvarint(len(data)) + data


def string(text):
    return blob(text.encode())


class Reader:
    """Takes fields off the bytes it was given, and refuses what has more than one encoding."""

    def __init__(self, data, start=0, end=None):
        self.data, self.at = data, start
        self.end = len(data) if end is None else end

    def left(self):
        return self.end - self.at

    def take(self, n):
        if n > self.left():
            raise Malformed("cut short: %d bytes wanted, %d left" % (n, self.left()))
        self.at += n
        return self.data[self.at - n : self.at]

    def fixed(self, size, signed=False):
        return int.from_bytes(self.take(size), "little", signed=signed)

    def u8(self):
        return self.fixed(1)

    def bool(self):
        value = self.u8()
        if value > 1:
            raise Malformed("%d is neither 0 nor 1" % value)
        return value == 1

    def uvarint(self, bits=64):
        value = shift = 0
        while True:
            byte = self.u8()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        if value >> bits or (byte == 0 and shift):
            raise Malformed("a varint that is not minimal, or above %d bits" % bits)
        return value

    def varint(self):
        value = self.uvarint()
        return value >> 1 ^ -(value & 1)

    def blob(self):
        return self.take(self.uvarint())

    def string(self):
        try:
            return self.blob().decode()
        except UnicodeDecodeError:
            raise Malformed("a string that is not UTF-8") from None

    def list(self, read):
        count = self.uvarint()
        if count > self.left():
            raise Malformed("%d items in %d bytes" % (count, self.left()))
        return [read(self) for _ in range(count)]

    def done(self):
        if self.left():
            raise Malformed("%d bytes behind the last field" % self.left())


# --- Bodies of frames ---

Frame = namedtuple("Frame", "op version flags corr body")
Welcome = namedtuple(
    "Welcome",
    "version features cluster node frame_limit batch_limit in_flight_batches in_flight_bytes credit_limit idle server",
)
Node = namedtuple("Node", "id address bits")
Stream = namedtuple(
    "Stream",
    "id name bits map_version created replicas max_age max_bytes max_records subjects partitions",
)
Partition = namedtuple("Partition", "leader epoch start high_watermark bytes")
Topology = namedtuple("Topology", "map_version nodes streams")
Opened = namedtuple("Opened", "producer epoch next_sequence leader_epoch")
Ack = namedtuple("Ack", "quorum voters sequence count offset epoch")
Records = namedtuple("Records", "stream partition log_start high_watermark first next runs")
Run = namedtuple("Run", "base epoch time batches")

NODE_SELF = 1


def frame(op, corr, body=b"", flags=0):
    return HEADER.pack(6 + len(body), op, flags, corr) + body


def hello(software, cluster=bytes(16)):
    fields = struct.pack("<BBBII", 1, 1, 1, 0, FRAME_LIMIT)  # versions 1 to 1, role client, no features
    return frame(HELLO, 0, fields + cluster + string(software) + string("") + blob(b""))


def metadata_of_subject(corr, subject, create):
    return frame(METADATA, corr, b"\x02" + string(subject) + bytes([create]))


def open_producer(corr, stream, partition, map_version, producer=0, epoch=0):
    body = uvarint(stream) + uvarint(partition) + uvarint(map_version) + b"\x01"  # idempotent
    return frame(OPEN, corr, body + uvarint(producer) + struct.pack("<H", epoch))


def subscribe(corr, pattern, start, value, credit, positions):
    body = string(pattern) + bytes([start]) + uvarint(value) + uvarint(credit) + string("")
    body += uvarint(len(positions))
    for (stream, partition), offset in sorted(positions.items()):
        body += uvarint(stream) + uvarint(partition) + uvarint(offset)
    return frame(SUBSCRIBE, corr, body)


def decode(read, body):
    """Decodes a whole body with one of the functions below."""
    r = Reader(body)
    value = read(r)
    r.done()
    return value


def read_welcome(r):
    return Welcome(
        r.u8(), r.fixed(4), r.take(16), r.uvarint(), r.fixed(4), r.fixed(4),
        r.uvarint(32), r.uvarint(), r.uvarint(), r.uvarint(32) / 1000, r.string(),
    )


def read_error(r):
    return NodeError(
        r.fixed(2), r.u8(), r.uvarint(32), r.uvarint(), r.uvarint(), r.string(), r.string()
    )


def read_topology(r):
    def node(r):
        return Node(r.uvarint(), r.string(), r.u8())

    def partition(r):
        return Partition(r.uvarint(), r.uvarint(), r.uvarint(), r.uvarint(), r.uvarint())

    def stream(r):
        return Stream(
            r.uvarint(), r.string(), r.u8(), r.uvarint(), r.uvarint(), r.u8(),
            r.uvarint(), r.uvarint(), r.uvarint(), r.list(Reader.string), r.list(partition),
        )

    return Topology(r.uvarint(), r.list(node), r.list(stream))


def read_opened(r):
    return Opened(r.uvarint(), r.fixed(2), r.uvarint(), r.uvarint())


def read_ack(r):
    return Ack(r.u8(), r.u8(), r.uvarint(), r.uvarint(), r.uvarint(), r.uvarint())


def read_records(r):
    head = (r.uvarint(), r.uvarint(32), r.uvarint(), r.uvarint(), r.uvarint(), r.uvarint())
    if head[4] > head[5]:
        raise Malformed("first %d above next %d" % (head[4], head[5]))
    runs = []
    while r.left():
        runs.append(Run(r.uvarint(), r.uvarint(), r.uvarint(), r.blob()))
    return Records(*head, runs)


def read_empty(r):
    return None


# --- Batches and records (6) ---

ZSTD, MIXED, FILTERED = 1, 8, 16  # attributes

BATCH_HEADER = struct.Struct("<IIBBHQqB")  # Length, CRC, Format, Attributes, Count, Sequence, BaseTime, SubjectLength

Batch = namedtuple("Batch", "attributes count span sequence base_time subject records crc covered")
Record = namedtuple("Record", "offset time subject key headers value")


def encode_record(time_delta, key, headers, value):
    body = varint(time_delta) + blob(key) + uvarint(len(headers))
    for name, header_value in headers:
        body += string(name) + blob(header_value)
    return blob(body + value)


def batch_overhead(subject):
    return BATCH_HEADER.size + len(subject.encode())


def encode_batch(subject, sequence, base_time, count, records):
    """A batch of one subject; records is what encode_record gave, one behind the other."""
    name = subject.encode()
    length = BATCH_HEADER.size - 4 + len(name) + len(records)
    head = BATCH_HEADER.pack(length, 0, 1, 0, count, sequence, base_time, len(name))
    covered = head[8:] + name + records
    return head[:4] + struct.pack("<I", crc32c(covered)) + covered


def read_batch(r):
    """Reads the header of a batch. The CRC is not checked here: see check_crc."""
    start = r.at
    length = r.fixed(4)
    if not 30 <= length <= MAX_FILTERED_BATCH - 4:
        raise Malformed("a batch of %d bytes" % (length + 4))
    r.at = start
    whole = r.take(4 + length)
    _, crc, kind, attributes, count, sequence, base_time, subject_length = BATCH_HEADER.unpack_from(whole)
    if kind != 1 or attributes & 7 > ZSTD:
        raise Malformed("batch format %d, compression %d: this program is too old for them" % (kind, attributes & 7))
    if attributes & ~(ZSTD | MIXED | FILTERED) or not count or bool(attributes & MIXED) == bool(subject_length):
        raise Malformed("a batch with attributes %#x, %d records, a subject of %d bytes" % (attributes, count, subject_length))
    rest = Reader(whole, BATCH_HEADER.size)
    try:
        subject = rest.take(subject_length).decode()
    except UnicodeDecodeError:
        raise Malformed("a subject that is not UTF-8") from None
    span = rest.fixed(2) if attributes & FILTERED else count
    if span < count:
        raise Malformed("%d records in a span of %d" % (count, span))
    return Batch(attributes, count, span, sequence, base_time, subject, rest.take(rest.left()), crc, whole[8:])


def check_crc(batch):
    return crc32c(batch.covered) == batch.crc


def raw_records(batch):
    if not batch.attributes & ZSTD:
        return batch.records
    r = Reader(batch.records)
    raw_length = r.fixed(4)
    if raw_length > MAX_BATCH:
        raise Malformed("raw records of %d bytes" % raw_length)
    try:
        from compression import zstd
    except ImportError:
        raise Malformed("the batch is compressed with zstd, which Python reads from 3.14 on") from None
    decoder = zstd.ZstdDecompressor()
    try:
        raw = decoder.decompress(r.take(r.left()), raw_length + 1)
    except zstd.ZstdError as err:
        raise Malformed("zstd: %s" % err) from None
    if len(raw) != raw_length or not decoder.eof or decoder.unused_data:
        raise Malformed("the records do not decompress to the %d bytes told" % raw_length)
    return raw


def read_records_of(batch, base):
    """Yields the records of a batch whose first offset is base."""
    r = Reader(raw_records(batch))
    last = -1
    for place in range(batch.count):
        delta = r.uvarint() if batch.attributes & FILTERED else place
        if not last < delta < batch.span:
            raise Malformed("offset delta %d behind %d in a span of %d" % (delta, last, batch.span))
        last = delta
        one = Reader(r.blob())
        stamp = batch.base_time + one.varint()
        subject = one.string() if batch.attributes & MIXED else batch.subject
        key = one.blob()
        headers = one.list(lambda r: (r.string(), r.blob()))
        yield Record(base + delta, stamp, subject, key, headers, one.take(one.left()))
    r.done()


# --- Names (5) ---

_REFUSED = set(range(0x21)) | set(range(0x7F, 0xA1)) | {0x1680, 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
_REFUSED |= set(range(0x2000, 0x200B)) | {ord("/"), ord("\\")}


def check_name(text, wildcards=False):
    """Raises ValueError if text is no subject (or, with wildcards, no filter)."""
    kind = "filter" if wildcards else "subject"
    if not 1 <= len(text.encode()) <= 255:
        raise ValueError("a %s has 1 to 255 bytes, not %d" % (kind, len(text.encode())))
    tokens = text.split(".")
    for i, token in enumerate(tokens):
        if not token:
            raise ValueError("%s %r has an empty token" % (kind, text))
        if wildcards and (token == "*" or token == ">" and i == len(tokens) - 1):
            continue
        if any(c in "*>" or ord(c) in _REFUSED for c in token):
            raise ValueError("%s %r has a character that may not be there" % (kind, text))


# --- A connection (3, 4) ---


class Connection:
    """One connection to a node. recv gives frames; PING is answered, and sent when it is due.

    A dead connection raises Closed; an ERROR that ends the connection raises NodeError.
    """

    def __init__(self, sock, software):
        self.sock = sock
        self.received = bytearray()
        self.corr = 0
        self.limit = MAX_HELLO_FRAME
        self.idle = 5.0  # the whole handshake has as long
        self.going_away = False
        self.send(MAGIC + hello(software))
        answer = self.recv(5.0)
        if answer is None:
            raise Closed("no answer to HELLO within 5 s")
        if answer.op != WELCOME:
            raise Malformed("op %d in answer to HELLO" % answer.op)
        self.welcome = decode(read_welcome, answer.body)
        self.limit = FRAME_LIMIT
        self.idle = self.welcome.idle

    @classmethod
    def dial(cls, host, port, software):
        try:
            sock = socket.create_connection((host, port), timeout=5)
        except OSError as err:
            raise Unreachable(host, port, err) from None
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            return cls(sock, software)
        except BaseException:
            sock.close()
            raise

    def next_corr(self):
        self.corr += 1
        return self.corr

    def send(self, data):
        try:
            self.sock.settimeout(60)
            self.sock.sendall(data)
        except OSError as err:
            raise Closed("the connection broke: %s" % err) from None
        self.said = time.monotonic()

    def recv(self, timeout):
        """Gives the next frame of interest; None if there is none within timeout seconds."""
        deadline = time.monotonic() + timeout
        while True:
            got = self._take()
            if got is None:
                if not self._fill(deadline):
                    return None
            elif self._interesting(got):
                return got

    def _take(self):
        """Cuts the first frame off what was received, if it is whole."""
        if len(self.received) < 4:
            return None
        length = int.from_bytes(self.received[:4], "little")
        if not 6 <= length <= self.limit:
            raise Malformed("a frame of length %d; is this a Tidewire node?" % length)
        if len(self.received) < 4 + length:
            return None
        _, op, version_flags, corr = HEADER.unpack_from(self.received)
        body = bytes(self.received[HEADER.size : 4 + length])
        del self.received[: 4 + length]
        if op == 0 or version_flags & 0x0E or version_flags == MORE and op in KNOWN - {TOPOLOGY}:
            raise Malformed("op %d with flags %#x" % (op, version_flags))
        return Frame(op, version_flags >> 4, version_flags & MORE, corr, body)

    def _fill(self, deadline):
        """Receives something, sending PING when it is due; False when the deadline passes."""
        while True:
            now = time.monotonic()
            wait = deadline - now
            if self.idle:
                due = self.said + self.idle / 3 - now
                if due <= 0:
                    self.send(frame(PING, 0, bytes(8)))
                    continue
                wait = min(wait, due)
            try:
                self.sock.settimeout(max(wait, 0.0))
                data = self.sock.recv(1 << 18)
            except (socket.timeout, BlockingIOError):
                if time.monotonic() >= deadline:
                    return False
                continue
            except OSError as err:
                raise Closed("the connection broke: %s" % err) from None
            if not data:
                raise Closed("the node closed the connection")
            self.received += data
            return True

    def _interesting(self, got):
        if got.op not in KNOWN or got.version:
            return False  # of a later version: passed over (2)
        if got.op == PING:
            self.send(frame(PONG, got.corr, got.body))
        elif got.op == GOAWAY:
            self.going_away = True
        elif got.op == ERROR and got.corr == 0:
            raise decode(read_error, got.body)
        else:
            return got.op != PONG and not (got.op == TOPOLOGY and got.corr == 0)
        return False

    def ask(self, request, corr, want, read, timeout=30.0):
        """Sends a request and gives its one answer; frames of other conversations are dropped."""
        self.send(request)
        deadline = time.monotonic() + timeout
        while True:
            got = self.recv(deadline - time.monotonic())
            if got is None:
                raise Closed("no answer within %g s" % timeout)
            if got.corr != corr or got.flags & MORE:
                continue
            if got.op == ERROR:
                raise decode(read_error, got.body)
            if got.op != want:
                raise Malformed("op %d where %d was due" % (got.op, want))
            return decode(read, got.body)

    def close(self):
        self.sock.close()


def address(text):
    """Splits host:port; [::1]:7420 has its brackets for the colons."""
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
