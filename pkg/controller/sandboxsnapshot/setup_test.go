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

package sandboxsnapshot

import (
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/event"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
)

// TestOnlyTheEndOfAKillIsNews, because the deletion of a snapshot waits for it.
func TestOnlyTheEndOfAKillIsNews(t *testing.T) {
	news := unlessKill[*batchv1.Job]()
	for component, want := range map[string]bool{commitjob.ComponentCommit: true, commitjob.ComponentUnpause: true, commitjob.ComponentKill: false} {
		job := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{v1alpha1.LabelComponent: component}}}
		if got := news.Create(event.TypedCreateEvent[*batchv1.Job]{Object: job}); got != want {
			t.Errorf("that a %s Job is there is news: %t, want %t", component, got, want)
		}
		if got := news.Update(event.TypedUpdateEvent[*batchv1.Job]{ObjectOld: job, ObjectNew: job}); got != want {
			t.Errorf("how a %s Job fares is news: %t, want %t", component, got, want)
		}
		if !news.Delete(event.TypedDeleteEvent[*batchv1.Job]{Object: job}) {
			t.Errorf("that a %s Job is gone is no news", component)
		}
	}
}
