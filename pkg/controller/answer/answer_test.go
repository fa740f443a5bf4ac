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

package answer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var pods = schema.GroupResource{Resource: "pods"}

// code is an answer of which only the code says something, as webhooks give them.
func code(n int32) error { return &apierrors.StatusError{ErrStatus: metav1.Status{Code: n}} }

func terminating() error {
	err := apierrors.NewForbidden(pods, "demo", errors.New("unable to create new content in namespace a because it is being terminated"))
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: corev1.NamespaceTerminatingCause})
	return err
}

func TestKinds(t *testing.T) {
	refused := &url.Error{Op: "Post", URL: "https://10.0.0.1/api/v1/namespaces/a/pods", Err: &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}}
	tests := map[string]struct {
		err            error
		kind, ofCreate Kind
	}{
		"none": {nil, Done, Done},

		"400 that the webhook dislikes":           {apierrors.NewBadRequest("no"), Final, Final},
		"402 of a webhook":                        {code(http.StatusPaymentRequired), Final, Final},
		"403 quota, policy, Pod Security, rights": {apierrors.NewForbidden(pods, "demo", errors.New("exceeded quota: small")), Final, Final},
		"403 the namespace is being deleted":      {terminating(), Final, Final},
		"404 the namespace is gone":               {apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "a"), Final, Final},
		"405 not served":                          {apierrors.NewMethodNotSupported(pods, "create"), Final, Final},
		"413 too large":                           {apierrors.NewRequestEntityTooLargeError("limit is 3145728"), Final, Final},
		"415":                                     {code(http.StatusUnsupportedMediaType), Final, Final},
		"418 of a webhook":                        {code(http.StatusTeapot), Final, Final},
		"422":                                     {apierrors.NewInvalid(schema.GroupKind{Kind: "Pod"}, "demo", field.ErrorList{field.Required(field.NewPath("spec"), "")}), Final, Final},
		"wrapped":                                 {fmt.Errorf("create Pod a/demo: %w", apierrors.NewForbidden(pods, "demo", nil)), Final, Final},
		"joined":                                  {errors.Join(errors.New("create"), apierrors.NewForbidden(pods, "demo", nil)), Final, Final},

		"401 a token that is being turned":    {apierrors.NewUnauthorized("who?"), Passing, Passing},
		"408":                                 {code(http.StatusRequestTimeout), Passing, Passing},
		"429":                                 {apierrors.NewTooManyRequests("later", 1), Passing, Passing},
		"500 a webhook that cannot be called": {apierrors.NewInternalError(errors.New(`failed calling webhook "x"`)), Passing, Passing},
		"502 of a proxy":                      {code(http.StatusBadGateway), Passing, Passing},
		"503":                                 {apierrors.NewServiceUnavailable("not yet"), Passing, Passing},
		"504":                                 {apierrors.NewTimeoutError("late", 1), Passing, Passing},
		"507":                                 {code(http.StatusInsufficientStorage), Passing, Passing},
		"an answer without a code":            {code(0), Passing, Passing},
		"connection refused":                  {fmt.Errorf("create Pod a/demo: %w", refused), Passing, Passing},
		"a connection that broke":             {&url.Error{Op: "Post", URL: "https://x", Err: io.ErrUnexpectedEOF}, Passing, Passing},
		"no answer in time":                   {fmt.Errorf("create: %w", context.DeadlineExceeded), Passing, Passing},

		"409 the name is taken":                {apierrors.NewAlreadyExists(pods, "demo"), Ours, Ours},
		"409 another writer, or a full quota":  {apierrors.NewConflict(pods, "demo", errors.New("changed")), Ours, Passing},
		"409 of a webhook":                     {code(http.StatusConflict), Ours, Passing},
		"410 an expired list":                  {apierrors.NewResourceExpired("too old"), Ours, Passing},
		"this process ends":                    {fmt.Errorf("create: %w", &url.Error{Op: "Post", URL: "https://x", Err: context.Canceled}), Ours, Ours},
		"this process ends while it was asked": {errors.Join(apierrors.NewTimeoutError("late", 1), context.Canceled), Ours, Ours},
	}
	for name, test := range tests {
		if got := Of(test.err); got != test.kind {
			t.Errorf("%s is %s, want %s", name, got, test.kind)
		}
		if got := OfCreate(test.err); got != test.ofCreate {
			t.Errorf("%s is %s of a create, want %s", name, got, test.ofCreate)
		}
	}
}

func TestNamespacesThatEnd(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		want bool
	}{
		"none":               {nil, false},
		"is being deleted":   {fmt.Errorf("create: %w", terminating()), true},
		"is gone":            {fmt.Errorf("create: %w", apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "a")), true},
		"the object is gone": {apierrors.NewNotFound(pods, "demo"), false},
		"a policy":           {apierrors.NewForbidden(pods, "demo", errors.New("no")), false},
	} {
		if got := NamespaceEnds(test.err); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestBackoff(t *testing.T) {
	want := []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 5 * time.Minute, 5 * time.Minute}
	for i := range want {
		if got := Backoff(int32(i + 1)); got != want[i] {
			t.Errorf("after %d failures %s, want %s", i+1, got, want[i])
		}
	}
	if got := Backoff(1 << 30); got != LastWait {
		t.Errorf("after very many failures %s", got)
	}
	if got := Backoff(0); got != FirstWait {
		t.Errorf("after none %s", got)
	}
}

