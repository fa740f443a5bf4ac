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
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

func (t *Target) fault(doing string, err error) error {
	return t.client.fault(doing, t.tag.String(), err)
}

// fault gives a failure its reason and makes a sentence of it. What the registry says comes
// first: of a long message people see the beginning.
func (c *Client) fault(doing, image string, err error) error {
	if err == nil {
		return nil
	}
	var answer *transport.Error
	if !errors.As(err, &answer) {
		reason, advice := c.classify(err)
		return result.Wrap(reason, err, "%s %s: %s%s", doing, image, describe(err), advice)
	}
	m := meaningOf(answer)
	advice := m.advice
	switch {
	case len(c.keychain) > 0:
	case m.reason == result.PushSecretInvalid:
		advice = "there is no push secret with credentials"
	case answer.StatusCode == http.StatusForbidden:
		advice = "there is no push secret with credentials, or " + advice
	}
	return result.Wrap(m.reason, err, "%s (%s) %s %s; %s", words(answer), whose(answer, image), doing, image, advice)
}

// whose is who has answered what.
func whose(answer *transport.Error, image string) string {
	registry, _, _ := strings.Cut(image, "/")
	if answer.Request == nil {
		return fmt.Sprintf("status %d", answer.StatusCode)
	}
	if host := answer.Request.URL.Host; host != registry {
		return fmt.Sprintf("status %d of %s to a %s", answer.StatusCode, host, answer.Request.Method)
	}
	return fmt.Sprintf("status %d to a %s", answer.StatusCode, answer.Request.Method)
}

// classify finds the reason of a failure that is no answer, and what a person can do about it.
func (c *Client) classify(err error) (result.Reason, string) {
	var (
		unknown  x509.UnknownAuthorityError
		hostname x509.HostnameError
		invalid  x509.CertificateInvalidError
		notTLS   tls.RecordHeaderError
		lookup   *net.DNSError
		silent   *silentError
		broken   *connectionError
	)
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return result.CommitJobFailed, "" // the caller knows better why
	case errors.As(err, &unknown):
		return result.RegistryUnavailable, "; its CA can be given by --snapshot-registry-ca"
	case errors.As(err, &hostname), errors.As(err, &invalid):
		return result.RegistryUnavailable, "; its certificate has to be mended"
	case !c.insecure && (errors.As(err, &notTLS) || errors.Is(err, http.ErrSchemeMismatch) || errors.Is(err, ErrPlainHTTP)):
		return result.RegistryUnavailable, "; a registry without TLS has to be allowed by --snapshot-registry-insecure"
	case errors.Is(err, syscall.ECONNREFUSED), errors.As(err, &lookup) && lookup.IsNotFound:
		return result.RegistryUnavailable, "; it has to be reachable from a Pod: one that only nodes reach needs --commit-host-network"
	case errors.Is(err, errRewritten):
		return result.RegistryDenied, "; it has to keep manifests of OCI as they are"
	case errors.As(err, &silent), errors.As(err, &broken):
		return result.RegistryUnavailable, ""
	}
	return result.CommitJobFailed, ""
}

// maxDescription leaves room for the rest of a sentence in the 1024 bytes of an
// event's message.
const maxDescription = 600

// describe is the error's text without the query of its URL: addresses of
// uploads and of blob stores carry signatures there.
func describe(err error) string {
	text := strings.TrimSpace(err.Error())
	var failed *url.Error
	if errors.As(err, &failed) {
		if u, parseErr := url.Parse(failed.URL); parseErr == nil {
			u.RawQuery, u.Fragment, u.User = "", "", nil
			text = strings.ReplaceAll(text, failed.URL, u.String())
		}
	}
	text = strings.Join(strings.Fields(text), " ") // one line
	return shorten(text, maxDescription)
}
