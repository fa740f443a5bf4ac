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
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	apimeta "k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/meta/table"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
)

// TableConvertor shows snapshots as kubectl get prints them.
type TableConvertor struct{}

var _ rest.TableConvertor = TableConvertor{}

var columns = []metav1.TableColumnDefinition{
	{Name: "Name", Type: "string", Format: "name", Description: "Name of the snapshot."},
	{Name: "Phase", Type: "string", Description: "Where the snapshot stands, in one word; Terminating while it is being deleted."},
	{Name: "Sandbox", Type: "string", Description: "The sandbox that the snapshot was made of."},
	{Name: "Purpose", Type: "string", Description: "What the snapshot was made for: Pause, Rescue (of what an ended container left), or User."},
	{Name: "Age", Type: "string", Description: "Time since the snapshot was created."},
	{Name: "Node", Type: "string", Priority: 1, Description: "The node that the commit ran on."},
	{Name: "Size", Type: "string", Priority: 1, Description: "Compressed size of the layers that the snapshot added."},
	{Name: "Frozen", Type: "string", Priority: 1, Description: "How long the commit kept the containers frozen."},
	{Name: "Duration", Type: "string", Priority: 1, Description: "How long the commit took."},
	{Name: "Image", Type: "string", Priority: 1, Description: "The images, by digest."},
}

// ConvertToTable makes a table of a snapshot or a list of them.
func (TableConvertor) ConvertToTable(_ context.Context, obj, options runtime.Object) (*metav1.Table, error) {
	result := &metav1.Table{}
	if opt, ok := options.(*metav1.TableOptions); !ok || !opt.NoHeaders {
		result.ColumnDefinitions = columns
	}
	if accessor, err := apimeta.ListAccessor(obj); err == nil {
		result.ResourceVersion = accessor.GetResourceVersion()
		result.Continue = accessor.GetContinue()
		result.RemainingItemCount = accessor.GetRemainingItemCount()
	} else if accessor, err := apimeta.CommonAccessor(obj); err == nil {
		result.ResourceVersion = accessor.GetResourceVersion()
	}
	var err error
	result.Rows, err = table.MetaToTableRow(obj, func(obj runtime.Object, _ metav1.Object, name, age string) ([]any, error) {
		snapshot := obj.(*lifecycle.SandboxSnapshot)
		status := &snapshot.Status
		return []any{
			name, phase(snapshot), snapshot.Spec.SandboxName, purpose(snapshot), age,
			status.SourceNodeName, size(status.Containers), frozen(status.FrozenDuration),
			took(status.StartTime, status.CompletionTime), images(status.Containers),
		}, nil
	})
	return result, err
}

// phase is what kubectl shows of Pods, too, while they are being deleted.
func phase(snapshot *lifecycle.SandboxSnapshot) string {
	if snapshot.DeletionTimestamp != nil {
		return "Terminating"
	}
	return string(snapshot.Status.Phase)
}

// pauseName is the form of names that nobody but the server may give. What an older server made has nothing else that says so.
var pauseName = regexp.MustCompile(`-gen[0-9]+$`)

func purpose(snapshot *lifecycle.SandboxSnapshot) string {
	switch {
	case snapshot.Spec.Pause != nil, snapshot.Spec.Source == nil && pauseName.MatchString(snapshot.Name):
		return "Pause"
	case snapshot.Spec.Rescue != nil:
		return "Rescue"
	}
	return "User"
}

func size(containers []lifecycle.ContainerSnapshot) string {
	var bytes int64
	for _, container := range containers {
		bytes += container.LayerBytes
	}
	return shown(bytes)
}

// shown is a number of bytes for people: two or three digits and a unit.
func shown(bytes int64) string {
	switch {
	case bytes <= 0:
		return ""
	case bytes < 1<<10:
		return fmt.Sprintf("%dB", bytes)
	}
	value := float64(bytes)
	unit := ""
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if value < 999.5 {
			break
		}
		value, unit = value/1024, next
	}
	if value < 9.95 {
		return fmt.Sprintf("%.1f%s", value, unit)
	}
	return fmt.Sprintf("%.0f%s", value, unit)
}

func frozen(frozen *metav1.Duration) string {
	if frozen == nil {
		return ""
	}
	return frozen.Round(time.Millisecond).String()
}

func took(start, completion *metav1.Time) string {
	if start == nil || completion == nil {
		return ""
	}
	return duration.HumanDuration(completion.Sub(start.Time))
}

func images(containers []lifecycle.ContainerSnapshot) string {
	var references []string
	for _, container := range containers {
		if container.ImageDigest == "" {
			continue
		}
		references = append(references, repository(container.ImageURI)+"@"+container.ImageDigest)
	}
	return strings.Join(references, ",")
}

// repository cuts the tag off an image reference. A colon before the last slash is a port.
func repository(reference string) string {
	if colon := strings.LastIndex(reference, ":"); colon > strings.LastIndex(reference, "/") {
		return reference[:colon]
	}
	return reference
}
