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

package committer

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/overlay"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/committer/result"
)

// placeVolumes finds where in the layer the volumes belong that the container's image declares.
func (c *commit) placeVolumes(p *part) error {
	if len(p.files.Volumes) == 0 {
		return nil
	}
	var declared []overlay.Volume
	for _, v := range p.files.Volumes {
		declared = append(declared, overlay.Volume{Path: v.Path, Dir: v.Dir, Owners: overlay.Owners{Users: ids(v.Users), Groups: ids(v.Groups)}})
	}
	placed, refused, err := overlay.Place(p.files.Upperdir, declared, p.readOptions())
	if err != nil {
		return result.Wrap(result.CommitJobFailed, err, "the volumes of the image of container %q cannot be placed: %s", p.Name, err)
	}
	for path, why := range refused {
		c.warn(result.Warning{Reason: result.MountNotKept, Container: p.Name, Path: path,
			Message: fmt.Sprintf("the volume %s of the image of container %q is not kept: %s", path, p.Name, why)})
	}
	for _, v := range placed {
		c.Log.Info("a volume of the image is committed as well", "container", p.Name, "path", "/"+v.Path)
	}
	p.volumes = placed
	return nil
}

// warnLeftOut tells of entries in volumes that a layer cannot hold.
func (c *commit) warnLeftOut(p *part, stats overlay.Stats) {
	if stats.LeftOut == 0 || p.leftOut {
		return
	}
	p.leftOut = true
	c.warn(result.Warning{Reason: result.MountNotKept, Container: p.Name, Path: stats.FirstLeftOut,
		Message: fmt.Sprintf("%d deletions of an overlay in a volume of container %q are not kept", stats.LeftOut, p.Name)})
}

// warnMounted tells of what a container has mounted itself: its processes saw files there that are in no layer.
func (c *commit) warnMounted(ctx context.Context, p *part) {
	mounted, err := p.container.Mounted(ctx)
	if err != nil {
		c.Log.Warn("it is not known what the container has mounted itself", "container", p.Name, "error", err)
	}
	for _, m := range mounted {
		c.warn(result.Warning{Reason: result.MountNotKept, Container: p.Name, Path: m.Path,
			Message: fmt.Sprintf("what container %q has mounted itself (%s) is not kept", p.Name, m.Type)})
	}
}

// uploadVolumes pushes the volumes as a layer of their own, where containerd has compared the
// rest: it does not look at them.
func (c *commit) uploadVolumes(ctx context.Context, p *part) error {
	if len(p.volumes) == 0 {
		return nil
	}
	c.doing = fmt.Sprintf("pushing the volumes of container %q to %s", p.Name, p.target)
	began := time.Now()
	options := p.readOptions()
	// What leads to the volumes is in the layer that containerd made, or below.
	options.Lowerdirs = nil
	var stats overlay.Stats
	l, err := upload(ctx, p, func(ctx context.Context, w io.Writer) (err error) {
		stats, err = overlay.WriteVolumes(ctx, w, options)
		return err
	})
	if err != nil {
		return err
	}
	return c.pushed(p, l, stats, began)
}
