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
	"crypto/sha256"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// committed makes the report of so many containers, with names of so many letters.
func committed(n, letters int, warnings ...Warning) (Result, []Ref) {
	r := Result{FrozenMillis: 1234, Thawed: n%2 == 0, Warnings: append([]Warning(nil), warnings...)}
	var refs []Ref
	for i := range n {
		c := Container{
			Name:       fmt.Sprintf("%s%03d", strings.Repeat("c", letters-3), i),
			Digest:     fmt.Sprintf("sha256:%x", sha256.Sum256([]byte{byte(i)})),
			LayerBytes: int64(i) << 30, Layers: i % 9,
		}
		c.Image = "registry.example.com/" + strings.Repeat("n", letters) + "/demo-" + c.Name + ":snap-gen1-01234567"
		if i%3 == 1 {
			c.Differ = DifferContainerd
		}
		r.Containers = append(r.Containers, c)
		refs = append(refs, Ref{c.Name, c.Image})
	}
	return r, refs
}

// Whatever a Pod holds is reported whole, in the termination message as long as that has room for the digests.
func TestAReportOfAnyNumberOfContainers(t *testing.T) {
	warning := Warning{Reason: MountNotKept, Container: "main", Path: "/dev/shm", Message: "a tmpfs is not kept"}
	tests := map[string]struct {
		containers, letters int
		warnings            int
		logged              bool
	}{
		"one":                    {1, 8, 0, false},
		"21":                     {21, 8, 3, false},
		"10 of the longest name": {10, 63, 0, false},
		"40 of the longest name": {40, 63, 12, false},
		"70":                     {70, 63, 0, false},
		"100":                    {100, 63, 12, true},
		"a template of 64 KiB":   {1500, 20, 12, true},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			want, refs := committed(test.containers, test.letters, slices.Repeat([]Warning{warning}, test.warnings)...)
			report, err := want.Report()
			if err != nil {
				t.Fatal(err)
			}
			if len(report.Message) > MaxBytes || len(report.Line) > 0 != test.logged {
				t.Fatalf("%d bytes in the message, %d in the log", len(report.Message), len(report.Line))
			}
			got, err := Decode(report.Message)
			if err != nil {
				t.Fatal(err)
			}
			if got.FrozenMillis != want.FrozenMillis || got.Thawed != want.Thawed {
				t.Errorf("the message alone says %+v", got)
			}
			if test.logged {
				log := "level=INFO msg=committed\n" + string(report.Line) + "\nlevel=INFO msg=\"the lease is gone\"\n"
				if got, err = got.FromLog([]byte(log)); err != nil {
					t.Fatal(err)
				}
			}
			if err := got.Unpack(refs); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("came as another than it went: %.2000s", fmt.Sprintf("%+v", got))
			}
		})
	}
}

// The order of containers is not in the report, so one that is of others is refused.
func TestAPackedReportIsOfItsContainersAlone(t *testing.T) {
	r, refs := committed(40, 40)
	data, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	swapped := slices.Clone(refs)
	swapped[3], swapped[4] = swapped[4], swapped[3]
	elsewhere := slices.Clone(refs)
	elsewhere[0].Image += "x"
	for name, others := range map[string][]Ref{"fewer": refs[:39], "none": nil, "in another order": swapped, "another image": elsewhere} {
		got, err := Decode(data)
		if err != nil || got.Packed == nil {
			t.Fatalf("%+v, %v", got, err)
		}
		if err := got.Unpack(others); err == nil {
			t.Errorf("%s: taken for theirs", name)
		}
	}
	for name, each := range map[string]func(string) string{
		"cut":         func(s string) string { return s[:len(s)/2] },
		"longer":      func(s string) string { return s + "AAAA" },
		"not base64":  func(s string) string { return "!" + s[1:] },
		"sizes alone": func(string) string { return "" },
	} {
		got, _ := Decode(data)
		got.Packed.Each = each(got.Packed.Each)
		if err := got.Unpack(refs); err == nil {
			t.Errorf("%s: taken for whole", name)
		}
	}
}

func TestTheLogHasAnotherReport(t *testing.T) {
	r, _ := committed(100, 63)
	report, err := r.Report()
	if err != nil {
		t.Fatal(err)
	}
	message, err := Decode(report.Message)
	if err != nil {
		t.Fatal(err)
	}
	for name, log := range map[string]string{"nothing": "", "cut": string(report.Line[:len(report.Line)-1]), "changed": strings.Replace(string(report.Line), "c001", "c000", 1)} {
		if got, err := message.FromLog([]byte(log)); err == nil {
			t.Errorf("%s: taken for %+v", name, got)
		}
	}
}
