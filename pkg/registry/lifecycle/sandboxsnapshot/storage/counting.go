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

package storage

import (
	"context"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/metrics"
)

// counted is an update that remembers what it changes; why not a hook of the store is said in that of sandboxes.
type counted struct {
	rest.UpdatedObjectInfo
	before *lifecycle.SandboxSnapshot
}

// UpdatedObject is called for each try; the last one is the one that is stored.
func (c *counted) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	c.before, _ = old.(*lifecycle.SandboxSnapshot)
	return c.UpdatedObjectInfo.UpdatedObject(ctx, old)
}

// written counts what the update has made so, unless it was none.
func (c *counted) written(after runtime.Object, err error, dryRun []string) {
	snapshot, is := after.(*lifecycle.SandboxSnapshot)
	if err != nil || !is || dryrun.IsDryRun(dryRun) {
		return
	}
	metrics.SnapshotWritten(c.before, snapshot)
}
