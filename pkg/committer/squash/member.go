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

package squash

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"path"
	"strconv"
	"strings"
)

// ErrNotMergeable is what is failed with for a layer that is no tar as layers of
// snapshots are written. Such a layer is left as it is.
var ErrNotMergeable = errors.New("the layer cannot be merged")

const (
	blockSize = 512
	// maxRecords bounds the PAX records of one member, as archive/tar does.
	maxRecords = 1 << 20
)

// Keys of PAX records that a merge looks at or changes.
const (
	paxPath       = "path"
	paxLinkpath   = "linkpath"
	paxSize       = "size"
	paxSparseName = "GNU.sparse.name"
)

// member is one file of a tar archive. Its headers are kept as they were
// written, so that whatever they say is said again, known here or not.
type member struct {
	kind byte
	// name and target are cleaned: without a slash at either end, "" for the root.
	name, target string
	// stored is how many bytes of content follow the headers, without padding.
	stored int64

	records []record // of the PAX header; nil without one
	pax     []byte   // its own header block
	header  []byte   // the ustar block
}

type record struct{ key, value string }

// memberReader reads a tar archive member by member.
type memberReader struct {
	r *bufio.Reader
	// left is what was not read yet of the content and padding of the last member.
	left, padding int64
}

func newMemberReader(r io.Reader) *memberReader {
	return &memberReader{r: bufio.NewReaderSize(r, 256<<10)}
}

// next returns the next member, io.EOF after the last.
func (t *memberReader) next() (*member, error) {
	if _, err := io.CopyN(io.Discard, t.r, t.left+t.padding); err != nil {
		return nil, truncated(err)
	}
	t.left, t.padding = 0, 0
	m := &member{}
	for {
		block := make([]byte, blockSize)
		if _, err := io.ReadFull(t.r, block); err != nil {
			if errors.Is(err, io.EOF) && m.pax == nil {
				return nil, io.EOF // without the zero blocks that should be there
			}
			return nil, truncated(err)
		}
		if isZero(block) {
			if m.pax != nil {
				return nil, fmt.Errorf("%w: a PAX header is its last member", ErrNotMergeable)
			}
			return nil, io.EOF
		}
		if sum, err := number(block[148:156]); err != nil || sum != checksum(block) {
			return nil, fmt.Errorf("%w: the checksum of a header is wrong", ErrNotMergeable)
		}
		size, err := number(block[124:136])
		if err != nil {
			return nil, fmt.Errorf("%w: the size of a member: %w", ErrNotMergeable, err)
		}
		switch kind := block[156]; kind {
		case typePAX:
			if m.pax != nil || size > maxRecords {
				return nil, fmt.Errorf("%w: a PAX header of %d bytes, or a second one", ErrNotMergeable, size)
			}
			m.pax = block
			if m.records, err = t.readRecords(size); err != nil {
				return nil, err
			}
		case typeFile, typeFileOld, typeLink, typeSymlink, typeChar, typeBlock, typeDir, typeFIFO:
			m.kind, m.header, m.stored = kind, block, size
			if err := m.interpret(); err != nil {
				return nil, err
			}
			t.left, t.padding = m.stored, padding(m.stored)
			return m, nil
		default:
			return nil, fmt.Errorf("%w: it has a member of type %q", ErrNotMergeable, kind)
		}
	}
}

// Types of members.
const (
	typeFile    = '0'
	typeFileOld = 0
	typeLink    = '1'
	typeSymlink = '2'
	typeChar    = '3'
	typeBlock   = '4'
	typeDir     = '5'
	typeFIFO    = '6'
	typePAX     = 'x'
)

func (t *memberReader) readRecords(size int64) ([]record, error) {
	data := make([]byte, size+padding(size))
	if _, err := io.ReadFull(t.r, data); err != nil {
		return nil, truncated(err)
	}
	records := []record{}
	for rest := data[:size]; len(rest) > 0; {
		// "<length of all this> <key>=<value>\n"
		digits, _, ok := bytes.Cut(rest, []byte{' '})
		length, err := strconv.Atoi(string(digits))
		if !ok || err != nil || length <= len(digits)+1 || length > len(rest) || rest[length-1] != '\n' {
			return nil, fmt.Errorf("%w: its PAX records are malformed", ErrNotMergeable)
		}
		key, value, ok := bytes.Cut(rest[len(digits)+1:length-1], []byte{'='})
		if !ok {
			return nil, fmt.Errorf("%w: its PAX records are malformed", ErrNotMergeable)
		}
		records = append(records, record{string(key), string(value)})
		rest = rest[length:]
	}
	return records, nil
}

