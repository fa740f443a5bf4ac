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

package paging

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
)

func TestNewestFirst(t *testing.T) {
	type item struct {
		age int
		id  string
	}
	began := time.Now()
	key := func(i item) (time.Time, string) { return began.Add(-time.Duration(i.age) * time.Second), i.id }
	want := []item{{0, "z"}, {1, "a"}, {1, "b"}, {1, "c"}, {7, "a"}}
	for seed := range 20 {
		// Whatever order the store has, that of the answers is one.
		got := slices.Clone(want)
		for i := range got {
			j := (i*7 + seed) % len(got)
			got[i], got[j] = got[j], got[i]
		}
		if NewestFirst(got, key); !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}

func TestCut(t *testing.T) {
	for _, test := range []struct {
		items, page, size int
		first, length     int
		pages             int32
		next              bool
	}{
		{items: 0, page: 1, size: 20},
		{items: 1, page: 1, size: 20, length: 1, pages: 1},
		{items: 20, page: 1, size: 20, length: 20, pages: 1},
		{items: 21, page: 1, size: 20, length: 20, pages: 2, next: true},
		{items: 21, page: 2, size: 20, first: 20, length: 1, pages: 2},
		{items: 21, page: 3, size: 20, first: 21, pages: 2},
		{items: 3, page: 2, size: 1, first: 1, length: 1, pages: 3, next: true},
		{items: 3, page: 3, size: 1, first: 2, length: 1, pages: 3},
		{items: 400, page: 2, size: 200, first: 200, length: 200, pages: 2},
		{items: 3, page: math.MaxInt32, size: 200, first: 3, pages: 1},
	} {
		t.Run(fmt.Sprintf("page %d of %d by %d", test.page, test.items, test.size), func(t *testing.T) {
			items := make([]int, test.items)
			for i := range items {
				items[i] = i
			}
			got, pages := Cut(items, httpapi.NewOptInt32(int32(test.page)), httpapi.NewOptInt32(int32(test.size)))
			if len(got) != test.length || test.length > 0 && got[0] != test.first {
				t.Errorf("got %v", got)
			}
			want := httpapi.Pagination{Page: int32(test.page), PageSize: int32(test.size), TotalItems: int32(test.items), TotalPages: test.pages, HasNextPage: test.next}
			if pages != want {
				t.Errorf("got %+v, want %+v", pages, want)
			}
		})
	}
	if got, pages := Cut(make([]int, 30), httpapi.OptInt32{}, httpapi.OptInt32{}); len(got) != 20 || pages.Page != 1 || pages.PageSize != 20 {
		t.Errorf("where nothing is asked for: %d items, %+v", len(got), pages)
	}
}
