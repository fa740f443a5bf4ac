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
	"fmt"
	"time"

	eventsv1 "k8s.io/api/events/v1"
	typedeventsv1 "k8s.io/client-go/kubernetes/typed/events/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/cluster"
	"sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/answer"
)

// newRecording records events in the cluster of the Pods, for as long as it runs.
func newRecording(host cluster.Cluster) (*recording, error) {
	typed, err := typedeventsv1.NewForConfigAndClient(host.GetConfig(), host.GetHTTPClient())
	if err != nil {
		return nil, fmt.Errorf("connecting to the events of the kube-apiserver: %w", err)
	}
	return &recording{events.NewBroadcaster(sink{&events.EventSinkImpl{Interface: typed}})}, nil
}

// recording carries events to their sink.
type recording struct{ events.EventBroadcaster }

// flushTime is how long the last events of a process may take.
const flushTime = 5 * time.Second

// NeedLeaderElection says that it runs before the controllers do, which the leader's alone do.
func (*recording) NeedLeaderElection() bool { return false }

// Start records until ctx ends, and what was told before that a little longer.
func (r *recording) Start(ctx context.Context) error {
	longer, cancel := context.WithCancel(context.WithoutCancel(log.IntoContext(ctx, log.FromContext(ctx).WithName("events"))))
	if err := r.StartRecordingToSinkWithContext(longer); err != nil {
		cancel()
		return fmt.Errorf("recording events: %w", err)
	}
	<-ctx.Done()
	r.Shutdown()
	time.AfterFunc(flushTime, cancel)
	return nil
}

// sink takes every event: none is too long for the API, and one of a namespace that is being deleted is nobody's
// fault and nobody's loss. client-go would log it as an error, for each object in the namespace.
type sink struct{ events.EventSink }

func (s sink) Create(ctx context.Context, event *eventsv1.Event) (*eventsv1.Event, error) {
	event.Note = answer.Note(event.Note)
	return delivered(s.EventSink.Create(ctx, event))
}

func (s sink) Update(ctx context.Context, event *eventsv1.Event) (*eventsv1.Event, error) {
	event.Note = answer.Note(event.Note)
	return delivered(s.EventSink.Update(ctx, event))
}

func (s sink) Patch(ctx context.Context, event *eventsv1.Event, data []byte) (*eventsv1.Event, error) {
	return delivered(s.EventSink.Patch(ctx, event, data))
}

func delivered(event *eventsv1.Event, err error) (*eventsv1.Event, error) {
	if answer.NamespaceEnds(err) {
		return event, nil
	}
	return event, err
}
