/*
Copyright The Sandbox API Server Authors.

Licensed under the Apache License, Version 2.0 (the "License");
you may not use this file except in compliance with the License.
You may obtain a copy of the License at

    http://www.apache.org/licenses/LICENSE-2.0

Unless required by applicable law or agreed to in writing, software
distributed under the License is distributed on an "AS IS" BASIS,
WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
See the License for the specific language governing permissions and
limitations under the License.
*/

package overlay

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// header is a tar entry without its content.
type header struct {
	typeflag   byte
	name, link []byte
	mode       uint32 // the permission bits, with set-uid, set-gid and sticky
	uid, gid   uint32
	size       int64
	sparse     int64 // the length of a file of which size is only the map and the data; 0 of others
	promised   bool  // whether the header is written, and content has to follow
	// sec and nsec are the time of the last change of the content.
	sec, nsec    int64
	major, minor uint32
	records      []record // the extended attributes
}

// record is one line of a PAX header.
type record struct{ key, value string }

// Of the ustar format, the fields in the block of a header.
// https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html
const (
	blockSize = 512

	fieldName, nameSize = 0, 100
	fieldMode           = 100 // and uid, gid: 8 bytes each
	fieldSize           = 124 // and the time: 12 bytes each
	fieldChecksum       = 148
	fieldType           = 156
	fieldLink           = 157
	fieldMagic          = 257
	fieldMajor          = 329 // and minor: 8 bytes each

	typePAX = 'x'
	// paxDirectory is where a reader that does not know PAX would put the records.
	paxDirectory = "PaxHeaders.0/"

	// maxRecords is how long the records of one entry may be: readers stop there,
	// Go's at 1 MiB.
	maxRecords = 1 << 20

	// What has room in a field of 8 or 12 bytes, the last of which ends the number.
	octal8, octal12 = 1<<21 - 1, 1<<33 - 1
)

// encoder makes headers. Its output is byte for byte that of archive/tar's PAX
// format, which costs several times as much (BenchmarkHeader): this runs for
// every file while a container may be frozen.
type encoder struct {
	out     []byte
	records []record
	pax     []byte
}

var errRecords = errors.New("its attributes take more than 1 MiB")

// encode returns the blocks of h, valid until the next call.
func (e *encoder) encode(h *header) ([]byte, error) {
	e.out = e.out[:0]
	if h.major > octal8 || h.minor > octal8 {
		return nil, fmt.Errorf("the device number %d:%d is too large", h.major, h.minor)
	}
	if err := e.paxRecords(h); err != nil {
		return nil, err
	}
	if len(e.pax) > 0 {
		e.paxHeader(h.name)
	}
	b := e.block(h.typeflag)
	name := h.name
	if h.sparse > 0 {
		name = sparseName(name)
	}
	putString(b[fieldName:fieldName+nameSize], name)
	putString(b[fieldLink:fieldLink+nameSize], h.link)
	putOctal(b[fieldMode:][:8], int64(h.mode))
	putOctal(b[fieldMode+8:][:8], fitting(int64(h.uid), octal8))
	putOctal(b[fieldMode+16:][:8], fitting(int64(h.gid), octal8))
	putOctal(b[fieldSize:][:12], fitting(h.size, octal12))
	putOctal(b[fieldSize+12:][:12], fitting(h.sec, octal12))
	putOctal(b[fieldMajor:][:8], int64(h.major))
	putOctal(b[fieldMajor+8:][:8], int64(h.minor))
	checksum(b)
	return e.out, nil
}

// fitting is n, or 0 where a record has to say it.
func fitting(n, most int64) int64 {
	if n < 0 || n > most {
		return 0
	}
	return n
}

// paxRecords collects what the fields cannot hold.
func (e *encoder) paxRecords(h *header) error {
	e.records, e.pax = e.records[:0], e.pax[:0]
	switch {
	case h.sparse > 0:
		e.add("GNU.sparse.major", "1")
		e.add("GNU.sparse.minor", "0")
		e.add("GNU.sparse.name", string(h.name))
		e.add("GNU.sparse.realsize", strconv.FormatInt(h.sparse, 10))
	case len(h.name) > nameSize || !isASCII(h.name):
		e.add("path", string(h.name))
	}
	if len(h.link) > nameSize || !isASCII(h.link) {
		e.add("linkpath", string(h.link))
	}
	for _, n := range []struct {
		key    string
		n, max int64
	}{{"uid", int64(h.uid), octal8}, {"gid", int64(h.gid), octal8}, {"size", h.size, octal12}} {
		if n.n > n.max {
			e.add(n.key, strconv.FormatInt(n.n, 10))
		}
	}
	if h.nsec != 0 || h.sec < 0 || h.sec > octal12 {
		e.add("mtime", formatTime(h.sec, h.nsec))
	}
	for _, r := range h.records {
		if strings.ContainsAny(r.key, "=\x00") {
			return fmt.Errorf("an attribute is named %q", r.key)
		}
		e.records = append(e.records, r)
	}
	slices.SortFunc(e.records, func(a, b record) int { return cmp.Compare(a.key, b.key) })
	for _, r := range e.records {
		e.pax = appendRecord(e.pax, r)
	}
	if len(e.pax) > maxRecords {
		return errRecords
	}
	return nil
}

