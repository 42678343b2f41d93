package wire

import "encoding/binary"

// AppendFiltered appends to dst the batch that is left of h when only the records keep accepts
// are shown: verbatim, with their offset deltas, AttrFiltered, and a CRC of its own; never
// compressed, at most MaxFilteredBatch bytes. If keep accepts all, it appends h as it is. raw is
// what h.Raw gave and does not overlap dst. It returns dst unchanged if keep accepts none.
//
// keep sees one Record that is overwritten for each; it allocates that one, and no more.
func AppendFiltered(dst []byte, h *Batch, raw []byte, keep func(*Record) bool) ([]byte, error) {
	at := len(dst)
	dst = append(dst, h.Bytes[:batchFixed]...)
	dst = append(dst, h.Subject...)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(h.Span))
	kept := 0
	it := h.Iterate(raw)
	var rec Record
	for {
		before := it.rest
		if !it.Next(&rec) {
			break
		}
		if !keep(&rec) {
			continue
		}
		kept++
		if !h.Filtered() {
			dst = binary.AppendUvarint(dst, uint64(rec.OffsetDelta))
		}
		dst = append(dst, before[:len(before)-len(it.rest)]...)
	}
	switch {
	case it.err != nil || kept == 0:
		return dst[:at], it.err
	case kept == int(h.Count):
		return append(dst[:at], h.Bytes...), nil
	}
	b := dst[at:]
	b[9] = byte(h.Attributes&^attrCompression | AttrFiltered)
	binary.LittleEndian.PutUint16(b[10:], uint16(kept))
	seal(b)
	return dst, nil
}
