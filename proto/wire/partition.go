package wire

// PartitionOf is the partition, of n, that a record belongs to: the CRC-32C of its key, or of
// its subject if it has no key, modulo n. n is at least 1.
func PartitionOf(subject string, key []byte, n uint32) uint32 {
	switch {
	case n == 1:
		return 0
	case len(key) > 0:
		return crc32c(key) % n
	}
	return crc32c(subject) % n
}

// crc32c is crc32.Checksum(s, castagnoli) by the table: names are short, and need not become
// bytes on the heap for it.
func crc32c[S string | []byte](s S) uint32 {
	crc := ^uint32(0)
	for i := range len(s) {
		crc = castagnoli[byte(crc)^s[i]] ^ crc>>8
	}
	return ^crc
}
