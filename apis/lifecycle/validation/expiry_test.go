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

package validation

import (
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle"
)

const (
	doDelete = lifecycle.ExpireActionDelete
	doPause  = lifecycle.ExpireActionPause
)

// lifetime is when a sandbox expires, and what happens then.
type lifetime struct {
	at     time.Time // zero: never
	action lifecycle.SandboxExpireAction
}

func in(d time.Duration, action lifecycle.SandboxExpireAction) lifetime {
	return lifetime{now.Add(d), action}
}

func (l lifetime) of(sandbox *lifecycle.Sandbox) *lifecycle.Sandbox {
	sandbox.Spec.ExpireAction = l.action
	if !l.at.IsZero() {
		sandbox.Spec.ExpireTime = &metav1.Time{Time: l.at}
	}
	return sandbox
}

func TestLifetimesOnCreate(t *testing.T) {
	for name, test := range map[string]struct {
		lifetime lifetime
		want     []string // fields
	}{
		"none":                          {lifetime{}, nil},
		"an action for later":           {lifetime{action: doPause}, nil},
		"an hour":                       {in(time.Hour, doDelete), nil},
		"an hour, paused then":          {in(time.Hour, doPause), nil},
		"a second":                      {in(time.Second, doDelete), nil},
		"now":                           {in(0, doDelete), []string{"spec.expireTime"}},
		"an hour ago":                   {in(-time.Hour, doPause), []string{"spec.expireTime"}},
		"never since":                   {lifetime{time.Unix(0, 0), doDelete}, []string{"spec.expireTime"}},
		"the last time there is":        {lifetime{lastExpiry, doDelete}, nil},
		"one that nobody could read":    {lifetime{lastExpiry.Add(time.Second), doDelete}, []string{"spec.expireTime"}},
		"the last one, west of UTC":     {lifetime{time.Date(9999, 12, 31, 23, 0, 0, 0, time.FixedZone("", -12*3600)), doDelete}, []string{"spec.expireTime"}},
		"no such action":                {in(time.Hour, "Stop"), []string{"spec.expireAction"}},
		"no such action, in lower case": {lifetime{action: "pause"}, []string{"spec.expireAction"}},
		"no action":                     {in(time.Hour, ""), []string{"spec.expireAction"}},
		"both wrong":                    {in(-time.Hour, "Stop"), []string{"spec.expireTime", "spec.expireAction"}},
	} {
		t.Run(name, func(t *testing.T) {
			sandbox := test.lifetime.of(stored(func(s *lifecycle.Sandbox) { s.ResourceVersion = "" }))
			if got := fieldsOf(ValidateSandbox(sandbox, now)); !slices.Equal(got, test.want) {
				t.Errorf("refused for %q, want %q", got, test.want)
			}
		})
	}
}

func TestLifetimesOnUpdate(t *testing.T) {
	for name, test := range map[string]struct {
		old, next lifetime
		want      []string // fields
		deleting  []string // the same where the sandbox is being deleted
	}{
		"nothing":                              {in(time.Hour, doDelete), in(time.Hour, doDelete), nil, nil},
		"nothing of one that has expired":      {in(-time.Hour, doDelete), in(-time.Hour, doDelete), nil, nil},
		"longer":                               {in(time.Hour, doDelete), in(2*time.Hour, doDelete), nil, []string{"spec.expireTime"}},
		"shorter":                              {in(time.Hour, doDelete), in(time.Second, doDelete), nil, []string{"spec.expireTime"}},
		"in the last moment":                   {in(0, doDelete), in(time.Hour, doDelete), nil, []string{"spec.expireTime"}},
		"of one that was paused by it":         {in(-time.Hour, doPause), in(time.Hour, doPause), nil, []string{"spec.expireTime"}},
		"a first time":                         {lifetime{}, in(time.Hour, doDelete), nil, []string{"spec.expireTime"}},
		"never":                                {in(time.Hour, doDelete), lifetime{action: doDelete}, nil, []string{"spec.expireTime"}},
		"never, of one that has expired":       {in(-time.Hour, doPause), lifetime{action: doPause}, nil, []string{"spec.expireTime"}},
		"now":                                  {in(time.Hour, doDelete), in(0, doDelete), []string{"spec.expireTime"}, []string{"spec.expireTime"}},
		"the past":                             {in(time.Hour, doPause), in(-time.Second, doPause), []string{"spec.expireTime"}, []string{"spec.expireTime"}},
		"another past":                         {in(-time.Hour, doPause), in(-time.Second, doPause), []string{"spec.expireTime"}, []string{"spec.expireTime"}},
		"to be paused":                         {in(time.Hour, doDelete), in(time.Hour, doPause), nil, []string{"spec.expireAction"}},
		"to be paused, in the last moment":     {in(-time.Second, doDelete), in(-time.Second, doPause), nil, []string{"spec.expireAction"}},
		"to be deleted":                        {in(time.Hour, doPause), in(time.Hour, doDelete), nil, []string{"spec.expireAction"}},
		"to be deleted, though it has expired": {in(-time.Hour, doPause), in(-time.Hour, doDelete), []string{"spec.expireAction"}, []string{"spec.expireAction"}},
		"to be deleted, at another time":       {in(-time.Hour, doPause), in(time.Hour, doDelete), nil, []string{"spec.expireTime"}},
		"an action alone":                      {lifetime{}, lifetime{action: doPause}, nil, []string{"spec.expireAction"}},
		"a word of another version":            {in(time.Hour, "Archive"), in(2*time.Hour, "Archive"), nil, []string{"spec.expireTime"}},
		"another such word":                    {in(time.Hour, "Archive"), in(time.Hour, "Stop"), []string{"spec.expireAction"}, []string{"spec.expireAction", "spec.expireAction"}},
	} {
		t.Run(name, func(t *testing.T) {
			old, next := test.old.of(stored(nil)), test.next.of(stored(nil))
			if got := fieldsOf(ValidateSandboxUpdate(next, old, now)); !slices.Equal(got, test.want) {
				t.Errorf("refused for %q, want %q", got, test.want)
			}
			old.DeletionTimestamp, old.DeletionGracePeriodSeconds = &metav1.Time{Time: now}, new(int64)
			next.DeletionTimestamp, next.DeletionGracePeriodSeconds = old.DeletionTimestamp, old.DeletionGracePeriodSeconds
			if got := fieldsOf(ValidateSandboxUpdate(next, old, now)); !slices.Equal(got, test.deleting) {
				t.Errorf("being deleted it is refused for %q, want %q", got, test.deleting)
			}
		})
	}
}
