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

package diagnostics

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

const (
	// maxLogBytes is how much of a container's log is told, from its end.
	maxLogBytes = 1 << 20
	// maxLinesBytes is how much is read to get there: lines have no bound of their own.
	maxLinesBytes = 64 << 20
)

// logs is the end of what the sandbox's containers have written: of the one that the sandbox is, or of all.
func (s *scene) logs(ctx context.Context, tail int64, since *int64, all bool) (text, error) {
	if s.denied != nil {
		return text{}, s.denied
	}
	if s.pod == nil {
		return text{warnings: []string{s.absent}}, nil
	}
	var found text
	chosen := containersOf(s.sandbox.Spec.Snapshot.Containers, s.pod, all)
	for _, container := range chosen {
		content, truncated, err := s.logOf(ctx, container, tail, since)
		switch {
		case err == nil:
		case apierrors.IsBadRequest(err), apierrors.IsNotFound(err):
			// It has not started yet, or is gone.
			found.warnings = append(found.warnings, fmt.Sprintf("container %s: %s", container, forbidden(err)))
			continue
		default:
			return text{}, err
		}
		if len(chosen) > 1 {
			found.content += fmt.Sprintf("--- %s ---\n", container)
		}
		found.content += content
		found.truncated = found.truncated || truncated
	}
	return found, nil
}

// containersOf are those whose log is the sandbox's: the ones that are committed, since others serve them, or else all that are no
// init containers.
func containersOf(committed []string, pod *corev1.Pod, all bool) []string {
	var chosen []string
	if all {
		for i := range pod.Spec.InitContainers {
			chosen = append(chosen, pod.Spec.InitContainers[i].Name)
		}
	}
	for i := range pod.Spec.Containers {
		if name := pod.Spec.Containers[i].Name; all || len(committed) == 0 || slices.Contains(committed, name) {
			chosen = append(chosen, name)
		}
	}
	return chosen
}

// logOf is the end of one container's log. One line more than was asked for is read, so as to know whether there is one.
func (s *scene) logOf(ctx context.Context, container string, tail int64, since *int64) (string, bool, error) {
	more, limit := tail+1, int64(maxLinesBytes)
	stream, err := s.caller.Kube.CoreV1().Pods(s.pod.Namespace).GetLogs(s.pod.Name, &corev1.PodLogOptions{
		Container: container, TailLines: &more, SinceSeconds: since, LimitBytes: &limit, Timestamps: true,
	}).Stream(ctx)
	if err != nil {
		return "", false, err
	}
	defer func() { _ = stream.Close() }()
	kept := &end{limit: maxLogBytes}
	if _, err := io.Copy(kept, stream); err != nil {
		return "", false, fmt.Errorf("reading the log of container %s of Pod %s: %w", container, s.pod.Name, err)
	}
	content, cut := lastLines(kept.bytes(), tail)
	// A log is bytes, and JSON is not.
	return strings.ToValidUTF8(content, "\uFFFD"), cut || kept.cut, nil
}

// end keeps the last bytes of what is written to it.
type end struct {
	limit int
	kept  []byte
	cut   bool
}

// Write implements io.Writer.
func (e *end) Write(p []byte) (int, error) {
	e.kept = append(e.kept, p...)
	if len(e.kept) > 2*e.limit {
		e.kept = append(e.kept[:0], e.kept[len(e.kept)-e.limit:]...)
		e.cut = true
	}
	return len(p), nil
}

// bytes are what is kept, from the beginning of a line where there is one.
func (e *end) bytes() []byte {
	if over := len(e.kept) - e.limit; over > 0 {
		e.kept, e.cut = e.kept[over:], true
	}
	if e.cut {
		if at := bytes.IndexByte(e.kept, '\n'); at >= 0 && at+1 < len(e.kept) {
			return e.kept[at+1:]
		}
	}
	return e.kept
}

// lastLines are so many lines from the end, and whether there were more.
func lastLines(content []byte, n int64) (string, bool) {
	at := len(content)
	if at > 0 && content[at-1] == '\n' {
		at--
	}
	for ; n > 0; n-- {
		if at = bytes.LastIndexByte(content[:at], '\n'); at < 0 {
			return string(content), false
		}
	}
	return string(content[at+1:]), true
}
