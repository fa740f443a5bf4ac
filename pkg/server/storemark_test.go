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

package server

import (
	"errors"
	"testing"
)

func TestJudgeStore(t *testing.T) {
	const fresh = "fresh"
	mark := func(id string, count, revision int64) storeMark { return storeMark{id, count, revision} }
	for _, row := range []struct {
		name         string
		found, known storeMark
		accept       bool
		want         storeVerdict
		refused      bool
	}{
		{name: "first start", found: mark("", 0, 1), want: storeVerdict{mark: mark(fresh, 1, 1), taken: true}},
		{name: "as always", found: mark("a", 5, 50), known: mark("a", 5, 40), want: storeVerdict{mark: mark("a", 6, 50)}},
		{name: "a crash between store and ConfigMap", found: mark("a", 6, 50), known: mark("a", 5, 40), want: storeVerdict{mark: mark("a", 7, 50)}},
		{name: "from before there were marks", found: mark("a", 0, 50), known: mark("a", 0, 0), want: storeVerdict{mark: mark("a", 1, 50)}},
		{name: "the ConfigMap is new", found: mark("a", 5, 50), want: storeVerdict{mark: mark("a", 6, 50), taken: true}},
		{name: "the data is lost", found: mark("", 0, 1), known: mark("a", 5, 40), refused: true},
		{name: "another store", found: mark("b", 9, 90), known: mark("a", 5, 40), refused: true},
		{name: "an older backup", found: mark("a", 4, 30), known: mark("a", 5, 40), refused: true},
		{name: "an older backup that has been written to since", found: mark("a", 4, 45), known: mark("a", 5, 40), refused: true},
		{name: "a backup from before there were marks", found: mark("a", 0, 30), known: mark("a", 5, 40), refused: true},
		{name: "as always, accepting", found: mark("a", 5, 50), known: mark("a", 5, 40), accept: true, want: storeVerdict{mark: mark("a", 6, 50)}},
		{
			name: "the data is lost, accepting", found: mark("", 0, 1), known: mark("a", 5, 40), accept: true,
			want: storeVerdict{mark: mark(fresh, 6, 1), advanceTo: 40 + unmarkedWrites, taken: true, doubted: true},
		},
		{
			name: "the data is lost, accepting, and nobody knows how far it was", found: mark("", 0, 1), known: mark("a", 0, 0), accept: true,
			want: storeVerdict{mark: mark(fresh, 1, 1), taken: true, doubted: true},
		},
		{name: "another store, accepting", found: mark("b", 9, 90), known: mark("a", 5, 40), accept: true, want: storeVerdict{mark: mark("b", 10, 90), taken: true, doubted: true}},
		{
			name: "an older backup, accepting", found: mark("a", 4, 30), known: mark("a", 5, 40), accept: true,
			want: storeVerdict{mark: mark("a", 6, 30), advanceTo: 40 + unmarkedWrites, taken: true, doubted: true},
		},
		{
			name: "the same after it was advanced", found: mark("a", 4, 40+unmarkedWrites), known: mark("a", 5, 40), accept: true,
			want: storeVerdict{mark: mark("a", 6, 40+unmarkedWrites), taken: true, doubted: true},
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			got := judgeStore(row.found, row.known, fresh, row.accept)
			if (got.refusal != "") != row.refused {
				t.Fatalf("got %+v", got)
			}
			got.refusal = ""
			if got != row.want {
				t.Errorf("got %+v, want %+v", got, row.want)
			}
		})
	}
}

func TestCheckStore(t *testing.T) {
	marked := storeMark{"a", 5, 40}
	for name, row := range map[string]struct {
		found    storeMark
		replaced bool
	}{
		"as it was":              {storeMark{"a", 5, 50}, false},
		"another replica's mark": {storeMark{"a", 6, 50}, false},
		"a backup":               {storeMark{"a", 4, 60}, true},
		"another":                {storeMark{"b", 6, 60}, true},
		"emptied":                {storeMark{"", 0, 60}, true},
	} {
		if err := checkStore(row.found, marked); errors.Is(err, errStoreReplaced) != row.replaced {
			t.Errorf("%s: %v", name, err)
		}
	}
}