func TestWaits(t *testing.T) {
	forbidden := apierrors.NewForbidden(pods, "demo", nil)
	for name, test := range map[string]struct {
		err         error
		failures    int32
		least, most time.Duration
	}{
		"final":                    {forbidden, 1, FirstWait, FirstWait},
		"final again":              {forbidden, 3, 40 * time.Second, 40 * time.Second},
		"passing":                  {apierrors.NewInternalError(errors.New("x")), 1, time.Second, 1200 * time.Millisecond},
		"passing for a while":      {apierrors.NewInternalError(errors.New("x")), 6, 32 * time.Second, 38400 * time.Millisecond},
		"passing for an hour":      {errors.New("connection refused"), 1 << 30, LastWait, LastWait},
		"as the API asks for":      {apierrors.NewTooManyRequests("x", 30), 1, 30 * time.Second, 36 * time.Second},
		"longer than it asks for":  {apierrors.NewTooManyRequests("x", 1), 5, 16 * time.Second, 19200 * time.Millisecond},
		"never as long as it asks": {apierrors.NewTooManyRequests("x", 86400), 1, LastWait, LastWait},
		"a quota that is counted":  {apierrors.NewConflict(pods, "demo", nil), 1, time.Second, 1200 * time.Millisecond},
		"none":                     {nil, 7, 0, 0},
	} {
		if got := Wait(test.err, test.failures); got < test.least || got > test.most {
			t.Errorf("%s: %s, want %s to %s", name, got, test.least, test.most)
		}
	}
}

func TestCut(t *testing.T) {
	for name, test := range map[string]struct {
		text  string
		begin string
		end   string
	}{
		"empty":                         {"", "", ""},
		"short":                         {"a 100% sentence", "a 100% sentence", "a 100% sentence"},
		"just fits":                     {"a" + strings.Repeat("x", MaxNote-2) + "b", "ax", "xb"},
		"one byte too long":             {"a" + strings.Repeat("x", MaxNote-1) + "b", "ax", "xb"},
		"152 kB":                        {"Pod is invalid: [" + strings.Repeat("x", 152_000) + "]: the next try follows", "Pod is invalid: [", ": the next try follows"},
		"of characters of two bytes":    {strings.Repeat("é", 50_000), "é", "é"},
		"shifted by one":                {"x" + strings.Repeat("é", 50_000), "xé", "é"},
		"of characters of four bytes":   {"xyz" + strings.Repeat("😀", 50_000) + "z", "xyz😀", "😀z"},
		"not valid":                     {"a\xff\xfeb", "a\uFFFDb", "b"},
		"not valid, and longer by that": {"a" + strings.Repeat("x\xff", MaxNote/2-1) + "b", "ax", "b"},
		"nothing valid":                 {strings.Repeat("\xff", 5000), "", ""},
		"as long as 152 kB not valid":   {"a" + strings.Repeat("\xff", 152_000) + "b", "a", "b"},
	} {
		for what, most := range map[string]int{"note": MaxNote, "condition": MaxCondition} {
			got := Cut(test.text, most)
			if len(got) > most || !utf8.ValidString(got) || !strings.HasPrefix(got, test.begin) || !strings.HasSuffix(got, test.end) {
				t.Errorf("%s, as %s: %d bytes, valid: %t: %.60q … %q", name, what, len(got), utf8.ValidString(got), got, got[max(0, len(got)-30):])
			}
			if utf8.ValidString(test.text) && len(test.text) <= most && got != test.text {
				t.Errorf("%s, as %s, was cut to %d of %d bytes", name, what, len(got), len(test.text))
			}
			if strings.Contains(name, "152 kB") && what == "note" && test.begin != "a" && len(got) < most-10 {
				t.Errorf("%s, as %s, has %d bytes only", name, what, len(got))
			}
		}
	}
	if Note(strings.Repeat("x", 5000)) != Cut(strings.Repeat("x", 5000), MaxNote) || len(Condition(strings.Repeat("x", 50_000))) > MaxCondition {
		t.Error("notes and conditions are cut otherwise")
	}
}

func TestReasons(t *testing.T) {
	for reason, taken := range map[string]bool{
		"RegistryUnavailable": true, "R": true, "OutOfcpu": true, "a_b:c": true,
		"": false, "two words": false, "Ends:": false, "1st": false, "Ünable": false, "a\nb": false, strings.Repeat("x", 129): false, strings.Repeat("x", 128): true,
	} {
		if got := Reason(reason, "Other"); (got == reason) != taken || got != reason && got != "Other" {
			t.Errorf("%q becomes %q", reason, got)
		}
		condition := metav1.Condition{Type: "Ready", Status: metav1.ConditionFalse, Reason: Reason(reason, "Other"), LastTransitionTime: metav1.Now()}
		if errs := validation.ValidateConditions([]metav1.Condition{condition}, field.NewPath("conditions")); len(errs) > 0 {
			t.Errorf("%q: %v", reason, errs)
		}
	}
}
