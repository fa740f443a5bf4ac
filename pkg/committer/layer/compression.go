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

package layer

import (
	"bytes"
	"fmt"

	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// Compression is how layers are compressed. The zero value is zstd.
type Compression string

// Zstd is the better one in every way, but for those who do not know it.
const (
	Zstd Compression = "zstd"
	Gzip Compression = "gzip"
)

// ParseCompression reads the value of a flag; none is zstd.
func ParseCompression(value string) (Compression, error) {
	switch c := Compression(value); c {
	case "", Zstd:
		return Zstd, nil
	case Gzip:
		return c, nil
	}
	return "", fmt.Errorf("%q is neither zstd nor gzip", value)
}

// MediaType is OCI's for such a layer.
func (c Compression) MediaType() types.MediaType {
	if c == Gzip {
		return types.OCILayer
	}
	return types.OCILayerZStd
}

// encoder compresses one frame after the other, each by itself.
type encoder interface {
	// EncodeAll appends the frame to to.
	EncodeAll(raw, to []byte) []byte
}

func (c Compression) encoder() (encoder, error) {
	if c == Gzip {
		writer, err := gzip.NewWriterLevel(nil, gzip.BestSpeed)
		return &members{writer: writer}, err
	}
	return zstd.NewWriter(nil,
		// The fastest level already costs more than everything else together.
		zstd.WithEncoderLevel(zstd.SpeedFastest),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(frameSize),
		// The layer's digest says more than a checksum.
		zstd.WithEncoderCRC(false))
}

// members makes a gzip member of each frame: a sequence of them is one valid file (RFC 1952,
// section 2.2), which all readers of layers take for one.
type members struct {
	writer *gzip.Writer
	packed bytes.Buffer
}

func (m *members) EncodeAll(raw, to []byte) []byte {
	m.packed.Reset()
	m.writer.Reset(&m.packed)
	_, _ = m.writer.Write(raw) // a buffer takes everything
	_ = m.writer.Close()
	return append(to, m.packed.Bytes()...)
}
