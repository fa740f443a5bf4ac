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

package controller

import (
	"net/http"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
)

// added is a manager that notes what is added to it.
type added struct {
	manager.Manager
	runnables []manager.Runnable
}

func (a *added) Add(runnable manager.Runnable) error {
	a.runnables = append(a.runnables, runnable)
	return a.Manager.Add(runnable)
}

// TestOnlyTheLeaderWorks: of several replicas one alone acts on sandboxes, and asks the registry
// for their images.
func TestOnlyTheLeaderWorks(t *testing.T) {
	known := runtime.NewScheme()
	if err := scheme.AddToScheme(known); err != nil {
		t.Fatal(err)
	}
	if err := v1alpha1.AddToScheme(known); err != nil {
		t.Fatal(err)
	}
	nowhere := &rest.Config{Host: "http://127.0.0.1:1"} // nothing is started, so nothing is asked
	mapper := func(*rest.Config, *http.Client) (meta.RESTMapper, error) {
		mapper := meta.NewDefaultRESTMapper(nil)
		for kind := range known.AllKnownTypes() {
			mapper.Add(kind, meta.RESTScopeNamespace)
		}
		return mapper, nil
	}
	mgr, err := manager.New(nowhere, manager.Options{Scheme: known, MapperProvider: mapper, Metrics: metricsserver.Options{BindAddress: "0"}})
	if err != nil {
		t.Fatal(err)
	}
	host, err := cluster.New(nowhere, func(o *cluster.Options) { o.Scheme, o.MapperProvider = known, mapper })
	if err != nil {
		t.Fatal(err)
	}
	noted := &added{Manager: mgr}
	if err := Add(t.Context(), noted, host, Options{SnapshotRegistry: "registry.example.com", CommitJobNamespace: "sandbox-system", ImageCheckInterval: time.Hour}); err != nil {
		t.Fatal(err)
	}

	if len(noted.runnables) != 9 {
		t.Errorf("%d were added, want the controllers of sandboxes, of snapshots, of lifetimes, of nodes and of images, what kills, what claims, what counts, and what records events", len(noted.runnables))
	}
	for _, runnable := range noted.runnables {
		if _, tells := runnable.(*recording); tells {
			continue // what nobody who leads has told is nothing
		}
		if waits, says := runnable.(manager.LeaderElectionRunnable); !says || !waits.NeedLeaderElection() {
			t.Errorf("%T runs without leading", runnable)
		}
	}
}
