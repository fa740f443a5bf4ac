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
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// ErrPlainHTTP is what a request without TLS fails with.
var ErrPlainHTTP = errors.New("plain HTTP is refused")

// newTransport returns the transport for everything: registries, their token
// servers, and the blob stores that they redirect to.
func newTransport(o Options) (http.RoundTripper, error) {
	dialer := &net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}
	t := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           dialer.DialContext,
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       90 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ExpectContinueTimeout: time.Second,
		// Layers are large and compressed already.
		WriteBufferSize:    64 << 10,
		ReadBufferSize:     64 << 10,
		DisableCompression: true,
		TLSClientConfig:    &tls.Config{MinVersion: tls.VersionTLS12},
		// One connection carries many requests: that it is dead no single one of them finds out.
		HTTP2: &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: patience},
	}
	watched := patient{inner: t, patience: cmp.Or(o.Patience, patience)}
	if o.CAFile != "" || len(o.CA) > 0 {
		pool, err := trust(o)
		if err != nil {
			return nil, err
		}
		t.TLSClientConfig.RootCAs = pool
	}
	if o.Insecure {
		t.TLSClientConfig.InsecureSkipVerify = true
		return watched, nil
	}
	return secureTransport{sync.OnceValue(func() http.RoundTripper {
		if t.TLSClientConfig.RootCAs == nil {
			t.TLSClientConfig.RootCAs = publicRoots()
		}
		return watched
	})}, nil
}

// trust returns the public certificates and those of the options.
func trust(o Options) (*x509.CertPool, error) {
	pem, where := o.CA, ""
	if o.CAFile != "" {
		var err error
		if pem, err = os.ReadFile(o.CAFile); err != nil {
			return nil, result.Errorf(result.CommitJobFailed, "reading the registry's CA certificates: %w", err)
		}
		where = " file " + o.CAFile
	}
	pool := publicRoots().Clone()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, result.Errorf(result.CommitJobFailed, "the registry's CA%s holds no PEM certificate", where)
	}
	return pool, nil
}

// paced asks before each request whether its time has come.
type paced struct {
	inner http.RoundTripper
	pace  func(context.Context) error
}

func (t paced) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.pace != nil {
		if err := t.pace(r.Context()); err != nil {
			if r.Body != nil {
				_ = r.Body.Close() // as http.RoundTripper asks for
			}
			return nil, err
		}
	}
	return t.inner.RoundTrip(r)
}

// secureTransport sends nothing without TLS. go-containerregistry falls back
// to plain HTTP by itself for localhost and private addresses (name.Registry's
// Scheme and transport.Ping), redirects can lead there, and a registry's
// answers name the addresses of uploads: so the check is where every request
// passes.
type secureTransport struct {
	// inner makes the transport for what is sent.
	inner func() http.RoundTripper
}

func (t secureTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.URL.Scheme != "https" {
		if r.Body != nil {
			_ = r.Body.Close() // as http.RoundTripper asks for
		}
		return nil, fmt.Errorf("%w for %s without --registry-insecure", ErrPlainHTTP, r.URL.Host)
	}
	return t.inner().RoundTrip(r)
}
