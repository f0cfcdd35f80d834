package envelope

import "slices"

// Blocks that payloads are filled up to inside the encryption, in bytes, so that the length of what was sealed tells
// nothing of what it holds.
const (
	BlockCredential = 256
	BlockCode       = 64
)

// block is that of a kind of secret.
func (t Typ) block() int {
	if t == TypCode {
		return BlockCode
	}
	return BlockCredential
}

// paddingMark ends a payload; zeros up to the end of the block follow (ISO/IEC 7816-4).
const paddingMark = 0x80

// pad fills payload up to whole blocks, in a slice of its own. The caller wipes both.
func pad(payload []byte, block int) []byte {
	full := make([]byte, (len(payload)/block+1)*block)
	copy(full, payload)
	full[len(payload)] = paddingMark
	return full
}

// unpad gives the payload within full, which it is a part of. What is not filled up as pad does, with as little as the
// block needs, is no payload of ours.
func unpad(full []byte, block int) ([]byte, bool) {
	if len(full) == 0 || len(full)%block != 0 {
		return nil, false
	}
	last := full[len(full)-block:]
	mark := len(last) - 1
	for mark > 0 && last[mark] == 0 {
		mark--
	}
	if last[mark] != paddingMark {
		return nil, false
	}
	return slices.Clip(full[:len(full)-block+mark]), true
}
