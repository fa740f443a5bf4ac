//go:build e2e

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

package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// cycles is how often TestManyCyclesStaySmallAndLoseNothing pauses and resumes: often enough for
// layers to be merged, and fifty times in nights.
func cycles() int {
	if os.Getenv("NIGHTLY") != "" {
		return 50
	}
	return 9
}

// TestManyCyclesStaySmallAndLoseNothing changes the same live data in every cycle. Of the layers
// that this adds there are never more than eight, and neither the image nor the time of a resume
// grows with the number of cycles.
func TestManyCyclesStaySmallAndLoseNothing(t *testing.T) {
	t.Parallel()
	const mostLayers, growth = 8, 1.5
	r := newRoom(t)
	r.start("demo")
	// A file that is written whole each time, one that is made and one that is deleted; a directory
	// that becomes a file and back; hard links whose first name goes; attributes of a directory.
	const change = `set -e; n=%d
dd if=/dev/urandom of=/root/live bs=64k count=32 2>/dev/null
echo $n > /root/new.$n; rm -f /root/new.$((n-2)); rm -rf /root/dir.$((n-1)); mkdir -p /root/dir.$n/deep; echo $n > /root/dir.$n/deep/file
if [ -d /root/both ]; then rm -r /root/both; echo $n > /root/both; else rm -f /root/both; mkdir /root/both; echo $n > /root/both/in; fi
if [ $((n %% 3)) = 0 ]; then rm -rf /root/links; mkdir /root/links; echo $n > /root/links/a; ln /root/links/a /root/links/b; ln /root/links/a /root/links/c
elif [ $((n %% 3)) = 1 ]; then rm -f /root/links/a; else echo more >> /root/links/c 2>/dev/null || true; fi
chmod $((n %% 8))70 /root/links 2>/dev/null || true
[ $n != 1 ] || { rm /bin/vi; mkdir /root/once; echo once > /root/once/kept; }`

	size, took, layers := map[int]int64{}, map[int]time.Duration{}, map[int]int32{}
	merged := 0
	last := cycles()
	for n := 1; n <= last; n++ {
		r.sh("demo", fmt.Sprintf(change, n))
		before := ""
		if layers[n-1] >= 5 || n == last {
			before = r.sh("demo", inventory)
		}
		r.pause("demo")
		_, snapshot := r.awaitPaused("demo")
		saved := snapshot.Status.Containers[0]
		image := r.image(saved)
		if err := r.checkLayers(saved, image); err != nil {
			t.Errorf("cycle %d: %v", n, err)
		}
		// Without Fast it takes every layer for gzip.
		if err := validate.Image(image, validate.Fast); err != nil {
			t.Errorf("cycle %d: image %s is not valid: %v", n, saved.ImageURI, err)
		}
		manifest, err := image.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		for _, layer := range manifest.Layers[busyboxLayers:] {
			size[n] += layer.Size
		}
		layers[n] = saved.Layers
		if saved.Layers > mostLayers {
			t.Errorf("cycle %d: %d layers above the base's", n, saved.Layers)
		}
		if saved.Layers < layers[n-1] {
			merged++
		}
		began := time.Now()
		r.resume("demo")
		r.awaitReady("demo")
		took[n] = time.Since(began)
		if before == "" {
			continue
		}
		if after := r.sh("demo", inventory); after != before {
			t.Fatalf("cycle %d (%d layers after %d): the files differ from those before the pause:\n%s", n, layers[n], layers[n-1], difference(before, after))
		}
	}
	if got := r.sh("demo", "cat /root/once/kept; ls /bin/vi 2>/dev/null || true"); got != "once\n" {
		t.Errorf("of the first cycle there is %q", got)
	}
	if merged == 0 {
		t.Errorf("in %d cycles nothing was merged: layers %v", last, layers)
	}
	var line strings.Builder
	for n := 1; n <= last; n++ {
		fmt.Fprintf(&line, "\ncycle %2d: %d layers of ours, %8d bytes, resumed in %s", n, layers[n], size[n], took[n].Round(10*time.Millisecond))
	}
	t.Log(line.String())
	if float64(size[last]) > growth*float64(size[5]) {
		t.Errorf("after %d cycles our layers have %d bytes, after 5 %d", last, size[last], size[5])
	}
	// One resume alone may meet a busy machine.
	early, late := quickest(took, 3, 7), quickest(took, last-4, last)
	if last >= 50 && late.Seconds() > growth*early.Seconds() {
		t.Errorf("after %d cycles a resume takes %s, after 5 %s", last, late, early)
	}
}

// quickest is the best of the cycles from first to last.
func quickest(took map[int]time.Duration, first, last int) time.Duration {
	best := took[first]
	for n := first; n <= last; n++ {
		best = min(best, took[n])
	}
	return best
}
