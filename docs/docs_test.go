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

// Package docs holds the pages for people. Its test keeps them from naming what is not there.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"github.com/opensandbox-io/sandbox-apiserver/apis/lifecycle/contents"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/gateway"
	"github.com/opensandbox-io/sandbox-apiserver/pkg/metrics"
)

// TestPagesNameTestsThatExist looks for every test that a page names as its proof.
func TestPagesNameTestsThatExist(t *testing.T) {
	exists := map[string]bool{}
	declared := regexp.MustCompile(`(?m)^func (Test\w+)\(`)
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && strings.HasPrefix(entry.Name(), ".") && entry.Name() != ".." {
			return filepath.SkipDir // .git, the local cluster
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range declared.FindAllStringSubmatch(string(content), -1) {
			exists[match[1]] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	named := 0
	for _, page := range pages {
		content, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range regexp.MustCompile(`\bTest[A-Z]\w+`).FindAllString(string(content), -1) {
			named++
			if !exists[test] {
				t.Errorf("%s names %s, which does not exist", page, test)
			}
		}
	}
	if named < 10 {
		t.Errorf("the pages name %d tests", named)
	}
}

// TestCommandsReachOurs looks for commands that name sandboxes as another API does too: kubectl would ask that.
func TestCommandsReachOurs(t *testing.T) {
	shared := map[string]bool{"sandbox": true, "sandboxes": true, "sandboxsnapshot": true, "sandboxsnapshots": true}
	command := regexp.MustCompile("(?:kubectl|\"\\$\\{kubectl\\[@\\]\\}\")\\s([^`|;&#]*)")
	seen := 0
	look := func(path string) {
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range command.FindAllStringSubmatch(string(content), -1) {
			line, _, _ := strings.Cut(match[1], "\n")
			words := strings.Fields(line)
			// Prose speaks of "kubectl" and of "a sandbox": a command's resource follows its verb.
			if len(words) == 0 || strings.Contains(line, "--raw") || strings.Contains(line, "--subresource") && strings.Contains(line, "lifecycle.") {
				continue
			}
			seen++
			for i, word := range words {
				word = strings.TrimPrefix(word, "--for=")
				if strings.HasPrefix(word, "-") || i > 3 && !strings.Contains(word, "/") {
					continue
				}
				for _, resource := range strings.Split(strings.Trim(word, "`\"'().:"), ",") {
					resource, _, _ = strings.Cut(resource, "/")
					resource, _, _ = strings.Cut(resource, ".spec")
					if shared[resource] {
						t.Errorf("%s: kubectl %s: %q may be another API's: write sbx or sbxsnap", path, line, resource)
					}
				}
			}
		}
	}
	pages := []string{"../README.md", "../CONTRIBUTING.md"}
	for _, pattern := range []string{"*.md", "../hack/*.sh", "../artifacts/examples/*.yaml", "../artifacts/examples/*/*.go", "../artifacts/base/*.yaml", "../artifacts/*/*.txt"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	for _, page := range pages {
		look(page)
	}
	if seen < 40 {
		t.Errorf("%d commands were found", seen)
	}
}

// TestFilesPageListsWhatIsNotKept: warnings and the page come from one list.
func TestFilesPageListsWhatIsNotKept(t *testing.T) {
	page, err := os.ReadFile("files.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(page), "\n## Not kept\n")
	if at := strings.Index(section, "\n| "); at < 0 || !strings.HasPrefix(section[at+1:], contents.Table()+"\n") {
		t.Errorf("the table below \"Not kept\" of files.md has to be this one (apis/lifecycle/contents/lost.go):\n%s", contents.Table())
	}
}

// TestMonitoringPageListsAllMetrics: the list of the page is the code's, and neither the page nor an alert speaks of a
// metric that there is not.
func TestMonitoringPageListsAllMetrics(t *testing.T) {
	page, err := os.ReadFile("monitoring.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "\n"+metrics.Table()+"\n") {
		t.Errorf("monitoring.md has to have this list of metrics (pkg/metrics):\n%s", metrics.Table())
	}
	alerts, err := os.ReadFile("../artifacts/monitoring/alerts.yaml")
	if err != nil {
		t.Fatal(err)
	}
	there := metricsOfTheCode(t)
	for file, content := range map[string][]byte{"monitoring.md": page, "alerts.yaml": alerts} {
		for _, name := range regexp.MustCompile(`\bsandbox_[a-z_]+`).FindAllString(string(content), -1) {
			name = regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
			if !there[name] {
				t.Errorf("%s speaks of %s, which is no metric", file, name)
			}
		}
	}
	for name := range there {
		if !strings.Contains(string(page), "\n| `"+name+"` |") {
			t.Errorf("monitoring.md does not list %s", name)
		}
	}
	for _, match := range regexp.MustCompile(`(?m)^    - alert: (\w+)$`).FindAllStringSubmatch(string(alerts), -1) {
		if !strings.Contains(string(page), "\n| `"+match[1]+"` |") {
			t.Errorf("monitoring.md does not say what to do on %s", match[1])
		}
	}
}

// metricsOfTheCode are all that a package of the server gives a name to.
func metricsOfTheCode(t *testing.T) map[string]bool {
	named := regexp.MustCompile(`"(sandbox_[a-z_]+)"`)
	there := map[string]bool{}
	err := filepath.WalkDir("../pkg", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := os.ReadFile(path)
		for _, match := range named.FindAllStringSubmatch(string(content), -1) {
			there[match[1]] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	delete(there, "sandbox_bases") // a repository
	return there
}

// TestInstallPageListsTheGatewaysFlags: each with the default that it has.
func TestInstallPageListsTheGatewaysFlags(t *testing.T) {
	page, err := os.ReadFile("install.md")
	if err != nil {
		t.Fatal(err)
	}
	sections := gateway.NewOptions().Flags()
	for name, flags := range sections.FlagSets {
		if name == "logs" {
			continue
		}
		flags.VisitAll(func(f *pflag.Flag) {
			row := regexp.MustCompile("(?m)^\\| `--" + f.Name + "` \\| (.*?) \\|").FindStringSubmatch(string(page))
			switch {
			case row == nil:
				t.Errorf("install.md does not list --%s", f.Name)
			case f.DefValue != "" && f.DefValue != "[]" && row[1] != "`"+f.DefValue+"`":
				t.Errorf("install.md says that --%s is %s by default, and not `%s`", f.Name, row[1], f.DefValue)
			}
		})
	}
}

// TestLinksLead follows every link of a page to a file, and to a heading of it.
func TestLinksLead(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	followed := 0
	for _, page := range append(pages, "../README.md", "../CONTRIBUTING.md") {
		content, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range link.FindAllStringSubmatch(string(content), -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			followed++
			path, heading, named := strings.Cut(match[1], "#")
			target := filepath.Join(filepath.Dir(page), path)
			if path == "" {
				target = page
			}
			text, err := os.ReadFile(target)
			if info, statErr := os.Stat(target); statErr == nil && info.IsDir() && !named {
				continue
			}
			if err != nil {
				t.Errorf("%s: %s is not there", page, match[1])
			} else if named && !slices.Contains(headings(string(text)), heading) {
				t.Errorf("%s: there is no such heading as that of %s", page, match[1])
			}
		}
	}
	if followed < 40 {
		t.Errorf("%d links were found", followed)
	}
}

// headings are those of a page, as links name them.
func headings(page string) []string {
	var all []string
	for _, match := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile(`[^\p{L}\p{N} _-]`).ReplaceAllString(strings.ToLower(match[1]), "")
		all = append(all, strings.ReplaceAll(name, " ", "-"))
	}
	return all
}
