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
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/commitjob"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/controller/naming"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/server/room"
)

// Complete fills in what follows from the rest.
func (o *Options) Complete() error {
	if o.Namespace == "" {
		o.Namespace = os.Getenv("POD_NAMESPACE")
	}
	if o.Controller.CommitJobNamespace == "" {
		o.Controller.CommitJobNamespace = o.Namespace
	}
	if o.Namespace == "" {
		o.Namespace = o.Controller.CommitJobNamespace
	}
	var err error
	if o.Controller.CommitProxy, err = commitjob.Proxy(os.Getenv); err != nil {
		return err
	}

	if o.Standalone != nil {
		// What needs a cluster is left out.
		if o.Standalone.Admission != nil {
			o.Standalone.Admission.options = o.Recommended.Admission
		}
		o.Recommended.Authentication, o.Recommended.Authorization = nil, nil
		o.Recommended.CoreAPI, o.Recommended.Admission = nil, nil
		o.Recommended.Features.EnablePriorityAndFairness = false
	} else if path := o.Recommended.CoreAPI.CoreAPIKubeconfigPath; path != "" {
		// One kubeconfig does for all three, unless somebody wants it otherwise.
		if o.Recommended.Authentication.RemoteKubeConfigFile == "" {
			o.Recommended.Authentication.RemoteKubeConfigFile = path
		}
		if o.Recommended.Authorization.RemoteKubeConfigFile == "" {
			o.Recommended.Authorization.RemoteKubeConfigFile = path
		}
	}

	if o.embedsEtcd() && o.DataDir != "" {
		dir, err := filepath.Abs(o.DataDir)
		if err != nil {
			return fmt.Errorf("--data-dir: %w", err)
		}
		o.DataDir = dir
	}
	return o.Run.Complete()
}

// embedsEtcd says whether the server brings its own etcd.
func (o *Options) embedsEtcd() bool {
	return len(o.Recommended.Etcd.StorageConfig.Transport.ServerList) == 0
}

// keepsCertificate says whether the server keeps its certificate in a Secret.
func (o *Options) keepsCertificate() bool {
	return o.Standalone == nil && o.ServingCertSecret != "" && o.Recommended.SecureServing.ServerCert.CertKey.CertFile == ""
}

// minThawAfter is what a pause needs to come from its commit to the removal of the Pod, twice: for half of
// the time is known that the node does not thaw it.
const minThawAfter = 10 * time.Second

// Validate returns all that is wrong with the options, in one line.
func (o *Options) Validate() error {
	var errs []error
	complain := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	c := &o.Controller
	if o.Standalone == nil && c.CommitJobNamespace == "" {
		complain("--commit-job-namespace must be set where POD_NAMESPACE is not: commit Jobs need a namespace")
	}
	if messages := validation.IsDNS1123Label(c.CommitJobNamespace); c.CommitJobNamespace != "" && len(messages) > 0 {
		complain("--commit-job-namespace %q: %s", c.CommitJobNamespace, messages[0])
	}
	for flag, name := range map[string]string{
		"--snapshot-registry-ca": c.SnapshotRegistryCA,
		"--snapshot-push-secret": c.SnapshotPushSecret,
		"--resume-pull-secret":   c.ResumePullSecret,
		"--serving-cert-secret":  o.ServingCertSecret,
	} {
		if messages := validation.IsDNS1123Subdomain(name); name != "" && len(messages) > 0 {
			complain("%s %q: %s", flag, name, messages[0])
		}
	}
	if c.LayerCompression != commitjob.Zstd && c.LayerCompression != commitjob.Gzip {
		complain("--layer-compression %q must be %s or %s", c.LayerCompression, commitjob.Zstd, commitjob.Gzip)
	}
	if _, err := naming.ParseImageTemplate(c.SnapshotRegistry, c.SnapshotImageTemplate); err != nil {
		errs = append(errs, err)
	}
	if err := naming.CheckBaseRepository(c.SnapshotBaseRepository); err != nil {
		errs = append(errs, err)
	}
	if c.CommitterImage == "" {
		complain("--image-committer-image must not be empty")
	}
	if c.CommitJobTimeout <= 0 {
		complain("--commit-job-timeout must be more than nothing, and is %s", c.CommitJobTimeout)
	}
	if c.MaxFrozen < 0 {
		complain("--max-frozen must not be negative, and is %s; 0 is what the probes of each Pod bear", c.MaxFrozen)
	}
	if c.ThawAfter < minThawAfter {
		complain("--thaw-after must be at least %s, and is %s: a pause that goes well would be thawed", minThawAfter, c.ThawAfter)
	}
	if c.MaxHoles.Sign() < 0 {
		complain("--max-holes must not be negative, and is %s; 0 is no limit", c.MaxHoles.String())
	}
	if c.ResumeCache.Sign() < 0 {
		complain("--resume-cache must not be negative, and is %s; 0 keeps nothing on the nodes", c.ResumeCache.String())
	}
	if c.ImageCheckInterval < 0 {
		complain("--image-check-interval must not be negative, and is %s; 0 ends the checks", c.ImageCheckInterval)
	}
	for flag, path := range map[string]string{
		"--containerd-socket-path": c.ContainerdSocketPath,
		"--containerd-root":        c.ContainerdRoot,
	} {
		if !filepath.IsAbs(path) {
			complain("%s must be an absolute path, and is %q", flag, path)
		}
	}
	for flag, value := range map[string]int{
		"--max-commits-per-node": c.MaxCommitsPerNode,
		"--max-commits":          c.MaxCommits,
		"--kube-api-burst":       o.KubeAPIBurst,
	} {
		if value < 1 {
			complain("%s must be at least 1, and is %d", flag, value)
		}
	}
	if o.KubeAPIQPS <= 0 {
		complain("--kube-api-qps must be more than 0, and is %v", o.KubeAPIQPS)
	}
	if quota := o.StoreQuota.Value(); quota != 0 && quota < room.MinQuota {
		complain("--store-quota must be at least %d bytes, and is %s; 0 is what the volume allows", room.MinQuota, o.StoreQuota.String())
	}
	if err := o.LeaderElection.validate(); err != nil {
		errs = append(errs, err)
	}
	if o.embedsEtcd() {
		errs = append(errs, validateDataDir(o.DataDir)...)
	} else {
		errs = append(errs, o.Recommended.Etcd.Validate()...)
	}

	errs = append(errs, o.Run.Validate()...)
	errs = append(errs, o.Recommended.SecureServing.Validate()...)
	errs = append(errs, o.Recommended.Authentication.Validate()...)
	errs = append(errs, o.Recommended.Authorization.Validate()...)
	errs = append(errs, o.Recommended.Audit.Validate()...)
	errs = append(errs, o.Recommended.Features.Validate()...)
	errs = append(errs, o.Recommended.CoreAPI.Validate()...)
	errs = append(errs, o.Recommended.Admission.Validate()...)
	errs = append(errs, o.Recommended.EgressSelector.Validate()...)
	errs = append(errs, o.Recommended.Traces.Validate()...)
	if len(errs) == 0 {
		return nil
	}
	var messages []string
	for _, err := range errs {
		messages = append(messages, err.Error())
	}
	slices.Sort(messages)
	return errors.New(strings.Join(slices.Compact(messages), "; "))
}
