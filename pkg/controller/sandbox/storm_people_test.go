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

package sandbox

import (
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/v1alpha1"
	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/validation"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/expiry"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/move"
	registry "github.com/opensandbox-io/sandbox-apiserver/pkg/registry/lifecycle/sandbox"
)

func (s *storm) verb(what string, do func(*lifecycle.Sandbox) (*lifecycle.Sandbox, *registry.Refusal)) bool {
	before := &lifecycle.Sandbox{}
	s.convert(s.stored.sandbox, before)
	after, refusal := do(before)
	if refusal != nil {
		s.note("%s: refused: %s", what, refusal.Cause.Message)
		return false
	}
	next := &v1alpha1.Sandbox{}
	s.convert(after, next)
	s.store(next)
	s.asked = true
	s.note("%s: %s", what, summary(&next.Status))
	return true
}

func (s *storm) pause() {
	s.verb("pause", func(b *lifecycle.Sandbox) (*lifecycle.Sandbox, *registry.Refusal) { return registry.Pause(b, s.now) })
}

func (s *storm) resume() { s.resumeFrom(&lifecycle.SandboxResume{}) }

func (s *storm) resumeElsewhere() {
	request := &lifecycle.SandboxResume{FromTemplate: true}
	for name, snapshot := range s.stored.snapshots {
		if snapshot.Status.SandboxUID == s.stored.sandbox.UID && finished(snapshot) && s.chance(2) {
			request = &lifecycle.SandboxResume{SnapshotName: name}
			break
		}
	}
	s.resumeFrom(request)
}

func (s *storm) resumeFrom(request *lifecycle.SandboxResume) {
	var snapshot *lifecycle.SandboxSnapshot
	if found := s.stored.snapshots[request.SnapshotName]; found != nil {
		snapshot = &lifecycle.SandboxSnapshot{}
		s.convert(found, snapshot)
	}
	chooses := request.FromTemplate || request.SnapshotName != ""
	took := s.verb(fmt.Sprintf("resume %+v", *request), func(b *lifecycle.Sandbox) (*lifecycle.Sandbox, *registry.Refusal) {
		return registry.Resume(b, request, snapshot, s.now)
	})
	s.gaveUp = s.gaveUp || took && chooses
	if took {
		s.resumed = s.now
	}
}

// renew sets another lifetime, which moves nothing else: the generation stays.
func (s *storm) renew() {
	edited := s.stored.sandbox.DeepCopy()
	edited.Spec.ExpireTime, edited.Spec.ExpireAction = v1alpha1.ExpireAt(s.now.Add(time.Duration(1+s.rand.IntN(90))*time.Second)), v1alpha1.ExpireActionPause
	before, after := &lifecycle.Sandbox{}, &lifecycle.Sandbox{}
	s.convert(s.stored.sandbox, before)
	s.convert(edited, after)
	if errs := validation.ValidateSandboxUpdate(after, before, s.now); len(errs) > 0 {
		s.fail("a renewal is refused: %v", errs)
	}
	s.store(edited)
	s.note("renewed for %s", edited.Spec.ExpireTime.Sub(s.now))
}

// expire is the controller of lifetimes: it decides on what the informers show, and what it does holds for that alone.
func (s *storm) expire() {
	if deed, _ := expiry.Decide(s.shown.sandbox, s.now); deed != expiry.Pause {
		return
	}
	if s.shown.sandbox.ResourceVersion != s.stored.sandbox.ResourceVersion {
		s.note("it has expired, as it was before")
		return
	}
	expire := s.stored.sandbox.Spec.ExpireTime
	if !s.resumed.Before(expire.Time) {
		s.fail("is paused for %s, and somebody wants it to run since %s", expire, s.resumed)
	}
	s.note("it has expired %s ago", s.now.Sub(expire.Time))
	s.pause()
}

func (s *storm) update() {
	s.editSpec("desiredState", func(spec *v1alpha1.SandboxSpec) {
		spec.DesiredState = []v1alpha1.SandboxDesiredState{v1alpha1.DesiredStateRunning, v1alpha1.DesiredStatePaused}[s.rand.IntN(2)]
	})
}

var fates = []string{"good", "good", "good", "typo", "huge", "stuck", "command", "full"}

func (s *storm) edit() { s.setFate(fates[s.rand.IntN(len(fates))]) }

func (s *storm) setFate(fate string) {
	s.editSpec("template: "+fate, func(spec *v1alpha1.SandboxSpec) {
		spec.Template.Labels = map[string]string{"fate": fate}
		spec.Template.Spec.Containers[0].Image = fate
	})
}

// fate is that of the first template.
func (s *storm) fate() {
	fate := fates[s.rand.IntN(len(fates))]
	s.stored.sandbox.Spec.Template.Labels = map[string]string{"fate": fate}
	s.stored.sandbox.Spec.Template.Spec.Containers[0].Image = fate
}

var exits = []v1alpha1.SandboxExitPolicy{"", v1alpha1.ExitPolicyRescue, v1alpha1.ExitPolicyRestore, v1alpha1.ExitPolicyRestore, v1alpha1.ExitPolicyNone}

func (s *storm) editSource() { restoreFrom(s, []string{"base", "typo", ""}[s.rand.IntN(3)]) }

