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

package server

import (
	"crypto/tls"
	"fmt"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.uber.org/zap"
)

// etcdTLS is how the server speaks to a cluster with certificates; nil without.
func etcdTLS(certFile, keyFile, trustedCAFile string) (*tls.Config, error) {
	if certFile == "" && keyFile == "" && trustedCAFile == "" {
		return nil, nil
	}
	config, err := transport.TLSInfo{CertFile: certFile, KeyFile: keyFile, TrustedCAFile: trustedCAFile}.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("reading the certificates for etcd: %w", err)
	}
	return config, nil
}

// quiet is the logger of the etcd client, whose errors are returned to us anyway.
func quiet() *zap.Logger { return zap.NewNop() }
