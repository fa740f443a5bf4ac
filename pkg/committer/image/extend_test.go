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
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func d(s string) digest.Digest { return digest.FromString(s) }

func base(t *testing.T, config string, layers ...ocispec.Descriptor) *Base {
	t.Helper()
	b := &Base{RawConfig: []byte(config), Digest: d("base")}
	if err := json.Unmarshal(b.RawConfig, &b.Config); err != nil {
		t.Fatal(err)
	}
	b.Manifest.Layers = layers
	b.Manifest.Annotations = map[string]string{"of": "the base"}
	return b
}

var newLayer = Layer{
	Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerZstd, Digest: d("new"), Size: 7},
	DiffID:     d("new diff"),
	Created:    time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
}

func TestExtend(t *testing.T) {
	const config = `{"created":"2020-01-01T00:00:00Z","architecture":"arm","variant":"v7","os":"linux","os.version":"10.0.1",` +
		`"os.features":["f"],"config":{"Cmd":["sh","-c","a < b && c > d"],"Healthcheck":{"Interval":30000000000},"OnBuild":null},` +
		`"container":"x","docker_version":"1","big":12345678901234567890,` +
		`"rootfs":{"type":"layers","diff_ids":["` + "%1" + `"],"extra":1},"history":[{"created_by":"base","unknown":true},{"empty_layer":true}]}`
	b := base(t, strings.ReplaceAll(config, "%1", string(d("base diff"))),
		ocispec.Descriptor{MediaType: "application/vnd.docker.image.rootfs.diff.tar.gzip", Digest: d("l1"), Size: 5, URLs: []string{"https://a.example.com"}, Annotations: map[string]string{"toc": "1"}})
	b.Name = "docker.io/library/base:1"
	got, err := Extend(b, []Layer{newLayer}, "uid")
	if err != nil {
		t.Fatal(err)
	}

	var before, after map[string]any
	if err := json.Unmarshal(b.RawConfig, &before); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(got.Config, &after); err != nil {
		t.Fatal(err)
	}
	before["history"] = append(before["history"].([]any), map[string]any{"created": "2026-01-02T03:04:05.000000006Z", "created_by": CreatedBy})
	before["created"] = "2026-01-02T03:04:05.000000006Z"
	before["rootfs"].(map[string]any)["diff_ids"] = []any{string(d("base diff")), string(d("new diff"))}
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	// Nothing but those is written anew: numbers, escapes and the order within stay.
	var rawBefore, rawAfter map[string]json.RawMessage
	if err := errors.Join(json.Unmarshal(b.RawConfig, &rawBefore), json.Unmarshal(got.Config, &rawAfter)); err != nil {
		t.Fatal(err)
	}
	for field, was := range rawBefore {
		if is := rawAfter[field]; field != "history" && field != "rootfs" && field != "created" && string(is) != string(was) {
			t.Errorf("%s became %s, it was %s", field, is, was)
		}
	}
	if !strings.Contains(string(got.Config), "a < b && c > d") || !strings.Contains(string(got.Config), "12345678901234567890") {
		t.Errorf("configuration was rewritten: %s", got.Config)
	}

	var manifest ocispec.Manifest
	if err := json.Unmarshal(got.Manifest, &manifest); err != nil {
		t.Fatal(err)
	}
	want := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(got.Config), Size: int64(len(got.Config))},
		Layers: []ocispec.Descriptor{
			{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d("l1"), Size: 5, Annotations: map[string]string{"toc": "1"}},
			newLayer.Descriptor,
		},
		Annotations: map[string]string{
			SnapshotUIDAnnotation: "uid", "of": "the base",
			ocispec.AnnotationCreated:         "2026-01-02T03:04:05.000000006Z",
			ocispec.AnnotationBaseImageDigest: d("base").String(), ocispec.AnnotationBaseImageName: "docker.io/library/base:1",
		},
	}
	want.SchemaVersion = 2
	if diff := cmp.Diff(want, manifest); diff != "" {
		t.Errorf("manifest (-want +got):\n%s", diff)
	}
	if got.ManifestDigest != digest.FromBytes(got.Manifest) || got.ConfigDigest != digest.FromBytes(got.Config) || got.Layers != 1 {
		t.Errorf("got %+v", got)
	}
	other, err := Extend(b, []Layer{newLayer}, "other")
	if err != nil || other.ManifestDigest == got.ManifestDigest {
		t.Errorf("two snapshots share a manifest (%v)", err)
	}
}