func restoreFrom(s *storm, name string) {
	s.editSpec("restoreFrom "+name, func(spec *v1alpha1.SandboxSpec) {
		spec.RestoreFrom = nil
		if name != "" {
			spec.RestoreFrom = &v1alpha1.SandboxRestoreSource{SnapshotName: name}
		}
	})
}

// editSpec is an update, where the API takes it.
func (s *storm) editSpec(what string, change func(*v1alpha1.SandboxSpec)) {
	edited := s.stored.sandbox.DeepCopy()
	change(&edited.Spec)
	before, after := &lifecycle.Sandbox{}, &lifecycle.Sandbox{}
	s.convert(s.stored.sandbox, before)
	s.convert(edited, after)
	if errs := validation.ValidateSandboxUpdate(after, before, s.now); len(errs) > 0 {
		s.note("edit %s: %.100s", what, errs.ToAggregate())
		return
	}
	edited.Generation++
	s.store(edited)
	s.asked = true
	s.note("edit %s", what)
}

// makeBase is another sandbox's snapshot, which may have failed.
func (s *storm) makeBase() {
	if s.stored.snapshots["base"] != nil {
		return
	}
	phase := v1alpha1.SnapshotSucceed
	if s.chance(3) {
		phase = v1alpha1.SnapshotFailed
	}
	base := snapshotIn(phase, func(b *v1alpha1.SandboxSnapshot) {
		b.Name, b.UID, b.ResourceVersion = "base", s.uid("snapshot"), s.version()
		b.Spec = v1alpha1.SandboxSnapshotSpec{SandboxName: "other"}
		b.Status.SandboxUID, b.OwnerReferences = "other-uid", nil
		ofContainer("main", "r/b:t", "sha256:"+strings.Repeat("b", 64))(b)
	})
	s.stored.snapshots["base"] = base
	s.note("base is %s", phase)
}

func (s *storm) deletePod() {
	if s.stored.pod != nil && s.chance(3) {
		s.note("somebody deletes the Pod")
		s.terminate(nil)
	}
}

func (s *storm) losePod() {
	if s.stored.pod != nil && s.chance(6) {
		s.note("the node is lost")
		s.removePod()
	}
}

func (s *storm) evict() {
	if s.stored.pod != nil && s.runs && !s.killed && s.chance(4) {
		s.frozen = false
		s.changePod(func(p *corev1.Pod) { s.mainStatus(p); evictedPod(p) })
		s.note("evicted")
	}
}

// move is somebody who has heard that the Pod is to go.
func (s *storm) move() {
	pod := s.stored.pod
	if pod == nil {
		return
	}
	request := move.Request{PodUID: pod.UID, NodeName: "node-1", Reason: []string{v1alpha1.ReasonEvicted, v1alpha1.ReasonNodeDraining, v1alpha1.ReasonContainerEnded}[s.rand.IntN(3)]}
	answer := move.Decide(s.stored.sandbox, request)
	s.note("move for %s: %s", request.Reason, answer)
	if record, is := move.Next(s.stored.sandbox, request, s.now); is && answer == move.Moves {
		next := s.stored.sandbox.DeepCopy()
		next.Status.Move = record
		s.store(next)
	}
}

func (s *storm) editPolicy() {
	s.editSpec("policies", func(spec *v1alpha1.SandboxSpec) {
		spec.EvictionPolicy = []v1alpha1.SandboxEvictionPolicy{v1alpha1.EvictionPolicySave, v1alpha1.EvictionPolicySave, v1alpha1.EvictionPolicyNone}[s.rand.IntN(3)]
		spec.OnExit = []v1alpha1.SandboxExitPolicy{"", v1alpha1.ExitPolicyRestore, v1alpha1.ExitPolicyNone}[s.rand.IntN(3)]
	})
}

func (s *storm) restart() {
	if s.stored.pod == nil || s.stored.pod.Status.Phase != corev1.PodRunning || !s.runs || s.frozen || s.killed {
		return
	}
	s.losses++
	s.dead, s.deadFiles = bareID(s.mainStatus(s.stored.pod.DeepCopy()).ContainerID), s.files
	s.owed, s.files = max(s.owed, s.files), s.base
	s.changePod(restartedPod)
	s.note("restarted in place")
	if attempt := s.attempt(); attempt != nil && attempt.Status.Phase == v1alpha1.SnapshotCommitting {
		s.endCommit(attempt.Name, v1alpha1.ReasonContainerRestarted)
	}
}

func (s *storm) adopt() {
	if s.stored.pod != nil && adopter(s.stored.pod) == "" && s.chance(4) {
		s.changePod(takenBy("ReplicaSet", "web")) // it had lost its owner
		s.note("adopted")
	}
}

func (s *storm) deleteSnapshot() {
	for name, snapshot := range s.stored.snapshots {
		if snapshot.DeletionTimestamp == nil && s.chance(3) {
			s.changeSnapshot(name, func(a *v1alpha1.SandboxSnapshot) { a.DeletionTimestamp = &metav1.Time{Time: s.now} })
			s.note("somebody deletes %s", name)
			return
		}
	}
}

// What is stored.
