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

package sandboxes

import (
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway/httpapi"
)

// creationOf is the request without what is generated around it: a null, and a field that is left out, say the same.
func creationOf(req *httpapi.CreateSandboxRequest) *creation {
	c := &creation{
		SnapshotID:      req.SnapshotId.Or(""),
		TemplateID:      req.TemplateId.Or(""),
		Entrypoint:      req.Entrypoint.Or(nil),
		Limits:          req.ResourceLimits.Or(nil),
		Requests:        req.ResourceRequests.Or(nil),
		Env:             req.Env.Or(nil),
		Metadata:        req.Metadata.Or(nil),
		Extensions:      req.Extensions.Or(nil),
		SecureAccess:    req.SecureAccess.Or(false),
		CredentialProxy: req.CredentialProxy.Or(httpapi.CredentialProxy{}).Enabled.Or(false),
	}
	_, c.NetworkPolicy = req.NetworkPolicy.Get()
	if said, ok := req.Image.Get(); ok {
		c.Image = &image{URI: said.URI}
		if auth, ok := said.Auth.Get(); ok {
			c.Image.Private, c.Image.Username, c.Image.Password = true, auth.Username.Or(""), auth.Password.Or("")
		}
	}
	if timeout, ok := req.Timeout.Get(); ok {
		c.TimeoutSeconds = &timeout
	}
	if said, ok := req.Platform.Get(); ok {
		c.Platform = &platform{OS: string(said.Os), Arch: string(said.Arch)}
	}
	if hooks, ok := req.Lifecycle.Get(); ok {
		_, before := hooks.PreStart.Get()
		c.Hooks = before || len(hooks.Periodic.Or(nil)) > 0
	}
	for _, said := range req.Volumes.Or(nil) {
		c.Volumes = append(c.Volumes, volumeOf(&said))
	}
	return c
}

func volumeOf(said *httpapi.Volume) volume {
	v := volume{
		Name: said.Name, MountPath: said.MountPath, ReadOnly: said.ReadOnly.Or(false), SubPath: said.SubPath.Or(""),
		HostPath: said.Host.Or(httpapi.HostVolume{}).Path,
	}
	_, v.OSSFS = said.Ossfs.Get()
	if pvc, ok := said.Pvc.Get(); ok {
		v.Claim = &claim{
			Name: pvc.ClaimName, Create: pvc.CreateIfNotExists.Or(true), DeleteOnTermination: pvc.DeleteOnSandboxTermination.Or(false),
			Storage: pvc.Storage.Or(""), AccessModes: pvc.AccessModes.Or(nil),
		}
		if class, ok := pvc.StorageClass.Get(); ok {
			v.Claim.StorageClass = &class
		}
	}
	return v
}
