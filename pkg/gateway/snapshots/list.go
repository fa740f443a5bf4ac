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

package snapshots

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/pager"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/answer"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/identity"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/paging"
)

// ListSnapshots lists the snapshots of the caller's namespace, but for the attempts of pauses: those are their sandbox's.
func (Handler) ListSnapshots(ctx context.Context, params httpapi.ListSnapshotsParams) (*httpapi.ListSnapshotsResponse, error) {
	wanted, err := wantedStates(params.State)
	if err != nil {
		return nil, err
	}
	options := metav1.ListOptions{}
	if id, given := params.SandboxId.Get(); given {
		options.FieldSelector = fields.OneTermEqualSelector(v1alpha1.FieldSpecSandboxName, id).String()
	}
	found := []httpapi.Snapshot{}
	err = eachSnapshot(ctx, options, func(snapshot *v1alpha1.SandboxSnapshot) {
		if snapshot.Spec.Pause != nil {
			return
		}
		one := shown(snapshot)
		if name, given := params.Name.Get(); given && one.Name.Value != name {
			return
		}
		if len(wanted) == 0 || slices.Contains(wanted, one.Status.State) {
			found = append(found, one)
		}
	})
	if err != nil {
		return nil, err
	}
	paging.NewestFirst(found, func(s httpapi.Snapshot) (time.Time, string) { return s.CreatedAt, s.ID })
	page, at := paging.Cut(found, params.Page, params.PageSize)
	return &httpapi.ListSnapshotsResponse{Items: page, Pagination: at}, nil
}

// chunk is how many objects are in memory at a time with all that they hold: each may have a template of 64 KiB.
const chunk = 500

// each reads the objects of a list, all as of one moment.
func each[T any](ctx context.Context, list pager.ListPageFunc, options metav1.ListOptions, do func(T)) error {
	pages := pager.New(list)
	pages.PageSize, pages.PageBufferSize = chunk, 1
	return pages.EachListItem(ctx, options, func(object runtime.Object) error {
		one, is := object.(T)
		if !is {
			return fmt.Errorf("the Sandbox API has a %T in a list of others", object)
		}
		do(one)
		return nil
	})
}

func eachSnapshot(ctx context.Context, options metav1.ListOptions, do func(*v1alpha1.SandboxSnapshot)) error {
	caller := identity.From(ctx)
	return each(ctx, func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return caller.Lifecycle.LifecycleV1alpha1().SandboxSnapshots(caller.Namespace).List(ctx, options)
	}, options, do)
}

func eachSandbox(ctx context.Context, do func(*v1alpha1.Sandbox)) error {
	caller := identity.From(ctx)
	return each(ctx, func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		return caller.Lifecycle.LifecycleV1alpha1().Sandboxes(caller.Namespace).List(ctx, options)
	}, metav1.ListOptions{}, do)
}

// wantedStates are the states that a request names, in upper or lower case.
func wantedStates(names []string) ([]httpapi.SnapshotState, error) {
	known := httpapi.SnapshotState("").AllValues()
	var states []httpapi.SnapshotState
	for _, name := range names {
		i := slices.IndexFunc(known, func(state httpapi.SnapshotState) bool { return strings.EqualFold(string(state), name) })
		if i < 0 {
			return nil, answer.InvalidParameter("state", "%q is no state of a snapshot; there are %s", name, join(known))
		}
		states = append(states, known[i])
	}
	return states, nil
}

func join(states []httpapi.SnapshotState) string {
	names := make([]string, len(states))
	for i, state := range states {
		names[i] = string(state)
	}
	return strings.Join(names, ", ")
}
