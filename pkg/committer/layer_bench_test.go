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

package committer

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/layer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/overlay"
)

// BenchmarkLayer is all that a commit does with a container's bytes but to send them.
func BenchmarkLayer(b *testing.B) {
	if os.Geteuid() != 0 {
		b.Skip("needs root, to see trusted extended attributes")
	}
	for _, test := range []struct {
		name         string
		files, size  int
		compressible bool
	}{
		{"one compressible file", 1, 64 << 20, true},
		{"one random file", 1, 64 << 20, false},
		{"2,000 small files", 2000, 5 << 10, true},
	} {
		b.Run(test.name, func(b *testing.B) {
			dir := b.TempDir()
			random := rand.NewChaCha8([32]byte{})
			content := make([]byte, test.size)
			_, _ = random.Read(content)
			if test.compressible {
				for i := range content {
					content[i] = "the quick brown fox "[i%20] ^ content[i]>>7
				}
			}
			for i := range test.files {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), content, 0o600); err != nil {
					b.Fatal(err)
				}
			}
			b.SetBytes(int64(test.files) * int64(test.size))
			b.ReportAllocs()
			for b.Loop() {
				l := layer.New(context.Background(), func(ctx context.Context, w io.Writer) error {
					_, err := overlay.Write(ctx, w, dir, overlay.Options{})
					return err
				})
				body, err := l.Compressed()
				if err == nil {
					_, err = io.Copy(io.Discard, body)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