func TestOwnLayers(t *testing.T) {
	ours := `{"created_by":"` + CreatedBy + `"}`
	for name, test := range map[string]struct {
		history string
		want    int
	}{
		"none":                      {``, 0},
		"the base's":                {`{"created_by":"RUN x"},{"created_by":"CMD y","empty_layer":true}`, 0},
		"one":                       {`{"created_by":"RUN x"},` + ours, 1},
		"two":                       {`{"created_by":"RUN x"},` + ours + `,` + ours, 2},
		"built upon a snapshot":     {ours + `,{"created_by":"RUN x"}`, 0},
		"and then paused":           {ours + `,{"created_by":"RUN x"},` + ours, 1},
		"more claimed than layers":  {ours + `,` + ours + `,` + ours + `,` + ours, 3},
		"a history without a layer": {`{"created_by":"` + CreatedBy + ` and more"}`, 0},
	} {
		b := base(t, `{"rootfs":{"diff_ids":["a","b","c"]},"history":[`+test.history+`]}`)
		if got := b.OwnLayers(); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}

func TestBareConfig(t *testing.T) {
	got, err := Extend(base(t, `{"rootfs":{"diff_ids":null}}`), []Layer{newLayer}, "uid")
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"created":"2026-01-02T03:04:05.000000006Z","history":[{"created":"2026-01-02T03:04:05.000000006Z","created_by":"image-committer snapshot"}],"rootfs":{"diff_ids":["` + string(d("new diff")) + `"]}}`; string(got.Config) != want {
		t.Errorf("got %s", got.Config)
	}
}

func TestOCILayerType(t *testing.T) {
	for docker, want := range map[string]string{
		"application/vnd.docker.image.rootfs.diff.tar":                 ocispec.MediaTypeImageLayer,
		"application/vnd.docker.image.rootfs.diff.tar.gzip":            ocispec.MediaTypeImageLayerGzip,
		"application/vnd.docker.image.rootfs.diff.tar.zstd":            ocispec.MediaTypeImageLayerZstd,
		"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip":    ocispec.MediaTypeImageLayerGzip,
		"application/vnd.oci.image.layer.v1.tar+gzip":                  ocispec.MediaTypeImageLayerGzip,
		"application/vnd.oci.image.layer.v1.tar+gzip+encrypted":        ocispec.MediaTypeImageLayerGzip + "+encrypted",
		"application/vnd.oci.image.layer.nondistributable.v1.tar+zstd": ocispec.MediaTypeImageLayerZstd,
		"application/vnd.oci.image.layer.nydus.blob.v1":                "",
		"application/vnd.oci.image.layer.v1.squashfs":                  "",
		"": "",
		"application/vnd.docker.image.rootfs.diff.tar.gzip+unknown-suffix": "",
	} {
		if got, err := OCILayerType(docker); got != want || (err != nil) != (want == "") {
			t.Errorf("%s: got %q (%v), want %q", docker, got, err, want)
		}
	}
}

func TestAnnotations(t *testing.T) {
	created := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const own, others = `{"rootfs":{"diff_ids":["a","b"]},"history":[{"created_by":"RUN x"},{"created_by":"` + CreatedBy + `"}]}`, `{"rootfs":{"diff_ids":["a","b"]}}`
	for name, test := range map[string]struct {
		config, name string
		of           map[string]string
		replace      int // a layer; -1: none
		want         map[string]string
	}{
		"an image without any": {others, "r.example.com/a:1", nil, -1, map[string]string{
			ocispec.AnnotationBaseImageDigest: d("base").String(), ocispec.AnnotationBaseImageName: "r.example.com/a:1"}},
		"what speaks of the manifest itself goes": {others, "", map[string]string{
			ocispec.AnnotationCreated: "2020-01-01T00:00:00Z", ocispec.AnnotationRefName: "1", ocispec.AnnotationBaseImageDigest: "of its own base", ocispec.AnnotationBaseImageName: "x",
			"io.containerd.image.name": "x", "vnd.docker.reference.type": "x", ocispec.AnnotationLicenses: "MIT", "com.example.team": "a",
		}, -1, map[string]string{ocispec.AnnotationLicenses: "MIT", "com.example.team": "a", ocispec.AnnotationBaseImageDigest: d("base").String()}},
		"a snapshot's": {own, "r.example.com/snapshot@sha256:1", map[string]string{
			SnapshotUIDAnnotation: "of the earlier one", ocispec.AnnotationBaseImageDigest: "the first", ocispec.AnnotationBaseImageName: "r.example.com/a:1"},
			-1, map[string]string{SnapshotUIDAnnotation: "of the earlier one", ocispec.AnnotationBaseImageDigest: "the first", ocispec.AnnotationBaseImageName: "r.example.com/a:1"}},
		"a snapshot's that does not say": {own, "r.example.com/snapshot@sha256:1", nil, -1, map[string]string{}},
		"a layer was made again":         {others, "r.example.com/a:1", nil, 1, map[string]string{}},
		"a layer below snapshots was made again": {own, "x", map[string]string{ocispec.AnnotationBaseImageDigest: "the first"},
			0, map[string]string{}},
		"layers of snapshots were merged": {own, "x", map[string]string{ocispec.AnnotationBaseImageDigest: "the first"},
			1, map[string]string{ocispec.AnnotationBaseImageDigest: "the first"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := base(t, test.config, newLayer.Descriptor, newLayer.Descriptor)
			b.Manifest.Annotations, b.Name = test.of, test.name
			if test.replace >= 0 {
				var err error
				if b, err = b.Replace(test.replace, test.replace+1, newLayer); err != nil {
					t.Fatal(err)
				}
			}
			test.want[ocispec.AnnotationCreated] = "2026-01-02T03:04:05Z"
			if diff := cmp.Diff(test.want, b.annotations(&created)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
