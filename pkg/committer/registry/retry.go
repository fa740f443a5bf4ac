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

package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"syscall"
	"time"
)

// A request is sent up to maxTries times, with these pauses between: they are few, for
// containers may be frozen, and whoever started us tries again later.
const (
	maxTries   = 3
	firstPause = 500 * time.Millisecond
	factor     = 3

	// A registry that says when to come again (Retry-After) is heard, up to these: while
	// something is frozen it has to go on or to be given up.
	maxPause         = 30 * time.Second
	maxPauseInAHurry = 2 * time.Second

	// silentTries is how often a request is sent that nobody answers: the second has a
	// connection of its own, and finds out whether it was the connection or the registry.
	silentTries = 2
)

// temporary are the answers after which the same request may well succeed in a moment.
var temporary = []int{
	http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
	http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
}

type hurryKey struct{}

// InAHurry returns a context for requests that frozen containers wait for, or a controller that
// has others to see to.
func InAHurry(ctx context.Context) context.Context {
	return context.WithValue(ctx, hurryKey{}, true)
}

func isHurried(ctx context.Context) bool { return ctx.Value(hurryKey{}) != nil }

// persistent sends requests again. It is the one place where that is done for whole requests;
// an upload that has broken off is begun anew by who makes its content.
type persistent struct{ inner http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (t persistent) RoundTrip(r *http.Request) (*http.Response, error) {
	for try := 1; ; try++ {
		answer, err := t.inner.RoundTrip(r)
		pause, again := nextTry(try, answer, err, isHurried(r.Context()))
		if !again || !repeatable(r) || !waitFor(r.Context(), pause) {
			return answer, err
		}
		repeated := *r
		if r.Body != nil && r.Body != http.NoBody {
			if repeated.Body, err = r.GetBody(); err != nil {
				return answer, err
			}
		}
		if answer != nil {
			_, _ = io.CopyN(io.Discard, answer.Body, 64<<10) // so that the connection can be used again
			_ = answer.Body.Close()
		}
		r = &repeated
	}
}

// repeatable is whether a request can be sent again and means the same then. A PATCH may have
// added to an upload.
func repeatable(r *http.Request) bool {
	return r.Method != http.MethodPatch && (r.Body == nil || r.Body == http.NoBody || r.GetBody != nil)
}

// nextTry says how long to wait before a request is sent again, if it is at all.
func nextTry(try int, answer *http.Response, err error, frozen bool) (time.Duration, bool) {
	pause := firstPause
	for range try - 1 {
		pause *= factor
	}
	var silent *silentError
	switch {
	case try >= maxTries:
		return 0, false
	case errors.As(err, &silent):
		return 0, try < silentTries
	case err != nil:
		return pause, passing(err)
	case !slices.Contains(temporary, answer.StatusCode):
		return 0, false
	}
	longest := maxPause
	if frozen {
		longest = maxPauseInAHurry
	}
	return min(max(pause, retryAfter(answer.Header)), longest), true
}

// retryAfter reads the header of that name, in seconds or as a date.
func retryAfter(header http.Header) time.Duration {
	value := header.Get("Retry-After")
	if seconds, err := strconv.Atoi(value); err == nil {
		return time.Duration(min(seconds, 3600)) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return time.Until(date)
	}
	return 0
}

// waitFor waits, unless that is for longer than the context lasts.
func waitFor(ctx context.Context, pause time.Duration) bool {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= pause {
		return false
	}
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// passing is whether a connection may well hold the next time. One that a person has to mend
// something for does not.
func passing(err error) bool {
	var (
		unknown    x509.UnknownAuthorityError
		hostname   x509.HostnameError
		invalid    x509.CertificateInvalidError
		notTLS     tls.RecordHeaderError
		lookup     *net.DNSError
		connection *connectionError
		timeout    net.Error
	)
	switch {
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return false
	case errors.As(err, &unknown), errors.As(err, &hostname), errors.As(err, &invalid), errors.As(err, &notTLS),
		errors.Is(err, http.ErrSchemeMismatch), errors.Is(err, ErrPlainHTTP),
		errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH):
		return false
	case errors.As(err, &lookup):
		return !lookup.IsNotFound
	case errors.As(err, &connection), errors.As(err, &timeout) && timeout.Timeout():
		return true
	}
	return slices.ContainsFunc([]error{io.EOF, io.ErrUnexpectedEOF, syscall.EPIPE, syscall.ECONNRESET, net.ErrClosed}, func(broken error) bool {
		return errors.Is(err, broken)
	})
}
