package wire

import (
	"fmt"
	"hash/crc32"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func readDocument(t *testing.T) string {
	t.Helper()
	doc, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	return string(doc)
}

// The tables of ops and errors say what the code says, nothing more and nothing less.
func TestDocumentTables(t *testing.T) {
	want := map[string]bool{}
	for op := range 256 {
		if Op(op).Known() {
			want[fmt.Sprintf("| %d | `%s` |", op, Op(op))] = true
		}
	}
	for code, name := range codeNames {
		want[fmt.Sprintf("| %d | `%s` |", code, name)] = true
	}
	for _, row := range regexp.MustCompile("(?m)^\\| \\d+ \\| `[A-Z_]+` \\|").FindAllString(readDocument(t), -1) {
		if !want[row] {
			t.Errorf("the document has %q, the code has not, or the document has it twice", row)
		}
		delete(want, row)
	}
	for row := range want {
		t.Errorf("the document lacks %q", row)
	}
}

// The limits the document names are the limits of the code.
func TestDocumentLimits(t *testing.T) {
	doc := readDocument(t)
	for name, value := range map[string]int{
		"MaxHelloFrame": MaxHelloFrame, "MaxBatch": MaxBatch, "MaxFilteredBatch": MaxFilteredBatch,
		"MinBatchLimit": MinBatchLimit, "MinFrameLimit": MinFrameLimit, "MaxFrameLimit": MaxFrameLimit,
		"MaxInFlightBatches": MaxInFlightBatches, "MaxPartitions": MaxPartitions, "MaxStreamSubjects": MaxStreamSubjects,
		"MaxText": MaxText, "MaxMessage": MaxMessage, "MaxSubject": MaxSubject, "MaxStreamName": MaxStreamName,
		"MaxHeaderName": MaxHeaderName,
	} {
		if row := fmt.Sprintf("| `%s` | %s |", name, thousands(value)); !strings.Contains(doc, row) {
			t.Errorf("the document lacks %q", row)
		}
	}
}

func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// The rows of the partition function are right.
func TestDocumentPartitions(t *testing.T) {
	rows := regexp.MustCompile("(?m)^\\| `([^`]*)` \\| `(0x[0-9a-f]{8})` \\| (\\d+) \\| (\\d+) \\| (\\d+) \\|$").FindAllStringSubmatch(readDocument(t), -1)
	if len(rows) < 5 {
		t.Fatalf("%d rows", len(rows))
	}
	for _, row := range rows {
		key := row[1]
		if sum := fmt.Sprintf("0x%08x", crc32.Checksum([]byte(key), castagnoli)); sum != row[2] {
			t.Errorf("%q: CRC-32C %s, the document says %s", key, sum, row[2])
		}
		for i, n := range []uint32{3, 8, 1000} {
			want, _ := strconv.Atoi(row[3+i])
			if got := PartitionOf("another", []byte(key), n); got != uint32(want) || PartitionOf(key, nil, n) != got {
				t.Errorf("%q of %d: %d, the document says %d", key, n, got, want)
			}
		}
	}
}

// Publishing one record and having it acknowledged costs at most 96 bytes, and what the document says.
func TestSize(t *testing.T) {
	publish := (&publishBody{sixteen}).frame(nil, OpPublish, 3)
	ack := sixteenAck.AppendTo(nil, 3)
	if n := len(publish) + len(ack); n > 96 {
		t.Errorf("publish and ack take %d bytes", n)
	}
	two := sixteen
	two.Records = append(two.Records[:1:1], two.Records[0])
	each := len(two.encode()) - len(sixteen.encode())
	row := fmt.Sprintf("| **Tidewire** | %d | %d | **%d** | %d |", len(publish), len(ack), len(publish)+len(ack), each)
	t.Log(row)
	if !strings.Contains(readDocument(t), row) {
		t.Errorf("the document lacks %q", row)
	}
}
