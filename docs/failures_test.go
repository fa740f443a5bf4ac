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

package docs

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// failureSteps are the steps that a pause, a resume and a rescue go through.
var failureSteps = []string{
	"before the Job", "Pod starting", "finding", "first pass", "frozen", "pushing", "result written", "Pod being removed", "Pod gone",
	"resuming", "pulling", "evicting", "rescuing",
}

// faults are what failures.md has to answer for, step by step.
var faults = []string{
	"killed at a write", "leader lost to the second replica", "a member of an external etcd lost", "etcd slow or gone", "kube-apiserver gone",
	"watches cut", "410 Gone", "two versions of the server",
	"SIGTERM", "SIGKILL", "out of memory", "deadline", "image missing", "evicted", "Job deleted by hand", "result missing",
	"result truncated or garbage", "Job gone by TTL while the server was down",
	"containerd restarted", "socket missing", "container ended", "container restarted in place", "Pod deleted gracefully", "Pod deleted by force",
	"Pod recreated under its name", "kubelet stopped", "node object deleted", "cordoned and drained", "disk full",
	"down", "1 KB/s", "500 in the middle of a layer", "reset", "token expired", "429 with Retry-After", "read-only", "quota of the registry",
	"immutable tag", "image deleted before the resume and back again",
	"sandbox deleted", "snapshot deleted", "namespace deleted", "resume asked for", "edited", "quota", "Pod Security", "a policy refuses the Job",
	"a policy refuses the resumed Pod", "a pull secret that is gone at the resume", "a template that no longer schedules",
}

// failureRow is a row of failures.md.
type failureRow struct{ fault, steps, outcome, tests string }

// TestFailuresPage: each fault has an outcome at each step, and each outcome a test that is there, or says why there is none.
func TestFailuresPage(t *testing.T) {
	page, err := os.ReadFile("failures.md")
	if err != nil {
		t.Fatal(err)
	}
	_, steps, _ := strings.Cut(string(page), "\n| step | from | to |\n")
	steps, _, _ = strings.Cut(steps, "\n\n")
	var listed []string
	for _, row := range cellsOf(steps, 3) {
		listed = append(listed, row[0])
	}
	if !slices.Equal(listed, failureSteps) {
		t.Errorf("the steps of the page are %q, want %q", listed, failureSteps)
	}

	tests := testsByFolder(t)
	of, order := map[string][]failureRow{}, []string(nil)
	for _, cells := range cellsOf(string(page), 4) {
		row := failureRow{cells[0], cells[1], cells[2], cells[3]}
		if row.fault == "fault" {
			continue
		}
		if of[row.fault] == nil {
			order = append(order, row.fault)
		}
		of[row.fault] = append(of[row.fault], row)
		row.check(t, tests)
	}
	if !slices.Equal(order, faults) {
		t.Errorf("the faults of the page are\n%q, want\n%q", order, faults)
	}
	for fault, rows := range of {
		covered := map[string]int{}
		for _, row := range rows {
			for _, step := range row.named() {
				covered[step]++
			}
		}
		if rows[len(rows)-1].steps == "others" {
			for _, step := range failureSteps {
				covered[step] = max(covered[step], 1)
			}
		}
		for _, step := range failureSteps {
			if covered[step] != 1 {
				t.Errorf("%s: %d rows are about the step %q, want one", fault, covered[step], step)
			}
		}
		for _, step := range slices.Sorted(maps.Keys(covered)) {
			if !slices.Contains(failureSteps, step) {
				t.Errorf("%s: %q is no step", fault, step)
			}
		}
	}
}

// named are the steps that the row names.
func (row failureRow) named() []string {
	switch row.steps {
	case "all":
		return failureSteps
	case "others":
		return nil
	}
	return strings.Split(row.steps, ", ")
}

// check looks for what the row names as its proof. After a slash come words that the test's file has.
func (row failureRow) check(t *testing.T, tests map[string]string) {
	t.Helper()
	where := row.fault + ", " + row.steps
	switch {
	case row.tests == "-" && strings.HasPrefix(row.outcome, "does not meet it"):
		return
	case strings.HasPrefix(row.tests, "not tested: "):
		return
	}
	named := regexp.MustCompile("`([a-z0-9]+\\.(?:Test|Fuzz)\\w+)(?:/([^`]+))?`").FindAllStringSubmatch(row.tests, -1)
	if len(named) == 0 {
		t.Errorf("%s: %q names no test, and does not say why", where, row.tests)
	}
	for _, match := range named {
		content, exists := tests[match[1]]
		if !exists {
			t.Errorf("%s: there is no %s", where, match[1])
		} else if !strings.Contains(content, match[2]) {
			t.Errorf("%s: %s says nothing of %q", where, match[1], match[2])
		}
	}
	if rest := strings.Trim(regexp.MustCompile("`[^`]*`").ReplaceAllString(row.tests, ""), ", "); rest != "" {
		t.Errorf("%s: among its tests there is %q", where, rest)
	}
}

// cellsOf are the rows of tables with so many columns.
func cellsOf(text string, columns int) (rows [][]string) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| ---") {
			continue
		}
		cells := strings.Split(strings.Trim(line, "| "), " | ")
		if len(cells) != columns {
			continue
		}
		rows = append(rows, cells)
	}
	return rows
}

// testsByFolder are the files of all tests, by the last part of their folder and their name.
func testsByFolder(t *testing.T) map[string]string {
	t.Helper()
	declared := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	found := map[string]string{}
	for _, top := range []string{"../pkg", "../test", "../artifacts", "../apis"} {
		err := filepath.WalkDir(top, func(path string, _ os.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, "_test.go") {
				return err
			}
			content, err := os.ReadFile(path)
			for _, match := range declared.FindAllStringSubmatch(string(content), -1) {
				// Two folders may end alike: what one of them has is there.
				found[filepath.Base(filepath.Dir(path))+"."+match[1]] += string(content)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return found
}
