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
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/events"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
)

// asked is an API of events: it takes none that is too long, and none in namespaces that end.
type asked struct {
	taken   []*eventsv1.Event
	refused error
}

func (a *asked) Create(_ context.Context, event *eventsv1.Event) (*eventsv1.Event, error) {
	if a.refused != nil {
		return nil, a.refused
	}
	if len(event.Note) > 1024 || !utf8.ValidString(event.Note) {
		return nil, apierrors.NewInvalid(schema.GroupKind{Kind: "Event"}, event.Name, nil)
	}
	a.taken = append(a.taken, event)
	return event, nil
}

func (a *asked) Update(ctx context.Context, event *eventsv1.Event) (*eventsv1.Event, error) {
	return a.Create(ctx, event)
}

func (a *asked) Patch(_ context.Context, event *eventsv1.Event, _ []byte) (*eventsv1.Event, error) {
	return event, a.refused
}

func TestEventsAreCutToWhatTheAPITakes(t *testing.T) {
	for name, text := range map[string]string{
		"short": "a 100% sentence", "long": strings.Repeat("x", 152_000), "of many bytes": "x" + strings.Repeat("é", 5000),
		"just fits": strings.Repeat("x", answer.MaxNote), "not valid": "a\xffb",
	} {
		synctest.Test(t, func(t *testing.T) {
			api := &asked{}
			r := &recording{events.NewBroadcaster(sink{api})}
			ctx, end := context.WithCancel(t.Context())
			ended := make(chan error)
			go func() { ended <- r.Start(ctx) }()
			synctest.Wait()
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "demo"}}
			r.NewRecorder(scheme.Scheme, "test").Eventf(pod, nil, "Normal", "Reason", "Act", "%s", text)
			synctest.Wait()
			end()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			<-time.After(2 * flushTime) // of the bubble's clock: nothing of it goes on
			if len(api.taken) != 1 || api.taken[0].Note != answer.Note(text) {
				t.Errorf("%s: taken %+v", name, api.taken)
			}
		})
	}
}

// What docs/limits.md says of events that follow one another: the first text is the one that is seen, so conditions have to
// have the newest.
func TestEventsOfOneReasonAreOneSeries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api := &asked{}
		r := &recording{events.NewBroadcaster(sink{api})}
		ctx, end := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- r.Start(ctx) }()
		synctest.Wait()
		recorder := r.NewRecorder(scheme.Scheme, "test")
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "a", Name: "demo"}}
		for _, text := range []string{"first", "second"} {
			recorder.Eventf(pod, nil, "Warning", "PodLost", "Act", "%s", text)
			synctest.Wait()
		}
		end()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		<-time.After(2 * flushTime)
		if len(api.taken) != 1 || api.taken[0].Note != "first" {
			t.Errorf("taken %+v: mend docs/limits.md", api.taken)
		}
	})
}

func TestEventsOfNamespacesThatEndAreNoErrors(t *testing.T) {
	ends := apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, "x", errors.New("because it is being terminated"))
	ends.ErrStatus.Details.Causes = append(ends.ErrStatus.Details.Causes, metav1.StatusCause{Type: corev1.NamespaceTerminatingCause})
	for name, test := range map[string]struct {
		refused error
		fails   bool
	}{
		"taken":                   {nil, false},
		"the namespace ends":      {ends, false},
		"the namespace is gone":   {apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "a"), false},
		"the event is gone":       {apierrors.NewNotFound(schema.GroupResource{Resource: "events"}, "x"), true}, // and created anew
		"the account may not":     {apierrors.NewForbidden(schema.GroupResource{Resource: "events"}, "x", errors.New("no")), true},
		"nobody answers just now": {errors.New("connection refused"), true},
	} {
		s := sink{&asked{refused: test.refused}}
		_, created := s.Create(t.Context(), &eventsv1.Event{})
		_, updated := s.Update(t.Context(), &eventsv1.Event{})
		_, patched := s.Patch(t.Context(), &eventsv1.Event{}, nil)
		for _, err := range []error{created, updated, patched} {
			if (err != nil) != test.fails || test.fails && !errors.Is(err, test.refused) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}
