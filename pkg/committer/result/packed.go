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

package result

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Packed are the containers of a report that would be too long with their names: in the order of
// the commit's arguments, which whoever reads it knows.
type Packed struct {
	// Of is the beginning of the sum of all names and images, in base64: the order is that of no
	// other containers.
	Of string `json:"of"`
	// Each is for each container 32 bytes of the digest, the bytes of its layers as a varint, and its
	// number of layers with its differ as another; all of it in base64.
	Each string `json:"each"`
}

// Ref is a container that was to be committed, and the tag that it was to be pushed to.
type Ref struct{ Name, Image string }

const (
	ofBytes      = 12
	digestPrefix = "sha256:"
)

var packing = base64.RawURLEncoding

// errUnpackable: the containers hold what Packed has no place for.
var errUnpackable = errors.New("digests are not all SHA-256, or a differ is unknown")

func pack(containers []Container) (*Packed, error) {
	refs := make([]Ref, 0, len(containers))
	var each []byte
	for _, c := range containers {
		refs = append(refs, Ref{c.Name, c.Image})
		sum, err := hex.DecodeString(strings.TrimPrefix(c.Digest, digestPrefix))
		if err != nil || len(sum) != sha256.Size || c.Digest != digestPrefix+hex.EncodeToString(sum) {
			return nil, errUnpackable
		}
		if c.LayerBytes < 0 || c.Layers < 0 || c.Differ != "" && c.Differ != DifferContainerd {
			return nil, errUnpackable
		}
		layers := uint64(c.Layers) << 1
		if c.Differ == DifferContainerd {
			layers |= 1
		}
		each = append(each, sum...)
		each = binary.AppendUvarint(each, uint64(c.LayerBytes))
		each = binary.AppendUvarint(each, layers)
	}
	return &Packed{Of: sumOf(refs), Each: packing.EncodeToString(each)}, nil
}

// Unpack gives the containers of the report their names and images, which are those that the commit was
// given, in that order. A report that is not packed stays as it is.
func (r *Result) Unpack(refs []Ref) error {
	if r.Packed == nil {
		return nil
	}
	if r.Packed.Of != sumOf(refs) {
		return fmt.Errorf("the report is not of the %d containers that were to be committed", len(refs))
	}
	each, err := packing.DecodeString(r.Packed.Each)
	if err != nil {
		return fmt.Errorf("the report's list of containers: %w", err)
	}
	containers := make([]Container, 0, len(refs))
	for _, ref := range refs {
		if len(each) < sha256.Size {
			return fmt.Errorf("the report's list of containers ends at %s", ref.Name)
		}
		c := Container{Name: ref.Name, Image: ref.Image, Digest: digestPrefix + hex.EncodeToString(each[:sha256.Size])}
		each = each[sha256.Size:]
		size, n := binary.Uvarint(each)
		if n <= 0 || int64(size) < 0 { //nolint:gosec // what does not fit is refused
			return fmt.Errorf("the report has no size of container %s", ref.Name)
		}
		layers, m := binary.Uvarint(each[n:])
		if m <= 0 || layers>>1 > 1<<20 {
			return fmt.Errorf("the report has no number of layers of container %s", ref.Name)
		}
		each = each[n+m:]
		c.LayerBytes, c.Layers = int64(size), int(layers>>1) //nolint:gosec // checked above
		if layers&1 == 1 {
			c.Differ = DifferContainerd
		}
		containers = append(containers, c)
	}
	if len(each) > 0 {
		return fmt.Errorf("the report's list of containers goes on after the last of %d", len(refs))
	}
	r.Containers, r.Packed = containers, nil
	return nil
}

func sumOf(refs []Ref) string {
	sum := sha256.New()
	for _, ref := range refs {
		// Neither a name nor a reference can hold a line's end.
		fmt.Fprintf(sum, "%s\n%s\n", ref.Name, ref.Image)
	}
	return packing.EncodeToString(sum.Sum(nil)[:ofBytes])
}

// Report is what a run leaves behind: Message is for the termination message. Line is empty, unless the
// report is longer than that: then it is the whole of it, which Message has the sum of, and has to be written as one
// line to the container's log before it.
type Report struct{ Message, Line []byte }

// Report encodes r whatever its length.
func (r Result) Report() (Report, error) {
	message, err := r.Encode()
	if !errors.Is(err, errTooLong) {
		return Report{Message: message}, err
	}
	r.Warnings = bounded(r.Warnings, maxWarnings)
	line, err := marshal(r)
	if err != nil {
		return Report{}, err
	}
	message, err = Result{Logged: hashed(line), FrozenMillis: r.FrozenMillis, Thawed: r.Thawed}.Encode()
	return Report{Message: message, Line: line}, err
}

// FromLog finds the line in a container's log that the report speaks of, and returns what it says.
func (r Result) FromLog(log []byte) (Result, error) {
	for line := range bytes.Lines(log) {
		line = bytes.TrimRight(line, "\r\n")
		if hashed(line) == r.Logged {
			return Decode(line)
		}
	}
	return Result{}, fmt.Errorf("none of the last %d bytes of the log is the report with the sum %s", len(log), r.Logged)
}

func hashed(line []byte) string {
	sum := sha256.Sum256(line)
	return hex.EncodeToString(sum[:])
}