func (e *encoder) add(key, value string) { e.records = append(e.records, record{key, value}) }

// appendRecord appends "<length> <key>=<value>\n", where the length counts its
// own digits.
func appendRecord(b []byte, r record) []byte {
	const around = 3 // the space, the equals sign and the line's end
	size := len(r.key) + len(r.value) + around
	total := size + digits(size)
	if size+digits(total) > total { // the length's own digits made it longer
		total++
	}
	b = strconv.AppendInt(b, int64(total), 10)
	b = append(b, ' ')
	b = append(b, r.key...)
	b = append(b, '=')
	b = append(b, r.value...)
	return append(b, '\n')
}

func digits(n int) int {
	d := 1
	for ; n >= 10; n /= 10 {
		d++
	}
	return d
}

// formatTime writes seconds with as many digits behind the point as are needed.
func formatTime(sec, nsec int64) string {
	if nsec == 0 {
		return strconv.FormatInt(sec, 10)
	}
	sign := ""
	if sec < 0 {
		// The fraction counts upwards from the second before, the number from zero.
		sign, sec, nsec = "-", -(sec + 1), 1_000_000_000-nsec
	}
	b := make([]byte, 0, 32)
	b = strconv.AppendInt(append(b, sign...), sec, 10)
	b = strconv.AppendInt(append(b, '.'), 1_000_000_000+nsec, 10)
	b = append(b[:len(b)-10], b[len(b)-9:]...) // without the 1 that kept the zeros
	return string(bytes.TrimRight(b, "0"))
}

// paxHeader appends the entry that carries the records of the next.
func (e *encoder) paxHeader(name []byte) {
	b := e.block(typePAX)
	name = bytes.TrimPrefix(name, []byte("./"))
	slash := bytes.LastIndexByte(name, '/') + 1
	dir, file := name[:slash], name[slash:]
	full := ascii(slices.Concat(dir, []byte(paxDirectory), file))
	full = bytes.TrimRight(full[:min(len(full), nameSize)], "/")
	putString(b[fieldName:fieldName+nameSize], full)
	for _, at := range []int{fieldMode, fieldMode + 8, fieldMode + 16} {
		putOctal(b[at:][:8], 0)
	}
	putOctal(b[fieldSize:][:12], int64(len(e.pax)))
	putOctal(b[fieldSize+12:][:12], 0)
	checksum(b)
	e.out = append(e.out, e.pax...)
	e.out = append(e.out, zeroBlock[:padding(int64(len(e.pax)))]...)
}

// block appends an empty header and returns it.
func (e *encoder) block(typeflag byte) []byte {
	e.out = append(e.out, zeroBlock[:blockSize]...)
	b := e.out[len(e.out)-blockSize:]
	b[fieldType] = typeflag
	copy(b[fieldMagic:], "ustar\x0000")
	return b
}

// putString fills a field with what it can hold of s. Readers that do not know
// PAX take a slash at the end for a directory, so a cut must not leave one.
func putString(field, s []byte) {
	s = ascii(s)
	copy(field, s)
	if len(s) > len(field) && field[len(field)-1] == '/' {
		field[len(bytes.TrimRight(field[:len(field)-1], "/"))] = 0
	}
}

// putOctal fills a field with digits and a zero at the end.
func putOctal(field []byte, n int64) {
	for i := len(field) - 2; i >= 0; i-- {
		field[i] = '0' + byte(n&7)
		n >>= 3
	}
}

// checksum sums the header, its own field counted as spaces.
func checksum(b []byte) {
	field := b[fieldChecksum:][:8]
	copy(field, "        ")
	// Eight bytes at once, in four lanes of 16 bits, which 64 words cannot fill.
	const lanes = 0x00ff00ff00ff00ff
	sums := uint64(0)
	for ; len(b) >= 8; b = b[8:] {
		word := binary.NativeEndian.Uint64(b)
		sums += word&lanes + word>>8&lanes
	}
	sum := sums&0xffff + sums>>16&0xffff + sums>>32&0xffff + sums>>48
	putOctal(field[:7], int64(sum)) // the space after it stays
	field[6] = 0
}

func isASCII(s []byte) bool {
	for _, c := range s {
		if c >= utf8.RuneSelf || c == 0 {
			return false
		}
	}
	return true
}

// ascii leaves out what is not; a record has the whole.
func ascii(s []byte) []byte {
	if isASCII(s) {
		return s
	}
	var kept []byte
	for _, c := range s {
		if c < utf8.RuneSelf && c != 0 {
			kept = append(kept, c)
		}
	}
	return kept
}

// padding is how much is missing to a whole block.
func padding(size int64) int64 { return -size & (blockSize - 1) }
