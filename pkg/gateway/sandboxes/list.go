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

package sandboxes

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/paging"
)

// ListSandboxes has one page of the sandboxes that fit.
func (h *Handler) ListSandboxes(ctx context.Context, params httpapi.ListSandboxesParams) (*httpapi.ListSandboxesResponse, error) {
	states, err := statesOf(params.State)
	if err != nil {
		return nil, err
	}
	selector, err := selectorOf(params.Metadata.Or(""))
	if err != nil {
		return nil, err
	}
	found := []httpapi.Sandbox{}
	err = each(ctx, metav1.ListOptions{LabelSelector: selector.String()}, func(sandbox *v1alpha1.Sandbox) {
		if states == nil || states[StateOf(sandbox)] {
			found = append(found, show(sandbox))
		}
	})
	if err != nil {
		return nil, err
	}
	// Of those that were made in one second the order is by name, so that no page repeats or leaves out what another has.
	paging.NewestFirst(found, func(s httpapi.Sandbox) (time.Time, string) { return s.CreatedAt, s.ID })
	found, pagination := paging.Cut(found, params.Page, params.PageSize)
	return &httpapi.ListSandboxesResponse{Items: found, Pagination: pagination}, nil
}

// chunk is how many sandboxes are in memory at a time with all that they hold: each may have a template of 64 KiB.
const chunk = 500

// each reads the caller's sandboxes, all as of one moment.
func each(ctx context.Context, options metav1.ListOptions, do func(*v1alpha1.Sandbox)) error {
	caller := identity.From(ctx)
	pages := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return caller.Lifecycle.LifecycleV1alpha1().Sandboxes(caller.Namespace).List(ctx, options)
	})
	pages.PageSize, pages.PageBufferSize = chunk, 1
	return pages.EachListItem(ctx, options, func(object runtime.Object) error {
		sandbox, is := object.(*v1alpha1.Sandbox)
		if !is {
			return fmt.Errorf("the Sandbox API has a %T in a list of sandboxes", object)
		}
		do(sandbox)
		return nil
	})
}

// statesOf reads names of states, in upper or lower case; nil is any.
func statesOf(names []string) (map[httpapi.SandboxState]bool, error) {
	if len(names) == 0 {
		return nil, nil
	}
	states := map[httpapi.SandboxState]bool{}
	known := httpapi.SandboxState("").AllValues()
	for _, name := range names {
		at := slices.IndexFunc(known, func(s httpapi.SandboxState) bool { return strings.EqualFold(string(s), name) })
		if at < 0 {
			return nil, invalid("state: there is no state %s; there are %s", describe(name), join(known))
		}
		states[known[at]] = true
	}
	return states, nil
}

func join[S ~string](words []S) string {
	texts := make([]string, len(words))
	for i, word := range words {
		texts[i] = string(word)
	}
	return strings.Join(texts, ", ")
}
