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
	"archive/tar"
	"bytes"
	"io"
	"math/rand/v2"
	"path"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestHeadersAgainstArchiveTar compares random headers, with the borders of all
// fields among them, with those of the standard library.
func TestHeadersAgainstArchiveTar(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	pick := func(n ...int64) int64 { return n[random.IntN(len(n))] }
	text := func(most int) string {
		alphabet := []string{"a", "b", "/", "é", "\xff", "\n", " ", "=", "."}
		var b strings.Builder
		for range random.IntN(most) {
			b.WriteString(alphabet[random.IntN(len(alphabet))])
		}
		// As the walk makes paths.
		return strings.Trim(path.Clean("/"+b.String()), "/")
	}
	var e encoder
	for i := range 5000 {
		h := header{
			typeflag: "012345"[random.IntN(6)],
			name:     []byte(text(1 + random.IntN(300))),
			mode:     uint32(random.IntN(0o10000)),
			uid:      uint32(pick(0, 1000, octal8, octal8+1, 1<<32-1)),
			gid:      uint32(pick(0, 5, octal8, octal8+1, 1<<32-1)),
			sec:      pick(0, 1700000000, -1, -1<<33, octal12, octal12+1),
			nsec:     pick(0, 0, 1, 120000000, 999999999),
		}
		switch h.typeflag {
		case tar.TypeReg:
			h.size = pick(0, 1, 511, 512, octal12, octal12+1, 1<<62)
		case tar.TypeSymlink, tar.TypeLink:
			h.link = []byte(text(1 + random.IntN(300)))
		case tar.TypeDir:
			h.name = append(h.name, '/')
			if i%7 == 0 {
				h.name = []byte("./")
			}
		case tar.TypeChar, tar.TypeBlock:
			h.major, h.minor = uint32(random.IntN(4096)), uint32(random.IntN(1<<20))
		}
		if len(h.name) == 0 {
			continue
		}
		pax := map[string]string{}
		for range random.IntN(3) {
			pax[schily+"user."+strings.NewReplacer("=", "", "/", "").Replace(text(20))] = text(1 + random.IntN(1200))
		}
		for k, v := range pax {
			h.records = append(h.records, record{k, v})
		}
		if t.Failed() {
			return
		}

		var want bytes.Buffer
		err := tar.NewWriter(&want).WriteHeader(&tar.Header{
			Typeflag: h.typeflag, Name: string(h.name), Linkname: string(h.link), Mode: int64(h.mode), Uid: int(h.uid), Gid: int(h.gid),
			Size: h.size, ModTime: time.Unix(h.sec, h.nsec), Devmajor: int64(h.major), Devminor: int64(h.minor), PAXRecords: pax, Format: tar.FormatPAX,
		})
		must(t, err)
		got, err := e.encode(&h)
		must(t, err)
		if !bytes.Equal(want.Bytes(), got) {
			t.Errorf("header %d, %q (-archive/tar +ours):\n%s", i, h.name, cmp.Diff(want.String(), string(got)))
		}
	}
}

func TestHeaderRefusals(t *testing.T) {
	for name, h := range map[string]header{
		"a device that ustar cannot number": {typeflag: tar.TypeChar, major: octal8 + 1},
		"an attribute with an equals sign":  {typeflag: tar.TypeReg, records: []record{{"a=b", ""}}},
		"attributes that readers refuse":    {typeflag: tar.TypeReg, records: []record{{"a", strings.Repeat("x", maxRecords)}}},
	} {
		if _, err := new(encoder).encode(&h); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

func BenchmarkHeader(b *testing.B) {
	var e encoder
	h := header{typeflag: tar.TypeReg, name: []byte("usr/lib/python3/dist-packages/example/file.py"), mode: 0o644, size: 5000, sec: 1700000000, nsec: 123456789}
	b.Run("ours", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_, _ = e.encode(&h)
		}
	})
	b.Run("archive-tar", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = tar.NewWriter(io.Discard).WriteHeader(&tar.Header{
				Typeflag: h.typeflag, Name: string(h.name), Mode: int64(h.mode), Size: h.size, ModTime: time.Unix(h.sec, h.nsec), Format: tar.FormatPAX})
		}
	})
}
