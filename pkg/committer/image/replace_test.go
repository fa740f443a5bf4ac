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

package image

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestReplace(t *testing.T) {
	own := `{"created_by":"` + CreatedBy + `","comment":"%"}`
	config := `{"os":"linux","unknown":[1],"rootfs":{"type":"layers","diff_ids":["` +
		strings.Join([]string{string(d("b1")), string(d("b2")), string(d("o1")), string(d("o2")), string(d("o3"))}, `","`) +
		`"],"extra":1},"history":[{"created_by":"RUN","x":1},{"created_by":"ENV","empty_layer":true},{"created_by":"RUN"},` +
		strings.ReplaceAll(own, "%", "1") + "," + strings.ReplaceAll(own, "%", "2") + "," + strings.ReplaceAll(own, "%", "3") + `]}`
	layers := func(names ...string) (all []ocispec.Descriptor) {
		for _, n := range names {
			all = append(all, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerZstd, Digest: d(n), Size: 1})
		}
		return all
	}
	replaced := `{"created":"2026-01-02T03:04:05.000000006Z","created_by":"` + CreatedBy + `"}`
	base := base(t, config, layers("B1", "B2", "O1", "O2", "O3")...)
	tests := map[string]struct {
		from, to int
		diffIDs  []string
		history  []string // the last ones
		own      int
		fails    bool
	}{
		"all of ours":         {2, 5, []string{"b1", "b2", "new diff"}, []string{`{"created_by":"RUN"}`, replaced}, 1, false},
		"the topmost":         {3, 5, []string{"b1", "b2", "o1", "new diff"}, []string{strings.ReplaceAll(own, "%", "1"), replaced}, 2, false},
		"some":                {2, 4, []string{"b1", "b2", "new diff", "o3"}, []string{replaced, strings.ReplaceAll(own, "%", "3")}, 2, false},
		"one of the base's":   {0, 1, []string{"new diff", "b2", "o1", "o2", "o3"}, []string{strings.ReplaceAll(own, "%", "3")}, 3, false},
		"some of the base's":  {1, 4, nil, nil, 0, true},
		"none":                {2, 2, nil, nil, 0, true},
		"more than there are": {2, 6, nil, nil, 0, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			before := string(base.RawConfig)
			got, err := base.Replace(test.from, test.to, newLayer)
			if test.fails {
				if err == nil {
					t.Error("it was done")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var diffIDs []string
			for _, id := range test.diffIDs {
				diffIDs = append(diffIDs, string(d(id)))
			}
			var raw struct {
				OS      string            `json:"os"`
				Unknown json.RawMessage   `json:"unknown"`
				History []json.RawMessage `json:"history"`
				RootFS  struct {
					Extra   int      `json:"extra"`
					DiffIDs []string `json:"diff_ids"`
				} `json:"rootfs"`
			}
			if err := json.Unmarshal(got.RawConfig, &raw); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(diffIDs, raw.RootFS.DiffIDs); diff != "" {
				t.Errorf("diff IDs (-want +got):\n%s", diff)
			}
			if raw.OS != "linux" || string(raw.Unknown) != "[1]" || raw.RootFS.Extra != 1 {
				t.Errorf("something was lost: %s", got.RawConfig)
			}
			var last []string
			for _, h := range raw.History[len(raw.History)-len(test.history):] {
				last = append(last, string(h))
			}
			if diff := cmp.Diff(test.history, last); diff != "" {
				t.Errorf("history (-want +got):\n%s", diff)
			}
			if got.OwnLayers() != test.own || len(got.Manifest.Layers) != len(diffIDs) || got.Manifest.Layers[test.from].Digest != newLayer.Descriptor.Digest {
				t.Errorf("%d own layers of %v", got.OwnLayers(), got.Manifest.Layers)
			}
			if string(base.RawConfig) != before || len(base.Manifest.Layers) != 5 || base.Manifest.Layers[0].Digest != d("B1") {
				t.Error("the image itself was changed")
			}
		})
	}
}