// interpret finds out what the headers call the member.
func (m *member) interpret() error {
	name := text(m.header[0:100])
	if magic := string(m.header[257:263]); magic == "ustar\x00" {
		if prefix := text(m.header[345:500]); prefix != "" {
			name = prefix + "/" + name
		}
	}
	target := text(m.header[157:257])
	sparseName := ""
	for _, r := range m.records {
		switch r.key {
		case paxPath:
			name = r.value
		case paxLinkpath:
			target = r.value
		case paxSparseName:
			sparseName = r.value
		case paxSize:
			size, err := strconv.ParseInt(r.value, 10, 64)
			if err != nil || size < 0 {
				return fmt.Errorf("%w: a member has the size %q", ErrNotMergeable, r.value)
			}
			m.stored = size
		}
	}
	if sparseName != "" {
		name = sparseName
	}
	if m.stored > math.MaxInt64-blockSize {
		return fmt.Errorf("%w: a member has the size %d", ErrNotMergeable, m.stored)
	}
	switch m.kind {
	case typeFile, typeFileOld:
		if strings.HasSuffix(name, "/") {
			m.kind = typeDir // as in archives older than the type
		}
	default:
		// What has no content has none, whatever its size says (see archive/tar).
		m.stored = 0
	}
	if name == "" {
		return fmt.Errorf("%w: a member has no name", ErrNotMergeable)
	}
	m.name = clean(name)
	if m.kind == typeLink {
		m.target = clean(target)
	}
	return nil
}

// clean brings the spellings of a path together: "./a", "/a" and "a/" are "a".
func clean(name string) string { return path.Clean("/" + name)[1:] }

// read reads the content of the last member.
func (t *memberReader) Read(p []byte) (int, error) {
	if t.left == 0 {
		return 0, io.EOF
	}
	n, err := t.r.Read(p[:min(int64(len(p)), t.left)])
	t.left -= int64(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// writeTo writes the member as it was, with its content.
func (m *member) writeTo(w io.Writer, content io.Reader, buf []byte) error {
	if m.pax != nil {
		var encoded []byte
		for _, r := range m.records {
			encoded = append(encoded, encode(r)...)
		}
		setNumber(m.pax[124:136], int64(len(encoded)))
		setChecksum(m.pax)
		for _, part := range [][]byte{m.pax, encoded, zeros[:padding(int64(len(encoded)))]} {
			if _, err := w.Write(part); err != nil {
				return err
			}
		}
	}
	if _, err := w.Write(m.header); err != nil {
		return err
	}
	if m.stored == 0 {
		return nil
	}
	// Not io.Copy, which would take a buffer of its own for each file.
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, io.LimitReader(content, m.stored), buf)
	if err != nil {
		return err
	}
	if n != m.stored {
		return io.ErrUnexpectedEOF
	}
	_, err = w.Write(zeros[:padding(m.stored)])
	return err
}

// rename gives the member another name, retarget a hard link another target.
func (m *member) rename(name string) {
	key := paxPath
	for _, r := range m.records {
		if r.key == paxSparseName {
			key = paxSparseName // and the path is a placeholder
		}
	}
	m.name = name
	m.set(key, name)
}

func (m *member) retarget(name string) {
	m.target = name
	m.set(paxLinkpath, name)
}

func (m *member) set(key, value string) {
	if m.pax == nil {
		m.pax = make([]byte, blockSize)
		copy(m.pax, "PaxHeaders.0")
		copy(m.pax[100:], "0000000\x000000000\x000000000\x00")
		copy(m.pax[136:], "00000000000\x00")
		m.pax[156] = typePAX
		copy(m.pax[257:], "ustar\x0000")
	}
	for i := range m.records {
		if m.records[i].key == key {
			m.records[i].value = value
			return
		}
	}
	m.records = append(m.records, record{key, value})
}

func encode(r record) []byte {
	// The length counts its own digits.
	rest := len(r.key) + len(r.value) + len(" =\n")
	length := rest + len(strconv.Itoa(rest))
	if rest+len(strconv.Itoa(length)) != length {
		length = rest + len(strconv.Itoa(length))
	}
	return fmt.Appendf(nil, "%d %s=%s\n", length, r.key, r.value)
}

// number reads a numeric field: octal digits, or big-endian binary with the
// highest bit set.
func number(field []byte) (int64, error) {
	if field[0]&0x80 != 0 {
		if field[0] != 0x80 {
			return 0, errors.New("it is negative or too large")
		}
		var n uint64
		for _, b := range field[1:] {
			if n > math.MaxInt64>>8 {
				return 0, errors.New("it is too large")
			}
			n = n<<8 | uint64(b)
		}
		return int64(n), nil //nolint:gosec // checked above
	}
	digits := strings.Trim(string(field), " \x00")
	if digits == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(digits, 8, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is no octal number", digits)
	}
	return n, nil
}

func setNumber(field []byte, n int64) {
	copy(field, fmt.Sprintf("%0*o\x00", len(field)-1, n))
}

// checksum is the sum of a header's bytes, with spaces for the sum itself.
func checksum(block []byte) (sum int64) {
	for i, b := range block {
		if i >= 148 && i < 156 {
			b = ' '
		}
		sum += int64(b)
	}
	return sum
}

func setChecksum(block []byte) {
	copy(block[148:156], fmt.Sprintf("%06o\x00 ", checksum(block)))
}

var zeros [2 * blockSize]byte

func isZero(block []byte) bool { return bytes.Equal(block, zeros[:blockSize]) }

func padding(size int64) int64 { return -size & (blockSize - 1) }

func text(field []byte) string {
	s, _, _ := bytes.Cut(field, []byte{0})
	return string(s)
}

func truncated(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
