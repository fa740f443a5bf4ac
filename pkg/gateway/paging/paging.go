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

// Package paging cuts lists into the pages that clients ask for by number.
package paging

import (
	"cmp"
	"slices"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
)

// Default is the page that a client gets that names none.
const (
	DefaultPage = 1
	DefaultSize = 20
)

// NewestFirst sorts by time of creation, which Kubernetes knows to the second, and within that by id: two requests for two pages
// see one order.
func NewestFirst[T any](items []T, key func(T) (created time.Time, id string)) {
	slices.SortFunc(items, func(a, b T) int {
		createdA, idA := key(a)
		createdB, idB := key(b)
		return cmp.Or(createdB.Compare(createdA), cmp.Compare(idA, idB))
	})
}

// Cut returns one page of items, and where it is among all. A page beyond the last is empty.
func Cut[T any](items []T, page, size httpapi.OptInt32) ([]T, httpapi.Pagination) {
	number, length := int64(page.Or(DefaultPage)), int64(size.Or(DefaultSize))
	total := int64(len(items))
	first := min((number-1)*length, total)
	last := min(first+length, total)
	return items[first:last], httpapi.Pagination{
		Page:        int32(number),
		PageSize:    int32(length),
		TotalItems:  int32(total),
		TotalPages:  int32((total + length - 1) / length),
		HasNextPage: last < total,
	}
}
